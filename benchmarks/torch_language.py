"""NPO with a live reference in PyTorch, as it is usually run; skipped when torch is missing.

A step is what the formulas ask for when the reference model runs beside the trained one: the
trained model and the reference read the rows to forget, the trained model reads as many retained
rows, and AdamW takes a step on

    -(2 / beta) mean log sigmoid(beta (L - L_ref)) + mean loss of retained tokens.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import mu_jax as mu
from mu_jax.models import Decoder, decoder

try:
    import torch
    import transformers
    from torch.nn import functional
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True


def npo_steps(
    model: Decoder,
    variables: Any,
    forget: mu.Batches,
    retain: mu.Batches,
    *,
    threads: int,
    beta: float = 0.1,
) -> Callable[[], Any]:
    """One pass over the rows to forget, on the same decoder in transformers.

    Args:
      model, variables: the decoder. forget, retain: rows of equally many batches.
      threads: of the computation; on a busy machine one may be faster than all.
      beta: inverse temperature.
    """
    with tempfile.TemporaryDirectory() as folder:
        written = decoder.write_decoder(Path(folder) / "decoder", model, variables)
        policy = transformers.AutoModelForCausalLM.from_pretrained(written)
    reference = copy.deepcopy(policy).eval()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-5)
    rows = [_batches(each) for each in (forget, retain)]

    def run() -> Any:
        torch.set_num_threads(threads)
        for to_forget, to_keep in zip(*rows, strict=True):
            with torch.no_grad():
                before = _losses(reference, to_forget).sum(-1)
            now = _losses(policy, to_forget).sum(-1)
            ascent = -2 / beta * functional.logsigmoid(beta * (now - before)).mean()
            optimizer.zero_grad()
            (ascent + _losses(policy, to_keep).mean()).backward()
            optimizer.step()
        return next(policy.parameters()).detach().sum().item()

    return run


def _losses(model: Any, tokens: Any) -> Any:
    """The loss of every token behind the first, [B, T - 1]."""
    logits = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).logits[:, :-1]
    each = functional.cross_entropy(
        logits.float().flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    return each.view(len(tokens), -1)


def _batches(data: mu.Batches) -> Any:
    tokens = np.asarray(data.inputs).astype(np.int64)
    return torch.from_numpy(tokens).split(data.batch_size)
