"""A decoder in a GGUF file: its tensors under the names and in the order of Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from mu_jax._gguf import GgufFile
from mu_jax.models.decoder._gguf_config import ROPE_FACTORS
from mu_jax.models.decoder.config import DecoderConfig

_OUTER = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_INNER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")
_PAIRED = re.compile(r"model\.layers\.\d+\.self_attn\.(q|k)_proj\.weight")


class GgufTensors:
    """The tensors of a decoder in a GGUF file, a `Source`.

    llama.cpp rotates neighbors, entries 2 k and 2 k + 1 of a head, where the checkpoints of Llama
    rotate entries k and k + head_dim / 2, so its files have the rows of queries and keys of Llama
    in another order, which is undone here: row `h D + e D / 2 + k` of a checkpoint is row
    `h D + 2 k + e` of the file, for head h of D rows and e of 0, 1. Qwen's are as they were.

    Attributes:
      where: the file.
      sizes: what says how large they are.
    """

    sizes = "its metadata"

    def __init__(self, file: GgufFile, config: DecoderConfig):
        self._file, self._config = file, config
        self._stored = {_checkpoint_name(name): name for name in file if name != ROPE_FACTORS}
        self._mixed = config.kind == "llama"
        self.where = file.path

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    def named(self, name: str) -> str:
        """What the file calls a tensor of a checkpoint."""
        return _gguf_name(name)

    def kind(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of a tensor."""
        return self._file.kind(self._stored[name])

    def read(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of a tensor, on the host; the rows that it needs are dequantized."""
        rows: Any = index[0] if index else slice(None)
        if self._mixed and _PAIRED.fullmatch(name):
            rows = self._order(name)[rows]
        found = self._file.rows(self._stored[name], rows)
        return found[(slice(None), *index[1:])]

    def _order(self, name: str) -> np.ndarray:
        (n, _), _ = self.kind(name)
        size = self._config.head_dim
        return np.arange(n).reshape(-1, size // 2, 2).swapaxes(1, 2).reshape(-1)


def _checkpoint_name(name: str) -> str:
    """The name in a checkpoint; of a tensor that no decoder has, its own."""
    inner = {gguf: own for own, gguf in _INNER.items()}
    outer = {gguf: own for own, gguf in _OUTER.items()}
    found = _BLOCK.fullmatch(name)
    if found and found[2] in inner:
        return f"model.layers.{found[1]}.{inner[found[2]]}.{found[3]}"
    stem, _, end = name.rpartition(".")
    return f"{outer[stem]}.{end}" if stem in outer else name


def _gguf_name(name: str) -> str:
    stem, _, end = name.rpartition(".")
    if stem in _OUTER:
        return f"{_OUTER[stem]}.{end}"
    found = re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem)
    return f"blk.{found[1]}.{_INNER[found[2]]}.{end}" if found and found[2] in _INNER else name
