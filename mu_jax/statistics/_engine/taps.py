"""Run a traced loss again with a tap on each of its products with parameters.

A *tap* is a zero that is added to the output of a product; the gradient with respect to it is the
gradient of the output. Together with the product's input, recorded on the way, it makes up the
gradient of the kernel, which itself is never taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal

from mu_jax import _target as target
from mu_jax.mesh.shards import vary, varying_axes
from mu_jax.statistics._engine.contractions import Factors
from mu_jax.statistics._engine.matrices import Equation
from mu_jax.statistics._engine.products import (
    Plan,
    Program,
    inner_jaxpr,
    opened,
    split_operands,
)

Array = jax.Array
PyTree = Any
Taps = dict[int, Array]  # by the product's number


def gradients(
    program: Program, leaves: Sequence[Array], rows: PyTree
) -> tuple[dict[int, Factors], dict[int, Array]]:
    """Differentiate the loss of each row: one forward and one backward pass, without kernels.

    Returns:
      By the number of the leaf: the factors of its gradients where it is in products only, and the
      gradients themselves, g[b, ...], where it is used otherwise. In float32 or float64.
    """
    varying = varying_axes(leaves)
    products = [product for uses in program.uses.values() for product in uses.all]
    taps = {p.number: vary(jnp.zeros(p.tap_shape, p.result.dtype), varying) for p in products}
    copied = {leaf: leaves[leaf] for leaf in program.copied}

    def of_row(row: PyTree) -> tuple[dict[int, Factors], dict[int, Array]]:
        def loss(taps: Taps, copied: dict[int, Array]) -> tuple[Array, Taps]:
            values = [copied.get(leaf, array) for leaf, array in enumerate(leaves)]
            values += [x[None] for x in jax.tree.leaves(row)]
            (losses,), records = _run(program.jaxpr, program.plan, values, taps)
            return losses[0], records

        (d, g), a = jax.grad(loss, (0, 1), has_aux=True)(taps, copied)
        factors = {
            leaf: uses.factors(a, d, sum_dtype(leaves[leaf])) for leaf, uses in program.uses.items()
        }
        return factors, {leaf: value.astype(sum_dtype(value)) for leaf, value in g.items()}

    return lax.map(of_row, rows) if program.one_by_one else jax.vmap(of_row)(rows)


def recorded(
    program: Program, values: Sequence[Array], numbers: Sequence[int]
) -> tuple[list[Array], dict[int, Array]]:
    """Run the program as it is; return its outputs, and a[n, t, i] of products by their number.

    Args:
      values: the leaves, and the leaves of the rows that the program was traced for.
      numbers: of the products.
    """
    chosen = [p for p in program.plan.all_products() if p.number in numbers]
    varying = varying_axes(values)
    taps = {p.number: vary(jnp.zeros(p.tap_shape, p.result.dtype), varying) for p in chosen}
    outputs, records = _run(program.jaxpr, program.plan, values, taps)
    return outputs, {p.number: p.inputs(records[p.number]) for p in chosen}


def sum_dtype(x: Array) -> Any:
    """Float32, or float64 for float64."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _run(
    closed: ClosedJaxpr, plan: Plan, values: Sequence[Array], taps: Taps
) -> tuple[list[Array], Taps]:
    jaxpr, consts = opened(closed)
    environment = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values]))
    records: Taps = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else environment[atom]

    for number, equation in enumerate(jaxpr.eqns):
        operands = [read(atom) for atom in equation.invars]
        with equation.ctx.manager:
            if number in plan.inner:
                outputs, inside = _run_inner(equation, plan.inner[number], operands, taps)
            else:
                outputs, inside = _run_equation(equation, number, plan, operands, taps)
        records.update(inside)
        environment.update(zip(equation.outvars, outputs))
    return [read(atom) for atom in jaxpr.outvars], records


def _run_equation(
    equation: Equation, number: int, plan: Plan, operands: Sequence[Array], taps: Taps
) -> tuple[list[Array], Taps]:
    """Evaluate one equation.

    A convolution without a tap may have a kernel of its own for every example; under `vmap` that
    is a grouped convolution, slow, and its kernel gradients are wrong on a batch sharded by
    automatic partitioning (jax 0.7 to 0.10). On a CPU every convolution's gradient is slow inside
    loops. Both run as matrix products.
    """
    product, convolution = plan.products.get(number), plan.convolutions.get(number)
    record = None
    if product and product.number in taps:
        record = product.form.inputs(operands[product.form.other])
    if convolution and (record is None or target.platform() == "cpu"):
        patches = convolution.inputs(operands[0]) if record is None else record
        outputs = [convolution(patches, operands[1])]
    else:
        parameters = equation.primitive.get_bind_params(equation.params)
        outputs = equation.primitive.bind(*operands, **parameters)
        outputs = outputs if equation.primitive.multiple_results else [outputs]
    if product is None or record is None:
        return outputs, {}
    return [outputs[0] + taps[product.number]], {product.number: record}


def _run_inner(
    equation: Equation, plan: Plan, operands: Sequence[Array], taps: Taps
) -> tuple[list[Array], Taps]:
    parameters = equation.params

    def run_inside(operands: Sequence[Array], taps: Taps) -> tuple[list[Array], Taps]:
        return _run(inner_jaxpr(equation), plan, operands, taps)

    if equation.primitive.name == "remat2":
        options = {key: parameters[key] for key in ("prevent_cse", "policy")}
        return jax.checkpoint(run_inside, **options)(operands, taps)
    if equation.primitive.name != "scan":
        return run_inside(operands, taps)
    consts, carry, slices = split_operands(equation, operands)

    def body(carry: list[Array], turn: tuple[list[Array], Taps]) -> tuple[list, tuple]:
        slices, taps = turn
        outputs, records = run_inside([*consts, *carry, *slices], taps)
        return outputs[: len(carry)], (outputs[len(carry) :], records)

    inside = {product.number for product in plan.all_products()}
    mine = {number: tap for number, tap in taps.items() if number in inside}
    options = {key: parameters[key] for key in ("length", "reverse", "unroll")}
    last, (stacked, records) = lax.scan(body, list(carry), (list(slices), mine), **options)
    return [*last, *stacked], records
