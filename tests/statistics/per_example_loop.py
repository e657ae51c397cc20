"""Per-example gradients by a loop of `jax.grad`, and the comparison with what the engine sums."""

from __future__ import annotations

import functools

import jax
import numpy as np
from per_example_models import SIZE

from mu_jax.statistics._engine import per_example

# Half the time to compile.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def gradient_loop(case):
    """Gradients one example at a time, stacked."""
    gradient = jit(jax.grad(lambda params, row: case.losses(params, row)[0]))
    gradients = [
        gradient(case.params, jax.tree.map(lambda x, i=i: x[i : i + 1], case.rows))
        for i in range(SIZE)
    ]
    return jax.tree.map(lambda *g: np.stack(g), *gradients)


def weighted(power, gradients, weight):
    return jax.tree.map(lambda g: np.tensordot(weight, power(g), 1), gradients)


def doubled(case):
    """The case in float64; to be used in `jax.enable_x64`."""
    arrays = case.params, case.rows
    params, rows = jax.tree.map(
        lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, arrays
    )
    return case._replace(params=params, rows=rows)


@functools.partial(jit, static_argnums=0, static_argnames="chunk_size")
def squares(losses, params, rows, weight, **options):
    return per_example.sum_of_squares(losses, params, rows, weight, **options)


@functools.partial(jit, static_argnums=0, static_argnames="chunk_size")
def norms(losses, params, rows, **options):
    return per_example.squared_norms(losses, params, rows, **options)


def assert_close(found, expected, tolerance):
    """Equal up to `tolerance` of each leaf's largest entry, or a hundredth of the tree's."""
    leaves = jax.tree.leaves(jax.device_get(expected))
    largest = max(np.abs(x).max(initial=0) for x in leaves)

    def compare(found, expected):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        scale = max(np.abs(expected).max(initial=0), 0.01 * largest)
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)

    jax.tree.map(compare, jax.device_get(found), jax.device_get(expected))
