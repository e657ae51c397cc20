"""Find the bias of each kernel: the leaf that is added to the outputs of all its products.

The gradient of such a leaf is the sum of the cotangents over positions, so it is one more row of
the kernel's gradient, that of an input which is always 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.extend.core import Literal

from mu_jax.statistics._engine.matrices import Equation
from mu_jax.statistics._engine.products import Plan, Program, inner_jaxpr, opened, split_operands
from mu_jax.statistics._engine.uses import Product, Scan

_ELEMENTWISE = {"convert_element_type", "copy", "pvary", "pcast", "sharding_constraint"}


Move = Callable[[np.ndarray], np.ndarray]


class _Value(NamedTuple):
    """A value that holds the entries of a leaf, or of a product's output, at other places.

    Attributes:
      source: the leaf, or the product.
      shape: of the source; of one layer of it inside a scan that cuts it.
      scans: around the leaf, as of `Origin`.
      moves: what has moved the entries, first to last.
    """

    source: int | Product
    shape: tuple[int, ...]
    scans: tuple[Scan, ...] = ()
    moves: tuple[Move, ...] = ()

    @property
    def places(self) -> np.ndarray:
        """Which entry of the source each entry is."""
        places = np.arange(math.prod(self.shape)).reshape(self.shape)
        for move in self.moves:
            places = move(places)
        return places


def find_biases(program: Program, shapes: Sequence[tuple[int, ...]]) -> dict[int, int]:
    """Tell which leaf is the bias of which, by their numbers.

    A leaf is the bias of a kernel if it has one entry for each output of it, in their order, and is
    added to all of the kernel's outputs and used nowhere else; nor are these outputs, before it.

    Args:
      program: the traced loss of one row.
      shapes: of the leaves.
    """
    search = _Search()
    leaves = [_Value(leaf, tuple(shape)) for leaf, shape in enumerate(shapes)]
    n_rows = len(opened(program.jaxpr)[0].invars) - len(leaves)
    search.walk(program.jaxpr, program.plan, [*leaves, *[None] * n_rows])
    found = {}
    for leaf, uses in program.uses.items():
        added = {search.added.get(product.number) for product in uses.products}
        if uses.lookups or len(added) != 1 or any(product.flipped for product in uses.products):
            continue
        (bias,) = added
        if bias is not None and search.counts[bias] == len(uses.products):
            found[leaf] = bias
    return found


class _Search:
    """Follow leaves and outputs of products to the equations that add them up."""

    def __init__(self) -> None:
        self.added: dict[int, int] = {}  # the leaf that is added to the output of a product
        self.counts: dict[int, int] = {}  # how many equations use a leaf

    def walk(self, closed: Any, plan: Plan, inputs: Sequence[_Value | None]) -> list[_Value | None]:
        """Go through the equations; return which outputs of products come out as they are."""
        jaxpr, _ = opened(closed)
        known, uses = dict(zip(jaxpr.invars, inputs)), _uses(jaxpr)

        def read(atom: Any) -> _Value | None:
            value = None if isinstance(atom, Literal) else known.get(atom)
            if value is None or isinstance(value.source, int):
                return value
            return value if uses[atom] == 1 else None  # read elsewhere too, without the bias

        for number, equation in enumerate(jaxpr.eqns):
            values = [read(atom) for atom in equation.invars]
            if number in plan.inner:
                outputs = self._inner(equation, plan.inner[number], values)
            elif number in plan.products:
                self._count(values)
                product = plan.products[number]
                outputs = [_Value(product, product.result.shape)]
            else:
                outputs = [self._equation(equation, values)]
            known.update(zip(equation.outvars, outputs))
        outputs = [read(atom) for atom in jaxpr.outvars]
        self._count(outputs)
        return [None if value and isinstance(value.source, int) else value for value in outputs]

    def _inner(
        self, equation: Equation, plan: Plan, values: Sequence[_Value | None]
    ) -> list[_Value | None]:
        inside = _enter(equation, values)
        self._count(value for value, kept in zip(values, inside) if value and not kept)
        outputs = self.walk(inner_jaxpr(equation), plan, inside)
        return [None] * len(outputs) if equation.primitive.name == "scan" else outputs

    def _equation(self, equation: Equation, values: Sequence[_Value | None]) -> _Value | None:
        """The value after an equation that only moves entries; else note what it adds up."""
        if len(values) == 1 and values[0]:
            if equation.primitive.name in _ELEMENTWISE:
                return values[0]
            move = _move(equation)
            if move:
                return values[0]._replace(moves=(*values[0].moves, move))
        self._count(values)
        if equation.primitive.name in ("add", "add_any") and all(values):
            self._add(*values)
            self._add(*reversed(values))
        return None

    def _count(self, values: Any) -> None:
        for value in values:
            if value is not None and isinstance(value.source, int):
                self.counts[value.source] = self.counts.get(value.source, 0) + 1

    def _add(self, output: Any, leaf: Any) -> None:
        """Note a sum of a product's output and a leaf with one entry for each column of it."""
        if isinstance(output.source, int) or not isinstance(leaf.source, int):
            return
        product = output.source
        n, _, o = product.form.shape
        if leaf.scans != product.origin.scans or math.prod(leaf.shape) != n * o:
            return
        places, own = np.broadcast_arrays(output.places, leaf.places)
        entries = np.full(product.result.size, -1)
        entries[places.ravel()] = own.ravel()
        columns = np.asarray(product.form.outputs(entries.reshape(product.result.shape)))
        if (columns == np.arange(n * o).reshape(n, 1, o)).all():
            self.added[product.number] = leaf.source


def _uses(jaxpr: Any) -> dict[Any, int]:
    """How often each variable is read, by the equations and by the caller."""
    counts: dict[Any, int] = {}
    atoms = [atom for equation in jaxpr.eqns for atom in equation.invars]
    for atom in [*atoms, *jaxpr.outvars]:
        if not isinstance(atom, Literal):
            counts[atom] = counts.get(atom, 0) + 1
    return counts


def _enter(equation: Equation, values: Sequence[_Value | None]) -> list[_Value | None]:
    """What leaves are inside a call or a scan; outputs of products are followed no further."""
    leaves = [value if value and isinstance(value.source, int) else None for value in values]
    if equation.primitive.name != "scan":
        return leaves
    length = equation.params["length"]
    consts, carry, slices = split_operands(equation, leaves)

    def inside(value: _Value | None, cuts: bool) -> _Value | None:
        if value is None or value.moves:
            return None
        shape = value.shape[1:] if cuts else value.shape
        return _Value(value.source, shape, (*value.scans, Scan(length, cuts)))

    entered = [inside(value, False) for value in consts] + [None] * len(carry)
    return entered + [inside(value, True) for value in slices]


def _move(equation: Equation) -> Move | None:
    """What an equation of one operand does to places; None if it does not only move them."""
    name, parameters, shape = (
        equation.primitive.name,
        equation.params,
        equation.outvars[0].aval.shape,
    )
    if name in ("reshape", "squeeze", "expand_dims") and not (
        name == "reshape" and parameters["dimensions"]
    ):
        return lambda places: places.reshape(shape)
    if name == "transpose":
        return lambda places: places.transpose(parameters["permutation"])
    if name == "broadcast_in_dim":
        spread = [1] * len(shape)
        for axis, size in zip(parameters["broadcast_dimensions"], equation.invars[0].aval.shape):
            spread[axis] = size
        return lambda places: np.broadcast_to(places.reshape(spread), shape)
    return None
