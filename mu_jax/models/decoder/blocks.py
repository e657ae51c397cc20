"""One block of a decoder, and the rotations of its queries and keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.models.decoder.config import DecoderConfig

Array = jax.Array
Params = dict[str, Any]


class Rotation(NamedTuple):
    """Cosines and sines f32[B, T, head_dim / 2] of the angles by which heads are rotated."""

    cos: Array
    sin: Array


class Sight(NamedTuple):
    """Which keys each query sees, bool[B, T, S]: in most layers, and in those with a window."""

    full: Array
    windowed: Array | None


def frequencies(config: DecoderConfig) -> np.ndarray:
    """Rotary frequencies f32[head_dim / 2], `theta^(-2 k / head_dim)`, stretched as `RopeScaling`.

    In float32, step by step, as the models were trained with them.
    """
    power = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    found = np.float32(1) / np.float32(config.rope_theta) ** power
    scaling = config.rope_scaling
    if scaling is None:
        return found
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    turns = scaling.original_max_positions * found / np.float32(2 * math.pi)
    share = np.clip((turns - low) / (high - low), 0, 1)
    return ((1 - share) * found / scaling.factor + share * found).astype(np.float32)


def rotation(config: DecoderConfig, position: Array) -> Rotation:
    """The rotation of every token, by its position i32[B, T]."""
    angles = position[..., None].astype(jnp.float32) * frequencies(config)
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def sight(config: DecoderConfig, query: tuple[Array, Array], key: tuple[Array, Array]) -> Sight:
    """A token sees tokens of its own segment at its own and earlier positions.

    Args:
      query, key: `(segment, position)`, i32[B, T] and i32[B, S].
    """
    gap = query[1][:, :, None] - key[1][:, None]
    full = (query[0][:, :, None] == key[0][:, None]) & (gap >= 0)
    if config.sliding_window is None:
        return Sight(full, None)
    return Sight(full, full & (gap < config.sliding_window))


def rms_norm(x: Array, scale: Array, eps: float) -> Array:
    """`scale * x / sqrt(mean(x^2) + eps)`, in float32 at least."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    wide = wide * jax.lax.rsqrt(jnp.square(wide).mean(axis=-1, keepdims=True) + eps)
    return wide.astype(x.dtype) * scale.astype(x.dtype)


Remember = Callable[[Array, Array], tuple[Array, Array]]


def block(
    config: DecoderConfig,
    params: Params,
    x: Array,
    turn: Rotation,
    seen: Array,
    remember: Remember = lambda key, value: (key, value),
) -> Array:
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`; [B, T, d] to [B, T, d].

    Args:
      config: the decoder.
      params: of this block.
      x: [B, T, d].
      turn: rotations of the tokens.
      seen: bool[B, T, S].
      remember: from keys and values [B, T, K, H] of these tokens to those that they attend to,
        [B, S, K, H].
    """
    y = rms_norm(x, params["attention_norm"], config.norm_eps)
    x = x + _attention(config, params["attention"], y, turn, seen, remember)
    y = rms_norm(x, params["mlp_norm"], config.norm_eps)
    return x + _mlp(params["mlp"], y)


def _mlp(params: Params, x: Array) -> Array:
    """`(silu(x gate) * (x up)) down`."""
    return _product(
        jax.nn.silu(_product(x, params["gate"])) * _product(x, params["up"]), params["down"]
    )


def _attention(
    config: DecoderConfig, params: Params, x: Array, turn: Rotation, seen: Array, remember: Remember
) -> Array:
    """Grouped-query attention, softmax(q k / sqrt(head_dim)) v, the softmax in float32 at least."""
    query, key, value = (_heads(config, params, x, name) for name in ("query", "key", "value"))
    key, value = remember(_rotated(key, turn), value)
    query = _rotated(query, turn)
    query = query.reshape(*query.shape[:2], config.num_kv_heads, -1, config.head_dim)
    scores = jnp.einsum("btkgh,bskh->bkgts", query, key) * config.head_dim**-0.5
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    scores = jnp.where(seen[:, None, None], scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores).astype(value.dtype)
    found = jnp.einsum("bkgts,bskh->btkgh", weights, value)
    return _product(found.reshape(*x.shape[:2], -1), params["out"])


def _heads(config: DecoderConfig, params: Params, x: Array, name: str) -> Array:
    """Queries, keys or values [B, T, heads, head_dim], before they are rotated."""
    found = _product(x, params[name])
    if f"{name}_bias" in params:
        found = found + params[f"{name}_bias"].astype(found.dtype)
    found = found.reshape(*x.shape[:2], -1, config.head_dim)
    if f"{name}_norm" in params:
        found = rms_norm(found, params[f"{name}_norm"], config.norm_eps)
    return found


def _rotated(x: Array, turn: Rotation) -> Array:
    """Heads [B, T, n, H] with entries k and k + H / 2 rotated as a pair."""
    cos, sin = (part[:, :, None].astype(x.dtype) for part in turn)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _product(x: Array, kernel: Array) -> Array:
    return x @ kernel.astype(x.dtype)
