"""Convolution as slices and one matrix product, for processors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from mu_jax import _target as target

_NHWC = lax.conv_dimension_numbers((1,) * 4, (1,) * 4, ("NHWC", "HWIO", "NHWC"))
_PRODUCT_OPTIONS = ("precision", "preferred_element_type")


def patch_convolution(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    **options: Any,
) -> jax.Array:
    """Convolves through one matrix product; a drop-in for `jax.lax.conv_general_dilated`.

    Every window of the padded input becomes a row of kh * kw * C numbers (im2col), and the
    convolution is the product of those rows with the flattened kernel:

        y[n, h, w, o] = sum_{i, j, c} x[n, h*s + i, w*s + j, c] k[i, j, c, o]

    The rows are strided slices placed side by side, first along the width, then along the height.
    Derivatives of every order, forward and reverse, are those of slices and a matrix product. On a
    CPU this matters inside `lax.scan`, `map`, `while_loop` and `cond`, where XLA compiles the
    gradients of its own convolution to a slow loop, and under `jax.vmap` over kernels, which XLA
    turns into a grouped convolution.
    Because no grouped convolution arises, `jit(vmap(grad))` over a batch that is sharded by
    automatic partitioning is right as well, where XLA's own convolution is not.

    Whatever is not a plain two-dimensional convolution (groups, dilations, another rank or another
    order of axes, an output sharding) goes to `jax.lax.conv_general_dilated` unchanged.

    Args:
        lhs: inputs [N, H, W, C].
        rhs: kernel [kh, kw, C, O], same dtype as the inputs.
        window_strides: the two strides.
        padding: 'SAME', 'SAME_LOWER', 'VALID' or two pairs (low, high).
        lhs_dilation: dilation of the inputs; None or ones for the patch form.
        rhs_dilation: dilation of the kernel; None or ones for the patch form.
        dimension_numbers: order of the axes; the patch form takes ('NHWC', 'HWIO', 'NHWC').
        **options: the other arguments of `jax.lax.conv_general_dilated`, by keyword.

    Returns:
        The outputs [N, H', W', O].

    Cost:
        The multiplications of the convolution; memory kh * kw / stride^2 times the input.

    Example:
        >>> import flax.linen as nn, jax, jax.numpy as jnp
        >>> layer = nn.Conv(8, (3, 3), conv_general_dilated=patch_convolution)
        >>> run = jax.jit(layer.init_with_output)
        >>> outputs, _ = run(jax.random.key(0), jnp.ones((2, 6, 6, 3)))
        >>> outputs.shape
        (2, 6, 6, 8)

    Reference:
        K. Chellapilla, S. Puri, P. Simard, High Performance Convolutional Neural Networks for
        Document Processing, International Workshop on Frontiers in Handwriting Recognition, 2006.
    """
    dilations = (*(lhs_dilation or ()), *(rhs_dilation or ()))
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    others = [value for name, value in options.items() if name not in _PRODUCT_OPTIONS]
    if (
        numbers != _NHWC
        or lhs.dtype != rhs.dtype
        or any(size != 1 for size in dilations)
        or any(value not in (None, 1) for value in others)
    ):
        layout = (lhs_dilation, rhs_dilation, dimension_numbers)
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, *layout, **options)
    patches = _patches(lhs, rhs.shape[:2], window_strides, padding)
    product = jnp.matmul(
        # Matrices on purpose: a product that keeps the four axes has a slower gradient on a CPU.
        patches.reshape(-1, patches.shape[-1]),
        rhs.reshape(-1, rhs.shape[-1]),
        **{name: options[name] for name in _PRODUCT_OPTIONS if name in options},
    )
    return product.reshape(*patches.shape[:-1], rhs.shape[-1])


def convolution_by_backend(*args: Any, **kwargs: Any) -> jax.Array:
    """Calls `patch_convolution` on a CPU and `jax.lax.conv_general_dilated` on accelerators.

    Where a CPU computes the outputs of a single model, and nothing is differentiated, the latter is
    faster and compiles in a sixth of the time, so that it is called there, too.

    The choice follows the default backend when the model is traced. A program that is compiled on a
    CPU for another device is traced for that device, as `launch_tpu.preflight` does.

    Args:
        *args: positional arguments of `jax.lax.conv_general_dilated`.
        **kwargs: keyword arguments of `jax.lax.conv_general_dilated`.

    Returns:
        The outputs of the convolution.

    Example:
        >>> import flax.linen as nn
        >>> layer = nn.Conv(8, (3, 3), conv_general_dilated=convolution_by_backend)
    """
    if target.platform() != "cpu":
        return lax.conv_general_dilated(*args, **kwargs)
    if target.is_forward_only():
        return _forward_convolution(*args, **kwargs)
    return patch_convolution(*args, **kwargs)


def _forward_convolution(lhs: jax.Array, rhs: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """XLA's convolution, by patches where it is differentiated after all.

    JAX keeps what it has traced of a function under `jit` inside a model, so that a gradient may
    meet what was traced for a forward pass.
    """

    @jax.custom_jvp
    def convolve(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(lhs, rhs, *args, **kwargs)

    @convolve.defjvp
    def _derivative(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(lambda *ab: patch_convolution(*ab, *args, **kwargs), primals, tangents)

    return convolve(lhs, rhs)


def _patches(
    inputs: jax.Array,
    window: Sequence[int],
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
) -> jax.Array:
    """Returns every window of the inputs as a row: [N, H', W', kh * kw * C]."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(inputs.shape[1:3], window, strides, padding)
    borders = [(0, 0, 0), *((low, high, 0) for low, high in padding), (0, 0, 0)]
    padded = lax.pad(inputs, jnp.zeros((), inputs.dtype), borders)
    for axis in (2, 1):  # two short rows of slices compile in two thirds of the time of a long one
        padded = _windows(padded, axis, window[axis - 1], strides[axis - 1])
    return padded


def _windows(inputs: jax.Array, axis: int, taps: int, stride: int) -> jax.Array:
    """Every window of an axis, its taps side by side before the channels."""
    span = (inputs.shape[axis] - taps) // stride * stride + 1
    slices = [lax.slice_in_dim(inputs, tap, tap + span, stride, axis) for tap in range(taps)]
    return jnp.concatenate(slices, axis=-1)
