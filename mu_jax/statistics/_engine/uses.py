"""The uses of a leaf as a kernel, and how the gradients of several add up.

A leaf may be used several times: a kernel shared by layers, a table of embeddings that is also the
output layer. All uses are read in one layout [n, i, o] of the leaf. There the inputs and cotangents
of products stand one below the other, those of `x @ W.T` exchanged with one another, and the rows
that were looked up are added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mu_jax.statistics._engine.contractions import Factors
from mu_jax.statistics._engine.matrices import Convolution, Dot, Lookup, Steps

Array = jax.Array


class Scan(NamedTuple):
    """A scan around a value: its length, and whether it cuts the leaf into layers or shares it."""

    length: int
    cuts: bool


class Origin(NamedTuple):
    """The leaf whose entries a value holds, and the way back to the leaf's own layout."""

    leaf: int
    back: Steps = ()
    scans: tuple[Scan, ...] = ()

    @property
    def lead(self) -> tuple[int, ...]:
        """Axes of the leaf that the scans around have taken off."""
        return tuple(scan.length for scan in self.scans if scan.cuts)


class Product(NamedTuple):
    """One place where a leaf is the kernel."""

    number: int
    origin: Origin
    form: Dot | Convolution | Lookup
    result: jax.core.ShapedArray  # of the output
    flipped: bool = False  # whether the leaf's layout is that of the kernel's transpose

    @property
    def shape(self) -> tuple[int, int, int]:
        """The sizes n, i, o, layers of scans counted in n."""
        n, i, o = self.form.shape
        n *= math.prod(self.origin.lead)
        return (n, o, i) if self.flipped else (n, i, o)

    @property
    def back(self) -> Steps:
        """The steps from [n, i, o] to the leaf."""
        return self.form.back(self.origin.lead) + self.origin.back

    @property
    def tap_shape(self) -> tuple[int, ...]:
        """The shape of the output, stacked over the scans around."""
        return (*(scan.length for scan in self.origin.scans), *self.result.shape)

    @property
    def positions(self) -> int:
        """The size t, turns of scans that share the kernel counted in."""
        return math.prod(self.tap_shape) // (self.shape[0] * self.form.shape[2])

    @property
    def entries(self) -> int:
        """How many numbers a and d of one example are."""
        (n, i, o), t = self.shape, self.positions
        return n * t * (t + o if isinstance(self.form, Lookup) else i + o)

    def factors(self, record: Array, cotangent: Array) -> tuple[Array, Array]:
        """Return a[n, t, i] and d[n, t, o] of one example."""
        outputs = self.form.outputs
        for _ in self.origin.scans:
            outputs = jax.vmap(outputs)
        a, d = self._fold(record), self._fold(outputs(cotangent))
        return (d, a) if self.flipped else (a, d)

    def inputs(self, record: Array) -> Array:
        """Return the recorded inputs as a[n, t, i]."""
        return self._fold(record)

    def _fold(self, x: Array) -> Array:
        """Fold the axes of the scans in x[..., n, t, i] into n or t."""
        scans = self.origin.scans
        cut = [axis for axis, scan in enumerate(scans) if scan.cuts]
        shared = [axis for axis, scan in enumerate(scans) if not scan.cuts]
        n, t, last = range(len(scans), len(scans) + 3)
        x = x.transpose(*cut, n, *shared, t, last)
        return x.reshape(self.shape[0], self.positions, x.shape[-1])


class Uses(NamedTuple):
    """All uses of a leaf, in one layout."""

    lookups: list[Product]
    products: list[Product]  # that are no lookups

    @property
    def all(self) -> list[Product]:
        """Return both kinds, the first one in the layout of all."""
        return [*self.lookups, *self.products]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The sizes n, i, o of the layout."""
        return self.all[0].shape

    @property
    def back(self) -> Steps:
        """The steps from [n, i, o] to the leaf."""
        return self.all[0].back

    @property
    def positions(self) -> int:
        """How many positions of an example the products have."""
        return sum(product.positions for product in self.products)

    def factors(self, a: dict[int, Array], d: dict[int, Array], dtype: jnp.dtype) -> Factors:
        """Return what one example's gradient is made of, from inputs and cotangents by number."""
        n, i, o = self.shape

        def stack(uses: Sequence[Product], none: Array) -> tuple[Array, Array]:
            pairs = [use.factors(a[use.number], d[use.number]) for use in uses]
            pairs = pairs or [(none, jnp.zeros((n, 0, o), dtype))]
            inputs, cotangents = (
                x[0] if len(x) == 1 else jnp.concatenate(x, 1) for x in zip(*pairs)
            )
            return inputs, cotangents.astype(dtype)

        inputs, cotangents = stack(self.products, jnp.zeros((n, 0, i), dtype))
        lookups = stack(self.lookups, jnp.zeros((n, 0, 1), jnp.int32))
        return Factors(inputs.astype(dtype), cotangents, *lookups)


def combine(uses: Sequence[Product]) -> Uses | None:
    """Bring the uses of a leaf into one layout; None where their layouts do not fit."""
    lookups = [use for use in uses if isinstance(use.form, Lookup)]
    products = [use for use in uses if not isinstance(use.form, Lookup)]
    first = (lookups + products)[0]
    read = [_read_as(first, use) for use in products]
    if any(use is None for use in read) or any(_layout(use) != _layout(first) for use in lookups):
        return None
    return Uses(lookups, [use for use in read if use])


def _layout(use: Product) -> tuple:
    return type(use.form), use.shape, use.back


def _read_as(first: Product, use: Product) -> Product | None:
    """The use in the layout of the first one, with a and d exchanged if need be."""
    if _layout(use) == _layout(first):
        return use
    wanted, sides = _sides(first), _sides(use)
    if wanted is None or sides is None:
        return None
    if sides == wanted:
        return use
    flipped = sides.translate(str.maketrans("io", "oi"))
    return use._replace(flipped=True) if flipped == wanted else None


def _sides(use: Product) -> str | None:
    """Whether each axis of the leaf belongs to n, i or o; None if the leaf has no such axes.

    Axes of size 1 are left out.
    """
    (_, shape), *steps = use.back
    axes = list(zip(shape, use.form.sides(len(use.origin.lead)), range(len(shape)), strict=True))
    axes = [axis for axis in axes if axis[0] != 1]
    shape = tuple(shape)
    for function, argument in steps:
        places = iter(axes)
        spread = [None if size == 1 else next(places) for size in shape]
        if function is jnp.transpose:
            spread, shape = [spread[k] for k in argument], tuple(shape[k] for k in argument)
        elif function is jnp.reshape and [k for k in argument if k != 1] == [k for k, *_ in axes]:
            shape = tuple(argument)
        else:
            return None
        axes = [axis for axis in spread if axis]
    for side in "nio":
        order = [place for _, own, place in axes if own == side]
        if order != sorted(order):
            return None
    return "".join(side for _, side, _ in axes)
