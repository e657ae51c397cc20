"""The rules for learning rate and weight decay across widths."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import is_one_sentence

import mu_jax as mu
from experiments.configs import digits
from experiments.lib.tasks import make_task, training_optimizer
from mu_jax.tuning import across_widths, parameter_groups

PARAMS = {
    "embed": {"embedding": jnp.full((5, 4), 2.0)},
    "dense": {"kernel": jnp.full((4, 4), 2.0), "bias": jnp.full(4, 2.0)},
    "conv": {"kernel": jnp.full((3, 3, 4, 4), 2.0)},
    "norm": {"scale": jnp.full(4, 2.0)},
}
MATRICES = [("dense", "kernel"), ("conv", "kernel")]


def first_update(optimizer, grads=None):
    grads = jax.tree.map(jnp.ones_like, PARAMS) if grads is None else grads
    return optimizer.update(grads, optimizer.init(PARAMS), PARAMS)[0]


def test_groups_follow_rank_and_name_or_a_rule_of_the_caller():
    found = parameter_groups(PARAMS)
    labels = {(a, b): found[a][b] for a in found for b in found[a]}
    assert sorted(name for name, label in labels.items() if label == "matrix") == sorted(MATRICES)
    own = parameter_groups(PARAMS, lambda name, leaf: name.startswith("conv"))
    assert own["conv"]["kernel"] == "matrix" and own["dense"]["kernel"] == "vector"


@pytest.mark.parametrize("width", [16, 64, 4])
def test_the_first_step_of_adamw_has_the_rate_and_the_decay_of_its_group(width):
    """Of a gradient of 1 it is `-eta (1 + lambda w)`."""
    eta, decay, wider = 0.1, 0.3, width / 16
    updates = first_update(across_widths(width, 16, learning_rate=eta, weight_decay=decay))
    for part in PARAMS:
        for name, update in updates[part].items():
            expected = -eta
            if (part, name) in MATRICES:
                expected = -eta / wider * (1 + decay * np.sqrt(wider) * 2.0)
            np.testing.assert_allclose(update, expected, rtol=1e-5)


def test_at_the_base_width_matrices_have_the_optimizer_itself():
    updates = first_update(across_widths(8, 8, learning_rate=0.1, weight_decay=0.3))
    expected = first_update(optax.adamw(0.1, weight_decay=0.3))
    np.testing.assert_allclose(updates["dense"]["kernel"], expected["dense"]["kernel"], rtol=1e-6)


@pytest.mark.slow
def test_schedules_and_traced_numbers_are_scaled_too():
    schedule = optax.linear_schedule(0.2, 0.0, 2)
    optimizer = across_widths(32, 16, learning_rate=schedule)
    state, grads = optimizer.init(PARAMS), jax.tree.map(jnp.ones_like, PARAMS)
    for rate in (0.2, 0.1):
        updates, state = optimizer.update(grads, state, PARAMS)
        np.testing.assert_allclose(updates["dense"]["kernel"], -rate / 2, rtol=1e-4)
        np.testing.assert_allclose(updates["dense"]["bias"], -rate, rtol=1e-4)
    rates = jnp.array([0.1, 0.4])
    traced = jax.vmap(lambda rate: first_update(across_widths(32, 16, learning_rate=rate)))(rates)
    np.testing.assert_allclose(traced["conv"]["kernel"][:, 0, 0, 0, 0], -rates / 2, rtol=1e-5)


def test_a_fit_takes_it():
    chosen = setting("raw")
    optimizer = across_widths(8, 4, learning_rate=0.01, weight_decay=0.1)
    state, _ = mu.fit(
        chosen.model,
        mu.supervised(chosen.model),
        optimizer,
        chosen.variables,
        chosen.data(),
        key=jax.random.key(0),
        steps=2,
    )
    assert int(state.step) == 2


def test_the_recipe_of_a_configuration_may_be_given_at_another_width():
    config = digits.get_config()
    config.limit = 100
    config.training.update(optimizer="adamw", learning_rate=0.01, schedule="constant")
    with config.unlocked():
        config.training.update(width=32, base_width=8)
    task = make_task(config)
    params = task.model.params(task.init(jax.random.key(0)))
    optimizer = training_optimizer(task, task.train)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    np.testing.assert_allclose(updates["dense_0"]["bias"], -0.01, rtol=1e-5)
    kernel = -0.01 / 4 * (1 + 1e-3 * 2 * params["dense_0"]["kernel"])
    np.testing.assert_allclose(updates["dense_0"]["kernel"], kernel, rtol=1e-5)
    config.training.optimizer = "momentum"
    with pytest.raises(ValueError, match=r"optimizer adamw for training\.base_width"):
        training_optimizer(task, task.train)
    config.training.update(optimizer="adamw")
    with config.unlocked():
        del config.training.width
    with pytest.raises(ValueError, match=r"training.width beside training.base_width"):
        training_optimizer(task, task.train)


def test_wrong_numbers_are_refused_in_one_sentence():
    for wrong in ({"width": 0}, {"base_width": 1.5}):
        with pytest.raises(ValueError, match="whole number") as error:
            across_widths(**{"width": 8, "base_width": 8, "learning_rate": 0.1, **wrong})
        assert is_one_sentence(str(error.value))
    with pytest.raises(ValueError, match="weight_decay"):
        across_widths(8, 8, learning_rate=0.1, weight_decay=-1.0)
