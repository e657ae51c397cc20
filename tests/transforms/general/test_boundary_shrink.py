"""Boundary shrink: its attack, what it says of itself, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, is_one_sentence, stack

import mu_jax as mu
from mu_jax.objectives.boundary import Attack, shrink

KEY, SGD = jax.random.key(0), optax.sgd(0.1)
MODEL = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")


def rows(x, y=(0,)):
    return mu.batches(jnp.array(x), jnp.array(y), batch_size=len(x)).at(0)


def test_an_attack_of_several_steps_takes_each_where_the_last_has_led():
    def predict(w, state, x):
        return jnp.stack([jnp.square(x) @ w, 0 * x[:, 0]], axis=1)

    model, weights = mu.from_function(predict, mu.losses.cross_entropy), jnp.array([1.0, -1.0, 0.0])
    found = Attack(steps=2, clips=False)(
        model, mu.Variables(weights), rows([[0.1, 0.1, 0.1]]), {"epsilon": 0.4}
    )
    assert found[0].tolist() == pytest.approx([0.1, 0.5, 0.1])  # there and back; sign(0) = 0


def test_bounds_and_levels_are_of_the_inputs():
    batch = rows([[-1.0, 2.5, 0.3]])
    weights = jnp.array([[3.0, 0.0], [-3.0, 0.0], [3.0, 0.0]])
    numbers = {"epsilon": 0.75, "low": -1.0, "high": 3.0}
    found = Attack(levels=4)(MODEL, mu.Variables(weights), batch, numbers)
    assert found[0].tolist() == [-1.0, 3.0, 0.0]  # -0.45 is rounded to 0, half to even below
    found = Attack(levels=None)(MODEL, mu.Variables(weights), batch, numbers)
    np.testing.assert_allclose(found[0], [-1.0, 3.0, -0.45], rtol=1e-6)


def unlearned(**options):
    chosen = setting("raw")
    unlearn = mu.boundary_shrink(chosen.model, SGD, **{"epochs": 2, **options})
    return unlearn(KEY, chosen.variables, *chosen.sets())


def test_inputs_outside_the_bounds_are_reported():
    info = unlearned()[1]
    assert info.details.outside == 1
    assert any("inputs outside clip" in message for message in info.messages())
    assert not unlearned(clip=None)[1].details.outside


def test_failed_attacks_are_reported():
    chosen = setting("raw")
    forget, retain = chosen.sets()
    logits = mu.outputs(chosen.model, chosen.variables, forget)
    sure = forget.replace(targets=logits.argmax(1))
    unlearn = mu.boundary_shrink(chosen.model, SGD, epsilon=1e-4, clip=None, epochs=1)
    info = unlearn(KEY, chosen.variables, sure, retain)[1]
    assert info.details.crossed == 0
    assert any("moved 0% of the forget set" in message for message in info.messages())


def test_the_retain_set_is_not_read():
    chosen = setting("raw")
    forget, retain = chosen.sets()
    unlearn = mu.watched(mu.boundary_shrink(chosen.model, SGD, clip=None, epochs=1), False)
    expected = unlearn(KEY, chosen.variables, forget, retain)[0]
    other = retain.replace(inputs=retain.inputs + 9)
    assert_close(unlearn(KEY, chosen.variables, forget, other)[0], expected, rtol=0, atol=0)


def test_the_curvature_of_equal_parameters_pulls_nowhere():
    model = mu.from_function(lambda w, state, x: state * jnp.tanh(x @ w), mu.losses.cross_entropy)
    weights, batch = jnp.array([[1.0, -0.5], [0.3, 0.8]]), rows([[0.2, -0.4], [0.5, 0.1]], (0, 1))
    numbers = {"epsilon": 0.1, "curvature": 1.0}
    frozen = {"original": mu.Variables(weights, 1.0), "numbers": numbers}

    def curvature(weights):
        objective = shrink(model, Attack(clips=False), curved=True)
        terms, _ = objective(mu.Variables(weights, 1 + 1e-6), batch, frozen, KEY)
        return terms["curvature"].sum

    assert jnp.abs(jax.grad(curvature)(weights + 1e-3)).max() > 1e-3
    assert (jax.grad(curvature)(weights) == 0).all()


@pytest.mark.slow
def test_a_grid_of_curvature_weights_is_one_program():
    chosen = setting("raw")
    given = KEY, chosen.variables, *chosen.sets()

    def unlearn(weight):
        options = {"curvature_weight": weight, "weighted": True, "clip": None, "epochs": 2}
        return mu.boundary_shrink(chosen.model, SGD, **options)(*given)[0]

    weights = jnp.array([0.1, 0.7])
    found = jax.vmap(unlearn)(weights)
    assert_close(found, stack([unlearn(float(x)) for x in weights]), rtol=1e-4, atol=1e-4)
    assert (found.params["hidden"][0] != found.params["hidden"][1]).any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epsilon": -0.1}, "epsilon >= 0, found -0.1"),
        ({"clip": (1.0, 0.0)}, "low < high"),
        ({"attack_steps": 0}, "attack_steps as a whole number >= 1"),
        ({"levels": 0}, "levels as a whole number >= 1"),
        ({"curvature_weight": float("nan")}, "curvature_weight >= 0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options, says):
    with pytest.raises(ValueError, match=says) as error:
        mu.boundary_shrink(MODEL, SGD, **options)
    assert is_one_sentence(str(error.value))


METHODS = {"shrink": mu.boundary_shrink, "expand": mu.boundary_expand}


@pytest.mark.parametrize("name", METHODS)
def test_a_regression_is_refused(name):
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    sets = mu.split(mu.batches(jnp.eye(3), jnp.ones(3), batch_size=3), [0])
    with pytest.raises(ValueError, match="expected ") as error:
        METHODS[name](model, SGD)(KEY, mu.Variables(jnp.ones(3)), *sets)
    assert is_one_sentence(str(error.value))
    wide = mu.split(mu.batches(jnp.eye(3), jnp.ones((3, 2)), batch_size=3), [0])
    with pytest.raises(ValueError, match=r"expected logits .* integer labels") as error:
        METHODS[name](model, SGD)(KEY, mu.Variables(jnp.ones((3, 2))), *wide)
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize("name", METHODS)
def test_a_class_that_is_not_there_is_refused(name):
    sets = mu.split(mu.batches(jnp.eye(3), jnp.array([0, 1, 7]), batch_size=3), [2])
    with pytest.raises(ValueError, match="found 7") as error:
        METHODS[name](MODEL, SGD)(KEY, mu.Variables(jnp.eye(3)), *sets)
    assert is_one_sentence(str(error.value))


def test_inputs_that_no_gradient_moves_are_refused():
    model = mu.from_function(lambda w, state, x: w[x], mu.losses.cross_entropy)
    sets = mu.split(mu.batches(jnp.arange(3), jnp.arange(3), batch_size=3), [0])
    with pytest.raises(TypeError, match="floating-point inputs") as error:
        mu.boundary_shrink(model, SGD)(KEY, mu.Variables(jnp.eye(3)), *sets)
    assert is_one_sentence(str(error.value))
