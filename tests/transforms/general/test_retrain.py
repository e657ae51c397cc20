"""Retraining from scratch: nothing of the original remains."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, assert_identical

import mu_jax as mu

KEY = jax.random.key(0)
SGD = optax.sgd(0.1, momentum=0.9)


def retrain(chosen, **options):
    return mu.retrain(chosen.model, SGD, init=chosen.init, **{"epochs": 2, **options})


def floats(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(p, np.asarray(x)) for p, x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]


@pytest.mark.quick("linen")
@pytest.mark.parametrize("name", ["linen", "nnx", "cnn"])
def test_no_leaf_equals_the_original(name):
    chosen = setting(name)
    after, info = jax.jit(retrain(chosen))(KEY, chosen.variables, *chosen.sets())
    for (path, new), (_, old) in zip(floats(after), floats(chosen.variables), strict=True):
        assert np.all(new != old), path
    assert info.edit.changed == 1


@pytest.mark.slow
def test_it_is_a_fit_from_a_fresh_start():
    chosen = setting("linen")
    forget, retain = chosen.sets()
    after, info = retrain(chosen)(KEY, chosen.variables, forget, retain)
    state, expected = mu.fit(
        chosen.model,
        mu.supervised(chosen.model, training_mode=True),
        SGD,
        chosen.init(jax.random.fold_in(KEY, 0)),
        retain,
        key=jax.random.fold_in(KEY, 1),
        epochs=2,
    )
    assert_identical(after, state.variables)
    assert_identical(info.details, expected)
    assert (info.steps, info.example_passes) == (8, 32)


def test_neither_the_model_nor_the_forget_set_is_read():
    chosen = setting("linen")
    forget, retain = chosen.sets()
    expected, _ = retrain(chosen)(KEY, chosen.variables, forget, retain)
    other = jax.tree.map(lambda x: x * jnp.nan, chosen.variables)
    junk = forget.replace(inputs=forget.inputs * jnp.nan)
    found, _ = jax.jit(retrain(chosen))(KEY, other, junk, retain)
    assert_close(found, expected)


def test_another_key_is_another_model():
    chosen = setting("linen")
    first, second = (
        retrain(chosen)(jax.random.key(k), chosen.variables, *chosen.sets())[0] for k in (0, 1)
    )
    for (path, a), (_, b) in zip(floats(first), floats(second), strict=True):
        assert np.all(a != b), path


@pytest.mark.quick("linen")
@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_masked_it_keeps_frozen_leaves_and_refreshes_statistics(name):
    chosen = setting(name)

    def is_head(leaf):
        return "head" in leaf or "Dense_1" in leaf

    unlearn = mu.masked(retrain(chosen), is_head)
    after, info = jax.jit(unlearn)(KEY, chosen.variables, *chosen.sets())
    params, state = chosen.model.split(after)
    old_params, old_state = chosen.model.split(chosen.variables)
    for (path, new), (_, old) in zip(floats(params), floats(old_params), strict=True):
        trained = is_head(mu.model.path_name(path))
        assert np.all(new != old) if trained else np.array_equal(new, old), path
    for (path, new), (_, old) in zip(floats(state), floats(old_state), strict=True):
        assert np.all(new != old), path
    assert info.edit.changed == 1


def test_inference_mode_on_request_leaves_fresh_statistics_where_they_are():
    chosen = setting("linen")
    after, _ = retrain(chosen, training_mode=False)(KEY, chosen.variables, *chosen.sets())
    fresh = chosen.init(jax.random.fold_in(KEY, 0))
    assert_identical(after["batch_stats"], fresh["batch_stats"])


def test_steps_instead_of_epochs():
    chosen = setting("raw")
    _, info = retrain(chosen, steps=3)(KEY, chosen.variables, *chosen.sets())
    assert info.steps == 3
    assert info.details.loss.shape == (3,)
