"""Equations that are linear in a kernel, as matrix products.

A matrix product, a convolution and a lookup of rows all are `y[n] = a[n] @ kernel[n]` for
a[n, t, i], kernel[n, i, o] and y[n, t, o]: t runs over positions (tokens, pixels), n over kernels
side by side (batch axes, groups of channels). A lookup's a is one-hot and kept as row numbers,
a[1, t, 1]. With d[n, t, o] the gradient of y, the gradient of the kernel is `a[n].T @ d[n]`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
Equation = Any  # a jax.extend.core.JaxprEqn; its variables are annotated as less than arrays
Shape = tuple[int, ...]
Steps = tuple[tuple[Callable, Shape], ...]  # functions of (array, argument), first to last


def replay(steps: Steps, x: Array) -> Array:
    """Apply the steps one after another."""
    for function, argument in steps:
        x = function(x, argument)
    return x


def sort_axes(order: Iterable[int], lead: Shape = ()) -> Steps:
    """Return the step that sorts the axes of x[*lead, ...] that lie in `order` behind `lead`."""
    first = len(lead)
    return ((jnp.transpose, (*range(first), *(first + int(k) for k in np.argsort(list(order))))),)


def bilinear_form(equation: Equation, operand: int) -> Dot | Convolution | Lookup | None:
    """Return the matrix form of an equation in which the operand is the kernel, if it has one."""
    name = equation.primitive.name
    if name == "dot_general":
        return Dot.of(equation, operand)
    if name == "conv_general_dilated" and operand == 1:
        return Convolution.of(equation)
    if name == "gather" and operand == 0:
        return Lookup.of(equation)
    return None


class Dot(NamedTuple):
    """A `dot_general`."""

    kernel: Shape
    kernel_axes: tuple[Shape, Shape, Shape]  # of n, i, o
    input_axes: tuple[Shape, Shape, Shape]  # of n, t, i
    other: int  # which operand the kernel is not

    @classmethod
    def of(cls, equation: Equation, operand: int) -> Dot:
        """Read an equation whose kernel is the given operand."""

        def axes(side: int) -> tuple[Shape, Shape, Shape]:
            contracted, batch = (tuple(a[side]) for a in equation.params["dimension_numbers"])
            ndim = equation.invars[side].aval.ndim
            return batch, tuple(a for a in range(ndim) if a not in batch + contracted), contracted

        batch, free, contracted = axes(operand)
        kernel = equation.invars[operand].aval.shape
        return cls(kernel, (batch, contracted, free), axes(1 - operand), 1 - operand)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The sizes n, i, o."""
        n, i, o = (math.prod(self.kernel[axis] for axis in axes) for axes in self.kernel_axes)
        return n, i, o

    def back(self, lead: Shape) -> Steps:
        """Return the steps from x[*lead, n, i, o] to the layout of the operand."""
        order = sum(self.kernel_axes, ())
        spread = (*lead, *(self.kernel[axis] for axis in order))
        return ((jnp.reshape, spread), *sort_axes(order, lead))

    def sides(self, n_lead: int) -> str:
        """Return to which of n, i, o each axis belongs that the first step of `back` makes."""
        n, i, o = map(len, self.kernel_axes)
        return "n" * (n_lead + n) + "i" * i + "o" * o

    def inputs(self, x: Array) -> Array:
        """Return a[n, t, i] for the other operand."""
        n, i, _ = self.shape
        return x.transpose(sum(self.input_axes, ())).reshape(n, -1, i)

    def outputs(self, y: Array) -> Array:
        """Return y[n, t, o] for the result."""
        n, _, o = self.shape
        return y.reshape(n, o, -1).swapaxes(1, 2) if self.other else y.reshape(n, -1, o)


class Convolution(NamedTuple):
    """A `conv_general_dilated` over any spatial axes, with strides, dilations and groups."""

    kernel: Shape  # spatial axes, channels in, channels out
    result: Shape  # batch, spatial axes, channels
    parameters: dict[str, Any]
    other: int = 0

    @classmethod
    def of(cls, equation: Equation) -> Convolution | None:
        """Read an equation; None for the transpose rule's own kind, with groups of examples."""
        if equation.params["batch_group_count"] != 1:
            return None
        _, rhs, out = equation.params["dimension_numbers"]
        kernel, result = equation.invars[1].aval.shape, equation.outvars[0].aval.shape
        return cls(
            tuple(kernel[axis] for axis in (*rhs[2:], rhs[1], rhs[0])),
            tuple(result[axis] for axis in (out[0], *out[2:], out[1])),
            equation.params,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """The sizes n, i, o."""
        groups = self.parameters["feature_group_count"]
        return groups, math.prod(self.kernel[:-1]), self.kernel[-1] // groups

    def back(self, lead: Shape) -> Steps:
        """Return the steps from x[*lead, n, i, o] to the layout of the operand."""
        n, i, o = self.shape
        rhs = self.parameters["dimension_numbers"].rhs_spec
        return (
            (jnp.reshape, (*lead, n, i, o)),
            *sort_axes((1, 0, 2), lead),
            (jnp.reshape, (*lead, *self.kernel)),
            *sort_axes((*rhs[2:], rhs[1], rhs[0]), lead),
        )

    def sides(self, n_lead: int) -> str:
        """Return to which of n, i, o each axis belongs that the first step of `back` makes."""
        return "n" * (n_lead + 1) + "io"

    def inputs(self, x: Array) -> Array:
        """Return a[n, t, i], the patches under the kernel.

        They are cut by slices along one axis after another: `conv_general_dilated_patches` is
        itself a convolution, several times slower on a CPU.
        """
        parameters, n_spatial = self.parameters, len(self.kernel) - 2
        lhs = parameters["dimension_numbers"].lhs_spec
        x = x.transpose(lhs[0], *lhs[2:], lhs[1])
        sides = zip(parameters["padding"], parameters["lhs_dilation"])
        edges = [(0, 0, 0), *((low, high, step - 1) for (low, high), step in sides), (0, 0, 0)]
        x = lax.pad(x, jnp.zeros((), x.dtype), edges)
        for axis in reversed(range(n_spatial)):
            stride, step = parameters["window_strides"][axis], parameters["rhs_dilation"][axis]
            reach = x.shape[axis + 1] - (self.kernel[axis] - 1) * step
            starts = [k * step for k in range(self.kernel[axis])]
            cuts = [lax.slice_in_dim(x, k, k + reach, stride, axis + 1) for k in starts]
            x = jnp.stack(cuts, n_spatial + 1)
        (n, i, _), channels = self.shape, self.kernel[-2]
        x = x.reshape(-1, i // channels, n, channels)
        return x.transpose(2, 0, 1, 3).reshape(n, -1, i)

    def outputs(self, y: Array) -> Array:
        """Return y[n, t, o] for the result."""
        out = self.parameters["dimension_numbers"].out_spec
        n, _, o = self.shape
        return y.transpose(out[0], *out[2:], out[1]).reshape(-1, n, o).swapaxes(0, 1)

    def __call__(self, a: Array, kernel: Array) -> Array:
        """Return the result for patches a[n, t, i], by a matrix product."""
        n, i, o = self.shape
        _, rhs, out = self.parameters["dimension_numbers"]
        kernel = kernel.transpose(*rhs[2:], rhs[1], rhs[0]).reshape(i, n, o)
        options = {k: self.parameters[k] for k in ("precision", "preferred_element_type")}
        if n == 1:
            y = jnp.matmul(a[0], kernel[:, 0], **options)
        else:
            y = jnp.einsum("nti,ino->tno", a, kernel, **options)
        return replay(sort_axes((out[0], *out[2:], out[1])), y.reshape(self.result))


class Lookup(NamedTuple):
    """A `gather` of whole rows along the first axis."""

    table: Shape
    row_axes: Shape  # of the result
    clips: bool
    other: int = 1

    @classmethod
    def of(cls, equation: Equation) -> Lookup | None:
        """Read an equation; None if it gathers anything but whole rows."""
        numbers, table = equation.params["dimension_numbers"], equation.invars[0].aval.shape
        rows = numbers.collapsed_slice_dims == numbers.start_index_map == (0,)
        whole = equation.params["slice_sizes"] == (1, *table[1:])
        if not rows or not whole or numbers.operand_batching_dims:
            return None
        clips = equation.params["mode"] == lax.GatherScatterMode.CLIP
        return cls(table, numbers.offset_dims, clips)

    @property
    def shape(self) -> tuple[int, int, int]:
        """The sizes n, i, o."""
        return 1, self.table[0], math.prod(self.table[1:])

    def back(self, lead: Shape) -> Steps:
        """Return the steps from x[*lead, 1, i, o] to the layout of the operand."""
        return ((jnp.reshape, (*lead, *self.table)),)

    def sides(self, n_lead: int) -> str:
        """Return to which of n, i, o each axis belongs that the first step of `back` makes."""
        return "n" * n_lead + "i" + "o" * (len(self.table) - 1)

    def inputs(self, x: Array) -> Array:
        """Return the row numbers as i32 a[1, t, 1], that of no row where nothing is gathered."""
        beyond = self.table[0]
        if x.dtype.itemsize < 4:  # the number of rows may be more than this type can hold
            x = x.astype(jnp.int32)
        if self.clips:
            x = jnp.clip(x, 0, beyond - 1)
        else:
            x = jnp.where((x < 0) | (x >= beyond), beyond, x)
        return x.astype(jnp.int32).reshape(1, -1, 1)

    def outputs(self, y: Array) -> Array:
        """Return y[1, t, o] for the result."""
        last = tuple(range(y.ndim - len(self.row_axes), y.ndim))
        return jnp.moveaxis(y, self.row_axes, last).reshape(1, -1, self.shape[2])
