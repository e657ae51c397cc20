"""Where parameters lie: by shape, by path, created and restored there."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from small_models import setting

import mu_jax as mu
from mu_jax.store.versions import Store

TREE = {
    "block": {"kernel": jnp.ones((3, 3, 16, 64)), "bias": jnp.ones(64)},
    "square": jnp.ones((64, 64)),
    "odd": jnp.ones((63, 65)),
}


def mesh_of(*shape, names=("data", "fsdp"), kind=AxisType.Auto):
    devices = jax.devices()[: np.prod(shape)]
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape), devices=devices)


def specs(tree, mesh, **options):
    return jax.tree.map(lambda x: x.spec, mu.param_shardings(tree, mesh, **options))


def test_the_largest_dimension_that_divides_the_last_of_equals():
    found = specs(TREE, mesh_of(2, 4))
    assert found["block"]["kernel"] == P(None, None, None, "fsdp")
    assert found["square"] == P(None, "fsdp")
    assert found["odd"] == P()  # 4 divides neither 63 nor 65


def test_small_leaves_lie_whole():
    assert specs(TREE, mesh_of(2, 4))["block"]["bias"] == P()
    assert specs(TREE, mesh_of(2, 4), smallest=64)["block"]["bias"] == P("fsdp")


def test_several_axes_together():
    found = specs(TREE, mesh_of(2, 4), axis=("data", "fsdp"))
    assert found["square"] == P(None, ("data", "fsdp"))


def test_a_rule_comes_first_and_the_first_rule_counts():
    rules = [("block/kernel", P(None, None, "fsdp")), ("kernel", P("fsdp")), ("odd", P())]
    found = specs(TREE, mesh_of(2, 4), rules=rules)
    assert found["block"]["kernel"] == P(None, None, "fsdp")
    assert found["square"] == P(None, "fsdp")


@pytest.mark.parametrize("rule", [("odd", P("fsdp")), ("bias", P(None, "fsdp"))])
def test_a_rule_that_does_not_divide_is_refused(rule):
    with pytest.raises(ValueError, match=r"expected rule '\w+' to divide \S+ of shape .* evenly"):
        mu.param_shardings(TREE, mesh_of(2, 4), rules=[rule])


def test_an_axis_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="expected a mesh with an axis named 'fsdp'"):
        mu.shard_params(TREE, mu.data_mesh())
    with pytest.raises(ValueError, match="expected a mesh with an axis named 'model'"):
        mu.param_shardings(TREE, mesh_of(2, 4), rules=[("odd", P("model"))])


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_parameters_are_created_divided_and_equal(kind):
    init, key = setting("raw").init, jax.random.key(0)
    mesh = mesh_of(4, 2, kind=kind)
    found = mu.init_params(init, key, mesh, smallest=1)
    wanted = mu.param_shardings(init(key), mesh, smallest=1)
    assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(found))
    for leaf, sharding in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    for leaf, whole in zip(*map(jax.tree.leaves, (found, init(key))), strict=True):
        np.testing.assert_allclose(leaf, whole, rtol=1e-6)


@pytest.mark.slow
def test_a_retrained_model_is_created_as_the_given_one_is_divided():
    chosen = setting("raw")
    created = []

    def init(key):
        variables = chosen.init(key)
        jax.debug.inspect_array_sharding(variables.params["hidden"], callback=created.append)
        return variables

    mesh = mesh_of(4, 2)
    divided = mu.shard_params(chosen.variables, mesh, smallest=1)
    sets = [mu.shard(data, mesh, axis=("data", "fsdp")) for data in chosen.sets(batch_size=8)]
    transform = mu.retrain(chosen.model, optax.sgd(0.1), init=init)
    transform(jax.random.key(0), divided, *sets)
    assert created and all(not each.is_fully_replicated for each in created)


def test_a_version_is_restored_onto_another_mesh(tmp_path):
    variables = setting("raw").variables
    store = Store(tmp_path)
    store.publish(mu.shard_params(variables, mesh_of(4, 2), smallest=1), method="train")
    like = mu.shard_params(jax.tree.map(jnp.zeros_like, variables), mesh_of(2, 3), smallest=1)
    found = store.restore(1, like=like)
    for leaf, target, value in zip(*map(jax.tree.leaves, (found, like, variables)), strict=True):
        assert leaf.sharding == target.sharding
        np.testing.assert_array_equal(leaf, value)
