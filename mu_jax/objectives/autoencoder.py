"""A variational autoencoder of vectors, as pure functions of its parameters."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any
Array = jax.Array
Decoder = Literal["linear", "sigmoid"]

_LEAST = 1e-8


class Coded(NamedTuple):
    """What an autoencoder makes of vectors.

    Attributes:
      decoded: f[B, d]. mean, variance: of the code, f[B, z].
    """

    decoded: Array
    mean: Array
    variance: Array


def init(key: Array, size: int, latent: int, widths: Sequence[int] = (128, 32)) -> PyTree:
    """Parameters for vectors of a size: `size, *widths, latent` and back, uniform as in PyTorch.

    Args:
      key: a PRNG key. size: d of the vectors. latent: z of the code. widths: of hidden layers.

    Example:
      >>> params = init(jax.random.key(0), 5, 2, widths=(4,))
      >>> jax.tree.map(jnp.shape, params["mean"])
      {'bias': (2,), 'kernel': (4, 2)}
    """
    there = [size, *widths]
    back = [latent, *reversed(widths), size]
    pairs = [*itertools.pairwise(there), *[(there[-1], latent)] * 2, *itertools.pairwise(back)]
    layers = [_layer(jax.random.fold_in(key, number), *pair) for number, pair in enumerate(pairs)]
    count = len(widths)
    return {
        "encoder": layers[:count],
        "mean": layers[count],
        "log_variance": layers[count + 1],
        "decoder": layers[count + 2 :],
    }


def _layer(key: Array, inputs: int, outputs: int) -> dict[str, Array]:
    bound = 1 / math.sqrt(inputs)
    drawn = jax.random.uniform(key, (inputs + 1, outputs), minval=-bound, maxval=bound)
    return {"kernel": drawn[:-1], "bias": drawn[-1]}


def apply(params: PyTree, vectors: Array, noise: Array, decoder: Decoder = "linear") -> Coded:
    """Code and decode vectors, `z = mean + sqrt(variance) noise`.

    Args:
      params: see `init`. vectors: f[B, d]. noise: f[B, z], standard normal.
      decoder: `linear`, or `sigmoid`, which reaches numbers from 0 to 1 alone.
    """
    kind = params["mean"]["kernel"].dtype
    hidden = vectors.astype(kind)
    for layer in params["encoder"]:
        hidden = jax.nn.relu(_dense(layer, hidden))
    mean, log_variance = (_dense(params[name], hidden) for name in ("mean", "log_variance"))
    hidden = mean + jnp.exp(log_variance / 2) * noise.astype(kind)
    for layer in params["decoder"][:-1]:
        hidden = jax.nn.relu(_dense(layer, hidden))
    decoded = _dense(params["decoder"][-1], hidden)
    decoded = jax.nn.sigmoid(decoded) if decoder == "sigmoid" else decoded
    return Coded(decoded, mean, jnp.exp(log_variance))


def _dense(layer: dict[str, Array], x: Array) -> Array:
    return x @ layer["kernel"] + layer["bias"]


def squared_errors(coded: Coded, vectors: Array) -> Array:
    """`|decoded_i - v_i|^2`, f[B]."""
    return jnp.square(coded.decoded - vectors.astype(coded.decoded.dtype)).sum(1)


def divergences(coded: Coded) -> Array:
    """`-sum(log(variance + 1e-8) + 1 - mean^2 - variance) / 2`, f[B]."""
    terms = jnp.log(coded.variance + _LEAST) + 1 - jnp.square(coded.mean) - coded.variance
    return -terms.sum(1) / 2
