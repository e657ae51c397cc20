"""Arrays for small models without the compilation that their random initialization takes."""

import jax
import numpy as np
import pytest


def fill(module, inputs, seed=0):
    """Variables of the module's shapes: normal kernels and offsets, scales and variances near 1."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        assert leaf.dtype == np.float32
        name = path[-1].key
        fan_in = max(1, int(np.prod(leaf.shape[:-1]))) if name == "kernel" else 10
        values = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
        near_one = np.exp(values) if name in ("scale", "var") else values
        return near_one.astype(np.float32)

    shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)
    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def filled():
    return fill
