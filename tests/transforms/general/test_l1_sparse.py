"""l1-sparse unlearning: its penalty, its schedule, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, is_one_sentence

import mu_jax as mu
from mu_jax.transforms.general.l1_sparse import l1_norm, linear_decay

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(0)
STILL = mu.from_function(lambda w, state, x: 0 * (x @ w), mu.losses.squared_error)


def test_the_norm_has_the_derivative_of_the_sign_which_is_0_at_0():
    params = {"a": jnp.array([[2.0, 0.0], [-3.0, -0.0]]), "b": jnp.array(-0.5, jnp.bfloat16)}
    value, grads = jax.value_and_grad(l1_norm)(params)
    assert (float(value), value.dtype) == (5.5, jnp.float32)
    np.testing.assert_array_equal(grads["a"], [[1, 0], [-1, 0]])
    assert (float(grads["b"]), grads["b"].dtype) == (-1, jnp.bfloat16)


def test_the_schedule_of_ten_epochs():
    found = [float(linear_decay(jnp.asarray(e / 10))) for e in range(10)]
    np.testing.assert_allclose(found, np.arange(10, 0, -1) / 10, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "shares"), [(linear_decay, [1, 0.5]), (lambda done: 1.0, [1, 1])]
)
def test_every_step_of_an_epoch_has_the_penalty_of_the_epoch(schedule, shares):
    data = mu.batches(np.ones((7, 2), np.float32), np.zeros(7, np.float32), batch_size=2)
    forget, retain = mu.split(data, [0])  # 3 steps in an epoch
    start = mu.Variables(jnp.array([2.0, -3.0]))
    unlearn = mu.l1_sparse(STILL, optax.sgd(1.0), gamma=0.1, epochs=2, schedule=schedule)
    after, info = unlearn(KEY, start, forget, retain)
    moved = 3 * 0.1 * sum(shares)
    np.testing.assert_allclose(after.params, [2 - moved, -3 + moved], rtol=1e-5)
    norms = 5 - 2 * 0.1 * np.concatenate([[0], np.cumsum(np.repeat(shares, 3))[:-1]])
    np.testing.assert_allclose(info.details.loss, 0.1 * np.repeat(shares, 3) * norms, rtol=1e-5)


def test_without_a_penalty_it_is_fine_tuning():
    chosen = setting("raw")
    given = KEY, chosen.variables, *chosen.sets()
    found, _ = mu.l1_sparse(chosen.model, optax.sgd(0.1), gamma=0.0, epochs=2)(*given)
    expected, _ = mu.finetune(chosen.model, optax.sgd(0.1), epochs=2)(*given)
    assert_close(found, expected)


def test_only_trained_leaves_are_penalized():
    chosen = setting("raw")
    unlearn = mu.masked(
        mu.l1_sparse(chosen.model, optax.sgd(0.0), gamma=1.0, epochs=1), lambda name: name == "bias"
    )
    _, info = unlearn(KEY, chosen.variables, *chosen.sets(batch_size=100))
    start, (_, retain) = chosen.variables, chosen.sets(batch_size=100)
    own = chosen.model.losses(start, retain.at(0))[: retain.num_examples].mean()
    size = np.abs(start.params["bias"]).sum()
    np.testing.assert_allclose(info.details.loss, [own + size], rtol=1e-5)


@pytest.mark.parametrize("gamma", [-0.1, float("nan")])
def test_a_wrong_gamma_is_refused_at_once(gamma):
    with pytest.raises(ValueError, match=f"gamma.*found {gamma}") as error:
        mu.l1_sparse(STILL, optax.sgd(0.1), gamma=gamma)
    assert is_one_sentence(str(error.value))
