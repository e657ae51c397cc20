"""The corruptions of ECO: pure functions of embeddings."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp

Array = jax.Array
Kind = Literal[
    "rand_noise_first_n",
    "rand_noise_rand_n",
    "rand_noise_top_k",
    "zero_out_first_n",
    "zero_out_top_k",
    "flip_sign_first_n",
    "flip_sign_top_k",
    "add_value_first_n",
    "add_value_top_k",
    "add_value_least_k",
    "sub_value_first_n",
    "sub_value_top_k",
    "sub_value_least_k",
    "reverse_order",
    "shuffle_order",
]
KINDS: tuple[str, ...] = get_args(Kind)


def corrupt(
    key: Array,
    embeddings: Array,
    token_mask: Array,
    strength: Array | float,
    kind: Kind,
    *,
    dims: Array | int = 1,
) -> Array:
    """Corrupted embeddings of chosen tokens. *Suppression, not removal.*

    | kind | a chosen token e becomes |
    |---|---|
    | `rand_noise_...` | `e + strength N(0, 1)` in some dimensions, independent for each token |
    | `zero_out_...`, `flip_sign_...` | 0 or `-e` there |
    | `add_value_...`, `sub_value_...` | `e + strength` or `e - strength` there |
    | `reverse_order` | the embedding of the chosen token at the mirrored place of its row |
    | `shuffle_order` | that of another chosen token of its row, at random |

    | dimensions | |
    |---|---|
    | `first_n` | 0 to `dims - 1` |
    | `top_k` | of each token, the `dims` of largest absolute value |
    | `top_k`, `least_k` of values | of each token, the `dims` of largest or smallest value |
    | `rand_n` | `dims` drawn ones, the same for all tokens |

    Args:
      key: a PRNG key; noise is drawn anew for every key.
      embeddings: [B, T, d].
      token_mask: [B, T], true or not 0 where a token is corrupted.
      strength: of noise and values, may be traced; 0 changes nothing there.
      kind: one of `KINDS`.
      dims: how many dimensions, may be traced; 1 in the scripts for noise, hundreds for zeros.

    Returns:
      [B, T, d]; what is not chosen keeps every bit.

    Raises:
      ValueError: an unknown kind, arrays of other shapes, more dimensions than there are.

    Differences from the reference program (`chrisliu298/llm-unlearn-eco`):
      1. Orders change among the chosen tokens alone; there every position moves, padding included.
      2. Noise is from a key, so that answers can be repeated.

    References:
      C. Y. Liu, Y. Wang, J. Flanigan, Y. Liu. Large Language Model Unlearning via
      Embedding-Corrupted Prompts. NeurIPS 2024.

    Example:
      >>> embeddings = jnp.array([[[1.0, -3.0, 2.0], [1.0, 2.0, 3.0]]])
      >>> corrupt(jax.random.key(0), embeddings, jnp.array([[1, 0]]), 0.0, "zero_out_top_k", dims=2)
      Array([[[1., 0., 0.],
              [1., 2., 3.]]], dtype=float32)
    """
    _check(embeddings, token_mask, kind, dims)
    chosen = jnp.asarray(token_mask) != 0
    if kind.endswith("order"):
        return _reordered(key, embeddings, chosen, kind)
    here = chosen[..., None] & _dimensions(key, embeddings, kind, dims)
    size = jnp.asarray(strength, embeddings.dtype)
    if kind.startswith("rand_noise"):
        own = jax.random.fold_in(key, 0)
        other = embeddings + size * jax.random.normal(own, embeddings.shape, embeddings.dtype)
    else:
        change = kind.split("_")[0]
        other = {
            "zero": jnp.zeros_like(embeddings),
            "flip": -embeddings,
            "add": embeddings + size,
            "sub": embeddings - size,
        }[change]
    return jnp.where(here, other, embeddings)


def _check(embeddings: Array, token_mask: Array, kind: str, dims: Array | int) -> None:
    if kind not in KINDS:
        raise ValueError(f"expected a kind among {', '.join(KINDS)}, found {kind!r}: choose one")
    if embeddings.ndim != 3 or jnp.shape(token_mask) != embeddings.shape[:2]:
        raise ValueError(
            f"expected embeddings [B, T, d] and a mask [B, T], found {embeddings.shape} and "
            f"{jnp.shape(token_mask)}: give one number for each token"
        )
    if isinstance(dims, int) and not 1 <= dims <= embeddings.shape[-1]:
        raise ValueError(
            f"expected dims from 1 to {embeddings.shape[-1]}, found {dims}: give how many of the "
            "dimensions of an embedding are changed"
        )


def _dimensions(key: Array, embeddings: Array, kind: str, dims: Array | int) -> Array:
    """Which dimensions are changed, bool[d] or bool[B, T, d]."""
    width = embeddings.shape[-1]
    if kind.endswith("first_n"):
        return jnp.arange(width) < dims
    if kind.endswith("rand_n"):
        return jax.random.permutation(jax.random.fold_in(key, 1), width) < dims
    sizes = embeddings if "value" in kind else jnp.abs(embeddings)
    sizes = -sizes if kind.endswith("top_k") else sizes
    rank = jnp.argsort(jnp.argsort(sizes, axis=-1, stable=True), axis=-1, stable=True)
    return rank < dims


def _reordered(key: Array, embeddings: Array, chosen: Array, kind: str) -> Array:
    """The chosen tokens of each row in reverse or at random, the others where they are."""
    length = chosen.shape[1]
    if kind == "reverse_order":
        rank = jnp.broadcast_to(-jnp.arange(length, dtype=jnp.float32), chosen.shape)
    else:
        rank = jax.random.uniform(key, chosen.shape)
    # The chosen come first, in their places and in the new order; the k-th place takes the k-th.
    places = jnp.argsort(jnp.where(chosen, 0, 1), axis=1, stable=True)
    order = jnp.argsort(jnp.where(chosen, rank, jnp.inf), axis=1, stable=True)
    count = chosen.sum(axis=1, keepdims=True)
    source = jnp.where(jnp.arange(length) < count, order, places)
    taken = jax.vmap(lambda to, what: jnp.zeros(length, to.dtype).at[to].set(what))(places, source)
    return jnp.take_along_axis(embeddings, taken[..., None], axis=1)
