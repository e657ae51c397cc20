"""NTK scrubbing on small models: weights, ignored labels, frozen leaves, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)
CHOSEN = setting("raw")


def call(sets, model=CHOSEN.model, **options):
    initial = options.pop("initial", CHOSEN.init(jax.random.key(8)))
    unlearn = mu.watched(mu.ntk_scrub(model, initial, **options), False)
    return unlearn(KEY, CHOSEN.variables, *sets)


@pytest.mark.slow
def test_a_weight_counts_like_a_copy():
    forget, retain = CHOSEN.sets()
    heavy = retain.replace(weight=jnp.ones(16).at[0].set(3.0))
    more = mu.concatenate(retain, retain.take(np.array([0, 0])).replace(index=jnp.array([90, 91])))
    found, expected = call((forget, heavy)), call((forget, more))
    assert_close(found[0].params, expected[0].params, rtol=1e-3, atol=1e-4)
    assert found[1].details.direction_norm > 0.1


def test_rows_whose_label_is_ignored_are_not_there():
    model = mu.from_function(CHOSEN.model.predict, mu.losses.CrossEntropy(ignore_label=-1))
    forget, retain = CHOSEN.sets()
    ignored = retain.replace(targets=retain.targets.at[jnp.array([2, 5])].set(-1))
    absent = retain.replace(weight=jnp.ones(16).at[jnp.array([2, 5])].set(0.0))
    found, expected = (call((forget, data), model)[0] for data in (ignored, absent))
    assert_close(found.params, expected.params, rtol=1e-3, atol=1e-4)


def test_the_initial_parameters_change_the_scale_alone():
    first, second = (
        call(CHOSEN.sets(), initial=CHOSEN.init(jax.random.key(seed))) for seed in (8, 9)
    )
    scales = [info.details.scale for _, info in (first, second)]
    assert abs(scales[0] - scales[1]) > 0.1
    for name, start in CHOSEN.variables.params.items():
        moves = (after.params[name] - start for after, _ in (first, second))
        one, other = (move / scale for move, scale in zip(moves, scales))
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_frozen_leaves_are_in_no_system():
    unlearn = mu.ntk_scrub(CHOSEN.model, CHOSEN.init(jax.random.key(8)))
    masked = mu.watched(mu.masked(unlearn, lambda name: name == "head"), False)
    after, info = masked(KEY, CHOSEN.variables, *CHOSEN.sets())
    for name in ("bias", "hidden"):
        assert_identical(after.params[name], CHOSEN.variables.params[name])
    assert np.any(after.params["head"] != CHOSEN.variables.params["head"])
    assert info.details.direction.converged


def test_a_system_that_is_not_solved_is_reported():
    solver = mu.solvers.conjugate_gradients(iterations=1)
    _, info = call(CHOSEN.sets(), solver=solver, weight_decay=1e-3)
    assert any("left a residual of" in message for message in info.messages())


@pytest.mark.slow
def test_an_ensemble_brings_its_own_initial_parameters():
    keys = jax.random.split(KEY, 2)
    initial, sets = jax.vmap(CHOSEN.init)(keys), CHOSEN.sets()

    def one(start):
        return mu.ntk_scrub(CHOSEN.model, start)(KEY, CHOSEN.variables, *sets)[0].params

    found = jax.jit(jax.vmap(one))(initial)
    for k in range(2):
        expected = one(jax.tree.map(lambda leaf, k=k: leaf[k], initial))
        mine = jax.tree.map(lambda leaf, k=k: leaf[k], found)
        assert_close(mine, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("initial", "says"),
    [
        (mu.Variables({"head": jnp.ones((6, 3))}), r"found no leaf and \(6,\) at 'bias'"),
        (
            mu.Variables(dict(CHOSEN.variables.params, head=jnp.ones((6, 4))), 0.25),
            r"found \(6, 4\) and \(6, 3\) at 'head'",
        ),
        ({"head": jnp.ones((6, 3))}, "found dict: give those from which"),
        (CHOSEN.init, "found function: give those from which"),
    ],
)
def test_initial_variables_of_another_tree_are_refused(initial, says):
    with pytest.raises(ValueError, match=says) as error:
        call(CHOSEN.sets(), initial=initial)
    assert is_one_sentence(str(error.value))


def test_a_regression_is_refused():
    model = mu.from_function(CHOSEN.model.predict, mu.losses.squared_error)
    sets = [data.replace(targets=jnp.ones((data.num_examples, 3))) for data in CHOSEN.sets()]
    with pytest.raises(ValueError, match="since the method needs classes") as error:
        call(sets, model)
    assert is_one_sentence(str(error.value))


def test_a_negative_weight_decay_is_refused():
    with pytest.raises(ValueError, match="expected weight_decay >= 0, found -1") as error:
        call(CHOSEN.sets(), weight_decay=-1.0)
    assert is_one_sentence(str(error.value))
