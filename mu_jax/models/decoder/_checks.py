"""Refusals: parameters of another form, rows and tokens that the model cannot read."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.data.tokens import Tokens

PyTree = Any


def checked(decoder: Any, params: PyTree, tokens: Tokens | jax.Array) -> Tokens:
    """Rows of tokens as `Tokens`, after what can be seen of them and of the parameters."""
    check_params(decoder, params)
    tokens = as_tokens(tokens)
    check_rows(decoder.config, tokens)
    return tokens


def as_tokens(tokens: Any) -> Tokens:
    """`Tokens`; of an array [B, T], one document a row."""
    if not isinstance(tokens, Tokens):
        ids = jnp.asarray(tokens)
        position = jnp.broadcast_to(jnp.arange(ids.shape[-1], dtype=jnp.int32), ids.shape)
        tokens = Tokens(ids, position, jnp.ones_like(position))
    shapes = {jnp.shape(x) for x in tokens}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            "expected tokens, position and segment of one shape [B, T], found "
            f"{', '.join(str(jnp.shape(x)) for x in tokens)}"
        )
    for name, x in zip(tokens._fields, tokens):
        if not jnp.issubdtype(x.dtype, jnp.integer):
            raise ValueError(f"expected {name} of whole numbers, found {x.dtype}")
    # A narrow type may not hold the size of the vocabulary.
    return Tokens(*(jnp.asarray(x).astype(jnp.int32) for x in tokens))


def check_params(decoder: Any, params: PyTree) -> None:
    """Refuse parameters that are not a tree of this decoder's form."""
    wanted = "blocks" if decoder.scan_layers else "block_0"
    if not isinstance(params, dict):
        raise TypeError(
            f"expected the decoder's parameters, a dict, found {type(params).__name__}: pass "
            "variables.params"
        )
    if wanted not in params:
        here = f"scan_layers={decoder.scan_layers}"
        raise ValueError(
            f"expected the parameters of a decoder with {here}, found {', '.join(params)[:60]}: "
            "convert them by stack_blocks or unstack_blocks"
        )


def check_rows(config: Any, tokens: Tokens) -> None:
    """Refuse rows longer than the model and, where visible, ids and positions beyond it."""
    length = tokens.tokens.shape[1]
    if length > config.max_positions:
        raise ValueError(
            f"expected rows of at most {config.max_positions} tokens, found {length}: cut them, or "
            "pack fewer documents into a row"
        )
    if not all(map(is_visible, tokens)):
        return
    ids, position, segment = map(np.asarray, tokens)
    for name, values, most, hint in (
        ("tokens", ids, config.vocab_size, "use this model's tokenizer"),
        ("positions", position, config.max_positions, "count from the start of each document"),
    ):
        bad = (segment != 0) & ((values < 0) | (values >= most))
        if bad.any():
            row, column = (int(k) for k in np.argwhere(bad)[0])
            raise ValueError(
                f"expected {name} from 0 to {most - 1}, found {values[row, column]} in row {row}, "
                f"column {column}: {hint}"
            )


def is_visible(x: Any) -> bool:
    """Whether the numbers of an array can be looked at."""
    return not isinstance(x, jax.core.Tracer) and getattr(x, "is_fully_addressable", True)
