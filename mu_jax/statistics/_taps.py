"""A traced loss, its products with parameters, and the same loss run again with taps on them.

A *product* is a `dot_general` or a convolution with a parameter leaf as kernel, the leaf possibly
cast, reshaped or transposed on the way. The gradient with respect to a zero that is added to the
output, the *tap*, is the cotangent d of the output. With the input a it makes up the gradient of
the kernel, which itself is never taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from mu_jax.statistics._matrices import Convolution, Dot, Steps, sort_axes

Array = jax.Array
PyTree = Any

# Primitives whose equations are looked into, and the parameter that holds them.
_INNER = {"jit": "jaxpr", "remat2": "jaxpr", "scan": "jaxpr"}
_INNER |= dict.fromkeys(("closed_call", "core_call", "eval_jaxpr"), "call_jaxpr")
_SAME_ENTRIES = {"convert_element_type", "copy", "pvary", "pcast", "sharding_constraint"}
_SAME_ORDER = {"reshape", "squeeze", "expand_dims", "broadcast_in_dim"}


class Scan(NamedTuple):
    """A scan around a value: its length, and whether the leaf is cut along it or shared."""

    length: int
    cuts: bool


class Origin(NamedTuple):
    """The leaf whose entries a value holds, and the way back to the leaf's own layout."""

    leaf: int
    back: Steps = ()
    scans: tuple[Scan, ...] = ()

    @property
    def lead(self) -> tuple[int, ...]:
        """Axes of the leaf that the scans around have taken away."""
        return tuple(scan.length for scan in self.scans if scan.cuts)


class Product(NamedTuple):
    """One place where a leaf multiplies something that depends on the example."""

    index: int
    origin: Origin
    form: Dot | Convolution
    output: jax.core.ShapedArray

    @property
    def shape(self) -> tuple[int, int, int]:
        """The sizes n, i, o, layers of a scan counted in n."""
        n, i, o = self.form.shape
        return math.prod(self.origin.lead) * n, i, o

    @property
    def back(self) -> Steps:
        """The steps from [n, i, o] to the leaf."""
        return self.form.back(self.origin.lead) + self.origin.back

    @property
    def positions(self) -> int:
        """The size t, turns of a scan that shares the kernel counted in."""
        return math.prod(self.tap_shape) // (self.shape[0] * self.shape[2])

    @property
    def tap_shape(self) -> tuple[int, ...]:
        """The output's shape, stacked over the scans around."""
        return (*(scan.length for scan in self.origin.scans), *self.output.shape)

    def matrices(self, record: Array, cotangent: Array) -> tuple[Array, Array]:
        """Return a[n, t, i] and d[n, t, o] of one example."""
        outputs = self.form.outputs
        for _ in self.origin.scans:
            outputs = jax.vmap(outputs)
        return self._fold(record), self._fold(outputs(cotangent))

    def _fold(self, x: Array) -> Array:
        """Fold the axes of the scans in x[..., n, t, i] into n or t."""
        scans = self.origin.scans
        cut = [axis for axis, scan in enumerate(scans) if scan.cuts]
        shared = [axis for axis, scan in enumerate(scans) if not scan.cuts]
        n, t, last = range(len(scans), len(scans) + 3)
        x = x.transpose(*cut, n, *shared, t, last)
        return x.reshape(self.shape[0], self.positions, x.shape[-1])


class Plan(NamedTuple):
    """What to do at which equation of a jaxpr; the others run as they are."""

    products: dict[int, Product]
    convolutions: dict[int, Convolution]
    inner: dict[int, Plan]

    def all_products(self) -> list[Product]:
        """The products here and inside."""
        inside = [product for plan in self.inner.values() for product in plan.all_products()]
        return [*self.products.values(), *inside]


class Program(NamedTuple):
    """The loss of one row as equations, and what was found out about each parameter leaf."""

    jaxpr: ClosedJaxpr
    plan: Plan
    products: dict[int, list[Product]]  # of the leaves that are in products of one form only
    copied: list[int]  # the leaves used in any other way

    def run(self, values: Sequence[Array], taps: dict[int, Array]) -> tuple[Array, dict]:
        """Return the losses with `taps` added, and a[n, t, i] of each tapped product."""
        (losses,), records = _run(self.jaxpr, self.plan, values, taps)
        return losses, records


def trace(losses: Callable, params: PyTree, row: PyTree) -> Program:
    """Trace `losses(params, row)`, for a row with leading axis 1, and find its products."""
    jaxpr = jax.make_jaxpr(losses)(params, row)
    planner, n_leaves = _Planner(), len(jax.tree.leaves(params))
    on_row = [True] * len(jax.tree.leaves(row))
    plan, outputs = planner.plan(jaxpr, [Origin(leaf) for leaf in range(n_leaves)] + on_row)
    planner.refuse(outputs)
    products: dict[int, list[Product]] = {}
    for product in planner.products:
        products.setdefault(product.origin.leaf, []).append(product)
    for leaf, uses in products.items():
        if any((use.shape, use.back) != (uses[0].shape, uses[0].back) for use in uses):
            planner.refused.add(leaf)  # for example x @ W and x @ W.T
    for leaf in planner.refused:
        products.pop(leaf, None)
    return Program(jaxpr, plan, products, sorted(planner.refused))


class _Planner:
    """Follow the leaves through a jaxpr and its inner jaxprs.

    A value either holds the entries of a leaf (an `Origin`), or depends on the row or not (a bool).
    """

    def __init__(self) -> None:
        self.products: list[Product] = []
        self.refused: set[int] = set()

    def refuse(self, values: Iterable[Origin | bool]) -> None:
        """Give up the leaves among the values: they are used in a way not understood."""
        self.refused.update(value.leaf for value in values if isinstance(value, Origin))

    def plan(
        self, closed: ClosedJaxpr, inputs: list[Origin | bool]
    ) -> tuple[Plan, list[Origin | bool]]:
        """Go through the equations; return what to do at each, and what the outputs are."""
        jaxpr, _ = _opened(closed)
        known = dict(zip(jaxpr.invars, inputs))
        plan = Plan({}, {}, {})

        def read(atom: Any) -> Origin | bool:
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
        self, plan: Plan, number: int, equation: JaxprEqn, values: list[Origin | bool]
    ) -> list[Origin | bool]:
        on_row = any(value is True for value in values)
        if _is_convolution(equation):
            plan.convolutions[number] = Convolution.of(equation)
        leaves = [k for k, value in enumerate(values) if isinstance(value, Origin)]
        if len(leaves) == 1:
            (operand,) = leaves
            moved = _moved(equation, values[operand])
            if moved:
                return [moved]
            form = _form(equation, operand) if on_row else None
            if form:
                plan.products[number] = self._product(equation, values[operand], form)
                return [True]
        self.refuse(values)
        return [on_row] * len(equation.outvars)

    def _product(self, equation: JaxprEqn, origin: Origin, form: Dot | Convolution) -> Product:
        product = Product(len(self.products), origin, form, equation.outvars[0].aval)
        self.products.append(product)
        return product

    def _inner(self, equation: JaxprEqn, values: list) -> tuple[Plan, list[Origin | bool]]:
        inner = _inner(equation)
        if equation.primitive.name != "scan":
            return self.plan(inner, values)
        n_consts, n_carry = equation.params["num_consts"], equation.params["num_carry"]
        on_row = any(value is True for value in values)

        def enter(value: Origin | bool, cuts: bool) -> Origin | bool:
            if not isinstance(value, Origin):
                return value
            return value._replace(scans=(*value.scans, Scan(equation.params["length"], cuts)))

        consts, carry, slices = _split(values, n_consts, n_carry)
        inside = [enter(v, False) for v in consts] + [on_row] * n_carry
        plan, outputs = self.plan(inner, inside + [enter(v, True) for v in slices])
        self.refuse([*carry, *outputs])
        return plan, [on_row] * len(outputs)


def _split(values: Sequence, *sizes: int) -> list[Sequence]:
    ends = [sum(sizes[:k]) for k in range(len(sizes) + 1)]
    return [values[start:end] for start, end in zip(ends, [*ends[1:], None])]


def _inner(equation: JaxprEqn) -> ClosedJaxpr:
    return equation.params[_INNER[equation.primitive.name]]


def _opened(closed: ClosedJaxpr) -> tuple[Any, Sequence[Array]]:
    """The equations and constants, also of a jaxpr that is not closed."""
    return getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())


def _moved(equation: JaxprEqn, origin: Origin) -> Origin | None:
    """The origin of the output, if the equation only moves the entries of its input."""
    source, target = equation.invars[0].aval, equation.outvars[0].aval
    name, parameters = equation.primitive.name, equation.params
    if source.size != target.size or not jnp.issubdtype(target.dtype, jnp.floating):
        return None
    if name in _SAME_ENTRIES:
        return origin
    if name in _SAME_ORDER and (name == "squeeze" or parameters.get("dimensions") is None):
        steps: Steps = ((jnp.reshape, (*origin.lead, *source.shape)),)
    elif name == "transpose":
        steps = sort_axes(parameters["permutation"], origin.lead)
    elif name == "rev":
        behind = len(origin.lead)
        steps = ((lax.rev, tuple(behind + axis for axis in parameters["dimensions"])),)
    else:
        return None
    return origin._replace(back=steps + origin.back)


def _is_convolution(equation: JaxprEqn) -> bool:
    name = equation.primitive.name
    return name == "conv_general_dilated" and equation.params["batch_group_count"] == 1


def _form(equation: JaxprEqn, operand: int) -> Dot | Convolution | None:
    if equation.primitive.name == "dot_general":
        return Dot.of(equation, operand)
    return Convolution.of(equation) if operand == 1 and _is_convolution(equation) else None


def _run(
    closed: ClosedJaxpr, plan: Plan, values: Sequence[Array], taps: dict[int, Array]
) -> tuple[list[Array], dict[int, Array]]:
    """Evaluate the equations with `taps` added; return the outputs and a[n, t, i] of each tap."""
    jaxpr, consts = _opened(closed)
    environment = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values]))
    records: dict[int, Array] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else environment[atom]

    for number, equation in enumerate(jaxpr.eqns):
        operands = [read(atom) for atom in equation.invars]
        with equation.ctx.manager:
            if number in plan.inner:
                outputs, inside = _run_inner(equation, plan.inner[number], operands, taps)
                records.update(inside)
            else:
                product = plan.products.get(number)
                product = product if product and product.index in taps else None
                outputs, record = _evaluate(
                    equation, product, plan.convolutions.get(number), operands
                )
                if product:
                    outputs = [outputs[0] + taps[product.index]]
                    records[product.index] = record
        environment.update(zip(equation.outvars, outputs))
    return [read(atom) for atom in jaxpr.outvars], records


def _evaluate(
    equation: JaxprEqn,
    product: Product | None,
    convolution: Convolution | None,
    operands: Sequence[Array],
) -> tuple[list[Array], Array | None]:
    """Evaluate one equation; return a[n, t, i] too if it is a product to tap.

    A convolution with a kernel of its own per example is a grouped convolution under `vmap`: slow,
    and with kernel gradients that are wrong on an automatically sharded batch (jax 0.7 to 0.10).
    On a CPU the gradient of any convolution is slow inside loops. Both become matrix products.
    """
    record = product.form.inputs(operands[product.form.other]) if product else None
    if convolution and (product is None or jax.default_backend() == "cpu"):
        patches = convolution.inputs(operands[0]) if record is None else record
        return [convolution(patches, operands[1])], record
    parameters = equation.primitive.get_bind_params(equation.params)
    outputs = equation.primitive.bind(*operands, **parameters)
    return (outputs if equation.primitive.multiple_results else [outputs]), record


def _run_inner(
    equation: JaxprEqn, plan: Plan, operands: Sequence[Array], taps: dict[int, Array]
) -> tuple[list[Array], dict[int, Array]]:
    parameters = equation.params

    def run(operands: Sequence[Array], taps: dict[int, Array]) -> tuple[list[Array], dict]:
        return _run(_inner(equation), plan, operands, taps)

    if equation.primitive.name == "remat2":
        options = {"prevent_cse": parameters["prevent_cse"], "policy": parameters["policy"]}
        return jax.checkpoint(run, **options)(operands, taps)
    if equation.primitive.name != "scan":
        return run(operands, taps)
    n_carry = parameters["num_carry"]
    consts, carry, slices = _split(operands, parameters["num_consts"], n_carry)

    def body(carry: list[Array], turn: tuple[list[Array], dict]) -> tuple[list[Array], tuple]:
        slices, taps = turn
        outputs, records = run([*consts, *carry, *slices], taps)
        return outputs[:n_carry], (outputs[n_carry:], records)

    inside = {product.index for product in plan.all_products()}
    options = {key: parameters[key] for key in ("length", "reverse", "unroll")}
    mine = {index: tap for index, tap in taps.items() if index in inside}
    carry, (stacked, records) = lax.scan(body, carry, (slices, mine), **options)
    return [*carry, *stacked], records
