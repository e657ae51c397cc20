"""Floating-point operations of a traced program, loops counted as often as they turn.

The compiler's own count takes the body of a loop once, and per-example statistics walk through a
batch in chunks. Counted are matrix products and convolutions, two operations a multiplication.
"""

from __future__ import annotations

import math
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr


def count(jaxpr: Any, *, chips: int = 1) -> float:
    """Operations of one chip.

    Args:
      jaxpr: of a traced function, `jax.jit(f).trace(...).jaxpr`.
      chips: chips over which automatic partitioning divides the work, evenly. What stands inside
        `shard_map` is already that of one chip.

    Returns:
      The number; a `while_loop`, whose turns are not known, counts once and of `cond` the dearest
      branch.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> program = jax.jit(lambda x: jax.lax.fori_loop(0, 10, lambda _, y: y @ x, x))
      >>> count(program.trace(jnp.ones((8, 8))).jaxpr)
      10240.0
    """
    jaxpr = jaxpr.jaxpr if isinstance(jaxpr, ClosedJaxpr) else jaxpr
    return float(sum(_equation(equation, chips) for equation in jaxpr.eqns))


def _equation(equation: Any, chips: int) -> float:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        inner = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
        return 2 * inner * equation.outvars[0].aval.size / chips
    if name == "conv_general_dilated":
        return _convolution(equation) / chips
    if name == "shard_map":
        chips = 1
    inside = [count(jaxpr, chips=chips) for jaxpr in _inner(parameters)]
    if name == "cond":
        return max(inside)
    return parameters.get("length", 1) * sum(inside) if name == "scan" else sum(inside)


def _convolution(equation: Any) -> float:
    """Products with the zeros that a dilated input is filled up with are not counted."""
    kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
    taps = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
    dilation = math.prod(equation.params["lhs_dilation"])
    return 2 * equation.outvars[0].aval.size * taps / dilation


def _inner(parameters: dict[str, Any]) -> list[Any]:
    found = []
    for value in parameters.values():
        entries = value if isinstance(value, tuple | list) else (value,)
        found += [entry for entry in entries if isinstance(entry, Jaxpr | ClosedJaxpr)]
    return found
