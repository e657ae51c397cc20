"""Run a traced loss again with a tap on each of its products with parameters.

A *tap* is a zero that is added to the output of a product; the gradient with respect to it is the
gradient of the output. Together with the product's input, recorded on the way, it makes up the
gradient of the kernel, which itself is never taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from mu_jax.statistics._products import (
    Plan,
    Program,
    inner_jaxpr,
    opened,
    split_operands,
)

Array = jax.Array
Taps = dict[int, Array]  # by the product's index


def run(program: Program, values: Sequence[Array], taps: Taps) -> tuple[Array, Taps]:
    """Return the losses with `taps` added, and a[n, t, i] of each tapped product."""
    (losses,), records = _run(program.jaxpr, program.plan, values, taps)
    return losses, records


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
    equation: JaxprEqn, number: int, plan: Plan, operands: Sequence[Array], taps: Taps
) -> tuple[list[Array], Taps]:
    """Evaluate one equation.

    A convolution without a tap may have a kernel of its own for every example; under `vmap` that
    is a grouped convolution, slow, and its kernel gradients are wrong on a batch sharded by
    automatic partitioning (jax 0.7 to 0.10). On a CPU every convolution's gradient is slow inside
    loops. Both run as matrix products.
    """
    product, convolution = plan.products.get(number), plan.convolutions.get(number)
    tapped = product is not None and product.index in taps
    record = product.form.inputs(operands[product.form.other]) if tapped else None
    if convolution and (not tapped or jax.default_backend() == "cpu"):
        patches = record if tapped else convolution.inputs(operands[0])
        outputs = [convolution(patches, operands[1])]
    else:
        parameters = equation.primitive.get_bind_params(equation.params)
        outputs = equation.primitive.bind(*operands, **parameters)
        outputs = outputs if equation.primitive.multiple_results else [outputs]
    if not tapped:
        return outputs, {}
    return [outputs[0] + taps[product.index]], {product.index: record}


def _run_inner(
    equation: JaxprEqn, plan: Plan, operands: Sequence[Array], taps: Taps
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

    def body(carry: list[Array], turn: tuple[Sequence[Array], Taps]) -> tuple[list, tuple]:
        outputs, records = run_inside([*consts, *carry, *turn[0]], turn[1])
        return outputs[: len(carry)], (outputs[len(carry) :], records)

    inside = {product.index for product in plan.all_products()}
    taps = {index: tap for index, tap in taps.items() if index in inside}
    options = {key: parameters[key] for key in ("length", "reverse", "unroll")}
    carry, (stacked, records) = lax.scan(body, list(carry), (list(slices), taps), **options)
    return [*carry, *stacked], records
