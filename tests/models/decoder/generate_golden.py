"""Log-probabilities of the five tiny architectures by transformers, for `tests/golden`.

    python tests/models/decoder/generate_golden.py

needs the extra `test-lm` (torch on the CPU is enough) and takes some seconds. The weights are those
of `checkpoints.py`, so the file holds numbers only: by architecture f32[2, 24, 61].
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
GOLDEN = HERE.parents[1] / "golden" / "decoder_log_probabilities.npz"


def log_probabilities(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """Of the checkpoint in a folder, by transformers, in float32 with plain attention."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(tokens).long()).logits
    return torch.log_softmax(logits.float(), dim=-1).numpy()


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    import checkpoints

    found = {}
    for name in checkpoints.NAMES:
        with tempfile.TemporaryDirectory() as folder:
            checkpoints.write(Path(folder), name)
            found[name] = log_probabilities(Path(folder), checkpoints.rows())
    np.savez_compressed(GOLDEN, **found)
