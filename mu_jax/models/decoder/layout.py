"""The parameters of a decoder: their paths, shapes, starts, and names in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from mu_jax.models.decoder.config import DecoderConfig

PyTree = Any


class Leaf(NamedTuple):
    """A parameter outside the blocks, or one that every block has.

    Attributes:
      path: its path, inside the block if it is in one: `attention/query`.
      shape: its shape, without an axis of blocks; kernels are [in, out].
      tensor: its name in a checkpoint, `{}` standing for the number of the block.
      start: what it is before training.
    """

    path: str
    shape: tuple[int, ...]
    tensor: str
    start: Literal["normal", "ones", "zeros"] = "normal"

    @property
    def is_kernel(self) -> bool:
        """Whether it is multiplied from the right; a checkpoint keeps it transposed, [out, in]."""
        return len(self.shape) == 2 and self.path != "embedding"

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of its tensor in a checkpoint."""
        return self.shape[::-1] if self.is_kernel else self.shape


def outer_leaves(config: DecoderConfig) -> list[Leaf]:
    """The parameters outside the blocks."""
    table = (config.vocab_size, config.width)
    found = [
        Leaf("embedding", table, "model.embed_tokens.weight"),
        Leaf("norm", (config.width,), "model.norm.weight", "ones"),
    ]
    head = Leaf("head", table[::-1], "lm_head.weight")
    return found if config.tied_head else [*found, head]


def block_leaves(config: DecoderConfig) -> list[Leaf]:
    """The parameters of each block."""
    width, hidden = config.width, config.mlp_width
    queries, keys = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
    found = [
        Leaf("attention_norm", (width,), "input_layernorm.weight", "ones"),
        Leaf("attention/query", (width, queries), "self_attn.q_proj.weight"),
        Leaf("attention/key", (width, keys), "self_attn.k_proj.weight"),
        Leaf("attention/value", (width, keys), "self_attn.v_proj.weight"),
        Leaf("attention/out", (queries, width), "self_attn.o_proj.weight"),
        Leaf("mlp_norm", (width,), "post_attention_layernorm.weight", "ones"),
        Leaf("mlp/gate", (width, hidden), "mlp.gate_proj.weight"),
        Leaf("mlp/up", (width, hidden), "mlp.up_proj.weight"),
        Leaf("mlp/down", (hidden, width), "mlp.down_proj.weight"),
    ]
    if config.qkv_bias:
        found += [
            Leaf("attention/query_bias", (queries,), "self_attn.q_proj.bias", "zeros"),
            Leaf("attention/key_bias", (keys,), "self_attn.k_proj.bias", "zeros"),
            Leaf("attention/value_bias", (keys,), "self_attn.v_proj.bias", "zeros"),
        ]
    if config.qk_norm:
        found += [
            Leaf("attention/query_norm", (config.head_dim,), "self_attn.q_norm.weight", "ones"),
            Leaf("attention/key_norm", (config.head_dim,), "self_attn.k_norm.weight", "ones"),
        ]
    return [leaf._replace(tensor=f"model.layers.{{}}.{leaf.tensor}") for leaf in found]


_LINEAR = re.compile(
    r"(^|/)(blocks|block_\d+)/(attention/(query|key|value|out)|mlp/(gate|up|down))$"
)


def is_linear(name: str) -> bool:
    """Whether a parameter's name is that of a kernel in a block, [in, out] or stacked.

    Embeddings, head, norms and offsets are none: the choice of low-rank adapters.

    Example:
      >>> [is_linear(name) for name in ("block_3/mlp/down", "blocks/attention/key", "embedding")]
      [True, True, False]
    """
    return _LINEAR.search(name) is not None


def tensor_names(config: DecoderConfig) -> dict[str, Leaf]:
    """The leaf of every tensor that a checkpoint has, by name."""
    found = {leaf.tensor: leaf for leaf in outer_leaves(config)}
    for block in range(config.depth):
        found |= {leaf.tensor.format(block): leaf for leaf in block_leaves(config)}
    return found


def at(tree: PyTree, *path: str) -> Any:
    """What a nested dict has at a path, such as `at(params, "block_3", "mlp/down")`."""
    for name in "/".join(path).split("/"):
        tree = tree[name]
    return tree


def build(
    config: DecoderConfig,
    *,
    scan_layers: bool,
    one: Callable[[Leaf, int | None], Any],
    stacked: Callable[[Leaf], Any],
) -> PyTree:
    """A tree of parameters.

    Args:
      config: the decoder.
      scan_layers: whether the blocks are stacked under `blocks`, or `block_0`, `block_1`, ...
      one: makes an entry, given the leaf and the number of its block (None outside the blocks).
      stacked: makes the entry of all blocks together.
    """
    tree: dict = {}
    for leaf in outer_leaves(config):
        _put(tree, leaf.path, one(leaf, None))
    for leaf in block_leaves(config):
        if scan_layers:
            _put(tree, f"blocks/{leaf.path}", stacked(leaf))
        else:
            for block in range(config.depth):
                _put(tree, f"block_{block}/{leaf.path}", one(leaf, block))
    return tree


def _put(tree: dict, path: str, value: Any) -> None:
    *folders, name = path.split("/")
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = value
