"""Models and functions with kernels used in every way, for sums over per-example gradients."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SIZE = 7  # examples


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def integers(seed, low, high, *shape):
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.int32)


class MLP(nn.Module):
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(7, dtype=self.dtype)(x))
        return nn.Dense(3, dtype=self.dtype)(x)


class ConvNet(nn.Module):
    """Convolutions with SAME and VALID edges, strides, channels on their own; BatchNorm."""

    conv: Any = None

    @nn.compact
    def __call__(self, x):
        options = {"conv_general_dilated": self.conv} if self.conv else {}
        x = nn.Conv(4, (3, 3), use_bias=False, **options)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.Conv(4, (3, 2), strides=(2, 1), padding="VALID", **options)(x)
        if self.conv is None:
            x = nn.Conv(4, (3, 3), feature_group_count=4, use_bias=False)(nn.tanh(x))
        return nn.Dense(3)(nn.tanh(x).mean((1, 2)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))
        return nn.Dense(3)(x.mean(1))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(4)(x)), None


class ScannedLayers(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Layer, prevent_cse=False) if self.remat else Layer
        layers = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(3)(layers()(x, None)[0])


class LanguageModel(nn.Module):
    tied: bool = False

    @nn.compact
    def __call__(self, x):
        embed = nn.Embed(11, 4)
        x = nn.tanh(nn.Dense(4)(embed(x)))
        return embed.attend(x).mean(1)[:, :3] if self.tied else nn.Dense(3)(x.mean(1))


def im2col(lhs, rhs, window_strides, padding, **options):
    """A convolution as slices and one matrix product, as users write it for CPUs."""
    (kh, kw, _, out), (sh, sw) = rhs.shape, window_strides
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], (kh, kw), window_strides, padding)
    x = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    h, w = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
    cuts = [
        x[:, i : i + (h - 1) * sh + 1 : sh, j : j + (w - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    patches = jnp.concatenate(cuts, -1).reshape(len(x) * h * w, -1)
    return (patches @ rhs.reshape(-1, out)).reshape(len(x), h, w, out)


def recurrent(params, x):
    def step(h, x):
        return jnp.tanh(h @ params["hidden"] + x @ params["input"]), h

    steps = normal(3, 4, 1, 5) * x
    h, hs = lax.scan(step, jnp.zeros_like(x), steps, reverse=True)
    return h + hs.sum(0)


def stacked_recurrent(params, x):
    """A scan over steps around a scan over layers."""

    def layer(h, kernel):
        return jnp.tanh(h @ kernel), None

    def step(h, x):
        return lax.scan(layer, h + x, params["kernel"])

    return lax.scan(step, jnp.zeros_like(x), normal(3, 4, 1, 5) * x)[0]


@jax.custom_vjp
def clipped_product(x, kernel):
    """Its cotangent is not the true one: a rule that must be kept."""
    return x @ kernel


clipped_product.defvjp(
    lambda x, kernel: (x @ kernel, (x, kernel)),
    lambda saved, g: (jnp.clip(g @ saved[1].T, -0.1, 0.1), saved[0].T @ jnp.clip(g, -0.1, 0.1)),
)


@jax.custom_jvp
def straight_through(x):
    return jnp.round(x)


straight_through.defjvp(lambda x, t: (jnp.round(x[0]), t[0]))


def nhwc_convolution(x, kernel):
    numbers = "NHWC", "HWIO", "NHWC"
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=numbers)


def carried(params, x):
    """Kernels that a scan changes, or hands on, on the way."""

    def step(kernel, layer):
        return 0.9 * kernel, (x @ kernel, layer)

    _, (y, layers) = lax.scan(step, params["carried"], params["handed"])
    return y.sum(0) + x @ layers[0]


def standardized(kernel):
    return (kernel - kernel.mean(0)) / (kernel.std(0) + 0.1)


def experts(params, x):
    """Each row of an example goes to one of two experts, in groups of a size of its own."""

    def one(rows):
        second = rows[:, 0] > 0
        sizes = jnp.array([(~second).sum(), second.sum()], jnp.int32)
        return lax.ragged_dot(rows[jnp.argsort(second)], params["w"], sizes)

    return lax.map(one, x) if len(x) > 1 else one(x[0])[None]
