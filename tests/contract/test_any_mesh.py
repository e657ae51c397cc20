"""One device, two, four, eight, parameters whole or divided, either kind of axes: one answer."""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from recipes import among, compiled, every
from small_models import setting
from trees import assert_close

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}


WHOLE = [
    *itertools.product(("raw", "cnn"), KINDS, (1, 2, 4, 8), ("jit",)),
    *itertools.product(("raw", "linen", "nnx"), KINDS, (8,), ("eager",)),
]


# Quick: some transforms; all of them with divided parameters below.
@pytest.mark.quick(
    *among("raw-explicit-2-jit", methods=("iau",)),
    *among("raw-auto-8-eager", methods=("ssd", "finetune")),
    *among("cnn-explicit-4-jit", methods=("ssd",)),
    some_methods=True,
)
@pytest.mark.parametrize(("name", "kind", "devices", "call"), WHOLE)
@every(variants="none")
def test_a_mesh_equals_one_device(case, name, kind, devices, call):
    chosen = case.setting(name)
    # Rows that fill a batch up reach no sum, but in training mode they reach a batch
    # normalization: only without one may batches be other than multiples of the devices.
    sets = chosen.sets(batch_size=4 if name == "raw" else 8)
    key, variables, forget, retain = jax.random.key(3), chosen.variables, *sets
    expected = compiled(case, name)(key, variables, forget, retain)
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(KINDS[kind],), devices=jax.devices()[:devices]
    )
    sets = (mu.shard(data, mesh) for data in (forget, retain))
    transform = compiled(case, name) if call == "jit" else case.build(chosen)
    assert_close(transform(key, variables, *sets), expected, rtol=1e-4, atol=2e-6)


DIVIDED = [
    ("raw", "explicit", (1, 2), "jit"),
    *itertools.product(("raw", "cnn"), KINDS, ((2, 2), (2, 3)), ("eager", "jit")),
    *itertools.product(("linen", "nnx"), KINDS, ((2, 2),), ("eager",)),
]


# Quick: one way to read the data, to fit, to teach and to pair rows; automatic axes once.
@pytest.mark.quick(
    *among("raw-explicit-2x2-jit", methods=("ssd", "finetune", "blindspot", "npo")),
    *among("raw-auto-2x2-jit", methods=("ssd",)),
    some_methods=True,
)
@pytest.mark.parametrize(
    ("name", "kind", "shape", "call"),
    DIVIDED,
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else None,
)
@every(variants="none")
def test_divided_parameters_give_the_same_and_stay_divided(case, name, kind, shape, call):
    chosen, batch_size = case.setting(name), 4 if name == "raw" else 8
    key, variables = jax.random.key(3), chosen.variables
    sets = chosen.sets(batch_size=batch_size)
    expected = compiled(case, name)(key, variables, *sets)
    mesh = jax.make_mesh(
        shape,
        ("data", "fsdp"),
        axis_types=(KINDS[kind],) * 2,
        devices=jax.devices()[: shape[0] * shape[1]],
    )
    # Rows over both axes where they divide a batch, else over one: then the devices along the
    # other hold the same rows.
    axis = ("data", "fsdp") if batch_size % np.prod(shape) == 0 else "data"
    divided = mu.shard_params(variables, mesh, smallest=1)
    sets = [mu.shard(data, mesh, axis=axis) for data in sets]
    transform = compiled(case, name) if call == "jit" else case.build(chosen)
    found = transform(key, divided, *sets)
    assert_close(found, expected, rtol=1e-4, atol=2e-6)
    for before, after in zip(jax.tree.leaves(divided), jax.tree.leaves(found[0]), strict=True):
        assert after.sharding.is_equivalent_to(before.sharding, before.ndim)


@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_of_hyper_parameters_over_one_axis_and_rows_over_another(kind):
    chosen = setting("raw")
    forget, retain = chosen.sets()
    alphas = np.linspace(1.1, 2.5, 8, dtype=np.float32)

    @jax.jit
    def grid(alphas, forget, retain):
        def one(alpha):
            transform = mu.ssd(chosen.model, alpha, 0.5)
            return transform(jax.random.key(0), chosen.variables, forget, retain)[0].params

        return jax.vmap(one)(alphas)

    expected = grid(alphas, forget, retain)
    mesh = jax.make_mesh((2, 4), ("grid", "data"), axis_types=(KINDS[kind],) * 2)
    sets = (mu.shard(data, mesh) for data in (forget, retain))
    over_grid = NamedSharding(mesh, PartitionSpec("grid"))
    found = grid(jax.device_put(alphas, over_grid), *sets)
    assert_close(found, expected)
    for leaf in jax.tree.leaves(found):
        assert leaf.sharding.is_equivalent_to(over_grid, leaf.ndim)
