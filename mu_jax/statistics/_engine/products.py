"""Find the products of a traced loss with parameters.

A *product* is a matrix product, convolution or row lookup whose kernel is a parameter leaf, the
leaf possibly cast, reshaped or transposed on the way. Calls, rematerialized blocks and scans are
looked into. A leaf of which anything else is made is given up and named in `Program.copied`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

from mu_jax.statistics._engine.matrices import (
    Convolution,
    Equation,
    Lookup,
    Steps,
    bilinear_form,
    sort_axes,
)
from mu_jax.statistics._engine.uses import Origin, Product, Scan, Uses, combine

Array = jax.Array
PyTree = Any

# Primitives whose equations are looked into, and the parameter that holds them.
_INNER = {"jit": "jaxpr", "remat2": "jaxpr", "scan": "jaxpr"}
_INNER |= dict.fromkeys(("closed_call", "core_call", "eval_jaxpr"), "call_jaxpr")
_SAME_ENTRIES = {"convert_element_type", "copy", "pvary", "pcast", "sharding_constraint"}
_SAME_ORDER = {"reshape", "squeeze", "expand_dims", "broadcast_in_dim"}


Known = Origin | bool  # of a value: the leaf it holds or, if none, whether it depends on the row


class Plan(NamedTuple):
    """What to do at which equation of a jaxpr; the others run as they are."""

    products: dict[int, Product]
    convolutions: dict[int, Convolution]
    inner: dict[int, Plan]

    def all_products(self) -> list[Product]:
        """Return the products here and inside."""
        inside = [product for plan in self.inner.values() for product in plan.all_products()]
        return [*self.products.values(), *inside]


class Program(NamedTuple):
    """The loss of one row as equations, and what was found out about each parameter leaf."""

    jaxpr: ClosedJaxpr
    plan: Plan
    uses: dict[int, Uses]  # by leaf, of leaves used in products that add up only
    copied: list[int]  # leaves used in any other way
    one_by_one: bool  # whether the equations run for one row at a time only


def trace(losses: Callable, params: PyTree, row: PyTree) -> Program:
    """Trace `losses(params, row)`, for a row with leading axis 1, and find its products."""
    jaxpr = jax.make_jaxpr(losses)(params, row)
    planner, leaves = _Planner(), jax.tree.leaves(params)
    on_row: list[Known] = [True] * len(jax.tree.leaves(row))
    # A leaf without entries is as good as none: no kernel and no gradient.
    known: list[Known] = [Origin(k) if x.size else False for k, x in enumerate(leaves)]
    plan, outputs = planner.plan(jaxpr, [*known, *on_row])
    planner.refuse(outputs)
    products: dict[int, list[Product]] = {}
    for product in plan.all_products():
        products.setdefault(product.origin.leaf, []).append(product)
    combined = {leaf: combine(uses) for leaf, uses in products.items()}
    planner.refused.update(leaf for leaf, uses in combined.items() if uses is None)
    found = {leaf: uses for leaf, uses in combined.items() if uses and leaf not in planner.refused}
    return Program(jaxpr, plan, found, sorted(planner.refused), not _maps_over_rows(jaxpr))


# Primitives that `jax.vmap` refuses where the sizes of the groups differ between rows.
_NOT_MAPPED = {"ragged_dot", "ragged_dot_general"}


def _maps_over_rows(jaxpr: Any) -> bool:
    """Whether `jax.vmap` takes all equations, those inside others counted in."""

    def inside(value: Any) -> bool:
        if isinstance(value, tuple | list):
            return all(map(inside, value))
        return _maps_over_rows(value) if hasattr(opened(value)[0], "eqns") else True

    return all(
        equation.primitive.name not in _NOT_MAPPED and inside(list(equation.params.values()))
        for equation in opened(jaxpr)[0].eqns
    )


def opened(jaxpr: ClosedJaxpr) -> tuple[Any, Sequence[Array]]:
    """Return the equations and the constants, also of a jaxpr that is not closed."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def inner_jaxpr(equation: Equation) -> ClosedJaxpr:
    """Return the equations inside a call or a scan."""
    return equation.params[_INNER[equation.primitive.name]]


def split_operands(equation: Equation, values: Sequence) -> tuple[Sequence, Sequence, Sequence]:
    """Return what belongs to the constants, the carry and the slices of a scan."""
    first = equation.params["num_consts"]
    last = first + equation.params["num_carry"]
    return values[:first], values[first:last], values[last:]


class _Planner:
    """Follow the leaves through a jaxpr and its inner jaxprs."""

    def __init__(self) -> None:
        self.n_products = 0
        self.refused: set[int] = set()

    def refuse(self, values: Iterable[Known]) -> None:
        """Give up the leaves among the values."""
        self.refused.update(value.leaf for value in values if isinstance(value, Origin))

    def plan(self, closed: ClosedJaxpr, inputs: Sequence[Known]) -> tuple[Plan, list[Known]]:
        """Go through the equations; return what to do at each, and what the outputs are."""
        jaxpr, _ = opened(closed)
        known = dict(zip(jaxpr.invars, inputs))
        plan = Plan({}, {}, {})

        def read(atom: Any) -> Known:
            return False if isinstance(atom, Literal) else known.get(atom, False)

        for number, equation in enumerate(jaxpr.eqns):
            values = [read(atom) for atom in equation.invars]
            if equation.primitive.name in _INNER:
                inner, outputs = self._inner(equation, values)
                if any(inner):
                    plan.inner[number] = inner
            else:
                outputs = self._equation(plan, number, equation, values)
            known.update(zip(equation.outvars, outputs))
        return plan, [read(atom) for atom in jaxpr.outvars]

    def _equation(
        self, plan: Plan, number: int, equation: Equation, values: Sequence[Known]
    ) -> list[Known]:
        on_row = any(value is True for value in values)
        convolution = bilinear_form(equation, 1)
        if isinstance(convolution, Convolution):
            plan.convolutions[number] = convolution
        leaves = [(k, value) for k, value in enumerate(values) if isinstance(value, Origin)]
        if len(leaves) == 1:
            ((operand, origin),) = leaves
            moved = _moved(equation, origin)
            if moved:
                return [moved]
            form = bilinear_form(equation, operand)
            if form and (on_row or isinstance(form, Lookup)):
                result = equation.outvars[0].aval
                plan.products[number] = Product(self.n_products, origin, form, result)
                self.n_products += 1
                return [True]
        self.refuse(values)
        return [on_row] * len(equation.outvars)

    def _inner(self, equation: Equation, values: Sequence[Known]) -> tuple[Plan, list[Known]]:
        inner = inner_jaxpr(equation)
        if equation.primitive.name != "scan":
            return self.plan(inner, values)
        on_row = any(value is True for value in values)

        def enter(value: Known, cuts: bool) -> Known:
            if not isinstance(value, Origin):
                return value
            return value._replace(scans=(*value.scans, Scan(equation.params["length"], cuts)))

        consts, carry, slices = split_operands(equation, values)
        inside = [enter(value, False) for value in consts] + [on_row] * len(carry)
        plan, outputs = self.plan(inner, inside + [enter(value, True) for value in slices])
        self.refuse([*carry, *outputs])
        return plan, [on_row] * len(outputs)


def _moved(equation: Equation, origin: Origin) -> Origin | None:
    """The origin of the output, if the equation only moves the entries of its input."""
    source, target = equation.invars[0].aval, equation.outvars[0].aval
    name, parameters = equation.primitive.name, equation.params
    if source.size != target.size or not jnp.issubdtype(target.dtype, jnp.floating):
        return None
    steps: Steps
    if name in _SAME_ENTRIES:
        steps = ()
    elif name == "transpose":
        steps = sort_axes(parameters["permutation"], origin.lead)
    elif name == "rev":
        behind = len(origin.lead)
        steps = ((lax.rev, tuple(behind + axis for axis in parameters["dimensions"])),)
    elif name in _SAME_ORDER and not (name == "reshape" and parameters["dimensions"]):
        steps = ((jnp.reshape, (*origin.lead, *source.shape)),)
    else:
        return None
    return origin._replace(back=steps + origin.back)
