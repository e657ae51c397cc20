"""Arrays in, arrays out: the same shapes, nothing mutated, nothing hidden."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import among, arguments, every, factories
from small_models import setting
from trees import assert_identical, is_one_sentence, snapshot

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")


def test_the_contract_covers_every_public_transform():
    found = factories()
    assert {"ssd", "iau", "retrain", "finetune", "gradient_ascent", "magnitude_prune"} <= set(found)
    for name, factory in found.items():
        assert getattr(mu, name) is factory


def test_a_parameter_that_the_table_lacks_is_named():
    def novel(model, *, temperature):
        raise AssertionError("not to be called")

    namespace = types.SimpleNamespace(__all__=["novel", "other"], novel=novel, other=lambda x: x)
    assert factories(namespace) == {"novel": novel}
    with pytest.raises(ValueError, match=r"of novel, found none for 'temperature': add it") as e:
        arguments(novel, setting("raw"))
    assert is_one_sentence(str(e.value))


@pytest.mark.quick("*-raw", *among())
@pytest.mark.parametrize("name", ["raw", "bfloat16", "linen", "nnx", "cnn"])
@every(variants="none")
def test_same_tree_out(case, name):
    chosen = case.setting(name)
    variables = chosen.variables
    transform = case.build(chosen)
    after, _ = jax.eval_shape(transform, jax.random.key(3), variables, *chosen.sets())
    assert type(after) is type(variables)
    assert jax.tree.structure(after) == jax.tree.structure(variables)
    assert jax.tree.leaves(after) == jax.tree.leaves(jax.eval_shape(lambda: variables))


@pytest.mark.quick("*-raw", *among(methods=("ssd", "scrub")))
@pytest.mark.parametrize("name", ["raw", "linen"])
@every(variants="slow")
def test_the_same_key_gives_the_same_bits_and_inputs_stay(case, name):
    chosen = case.setting(name)
    given = (jax.random.key(3), chosen.variables, *chosen.sets())
    before = snapshot(given)
    after, info = case.build(chosen)(*given)
    assert info.edit.finite
    assert info.edit.changed > 0
    assert jax.tree.structure(after) == jax.tree.structure(given[1])
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert_identical(given, before)
    assert_identical(case.build(chosen)(*given), (after, info))


@pytest.mark.quick(
    *among("nnx", methods=("ssd", "iau", "scrub", "retrain", "blindspot")),
    *among("cnn", methods=("finetune",)),
    some_methods=True,
)
@pytest.mark.parametrize("name", ["nnx", "cnn"])
@every(variants="none")
def test_statistics_move_only_where_training_mode_is_the_default(case, name):
    chosen = case.setting(name)
    transform = jax.jit(case.build(chosen))
    after, _ = transform(jax.random.key(3), chosen.variables, *chosen.sets())
    before, after = (chosen.model.split(v)[1] for v in (chosen.variables, after))
    if not case.default("training_mode"):
        assert_identical(after, before)
        return
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before)):
        if jnp.issubdtype(a.dtype, jnp.floating):
            assert np.all(np.asarray(a) != np.asarray(b))


@pytest.mark.quick("*-raw", *among())
@pytest.mark.parametrize("name", ["raw", "cnn"])
@every(variants="slow")
def test_pure(case, name):
    chosen = case.setting(name)
    given = (jax.random.key(3), chosen.variables, *chosen.sets())
    program = jax.make_jaxpr(case.build(chosen))(*given)
    assert not program.effects
    assert "callback" not in str(program)


def test_a_callback_would_be_seen():
    def impure(x):
        jax.debug.callback(lambda x: None, x)
        return jax.pure_callback(lambda x: np.asarray(x), x, x)

    program = jax.make_jaxpr(impure)(jnp.ones(2))
    assert program.effects
    assert "callback" in str(program)
