"""CodeEraser: forget and retain steps in turn, by one optimizer state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, is_one_sentence

import mu_jax as mu
from mu_jax.token_losses import scored_nll, token_kl

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)
ADAM = optax.adam(0.05, b2=0.98)


def sets():
    return [x.replace(batch_size=100) for x in setting("tokens").sets()]


def test_steps_in_turn_by_hand():
    chosen, (forget, retain) = setting("tokens"), sets()
    unlearn = mu.code_eraser(chosen.model, ADAM, gamma=0.3, strength=0.2, alpha=1.5, epochs=3)
    found, info = unlearn(KEY, chosen.variables, forget, retain)
    first = chosen.variables.params

    def logits(params, data):
        return chosen.model.apply(chosen.variables._replace(params=params), data.inputs)

    def mean(values, mask):
        return (values * mask).sum() / mask.sum()

    def forgetting(params):
        z, y = logits(params, forget), forget.targets
        nll, mask = scored_nll(z, y)
        apart = token_kl(z, logits(first, forget))
        context = 0.3 * mean(nll, mask * (1 - y.secret))
        return context - mean(nll, y.secret) - 0.2 * mean(apart, y.secret)

    def retaining(params):
        apart = token_kl(logits(params, retain), logits(first, retain))
        return 0.2 * 1.5 * mean(apart, retain.targets.mask)

    def step_of(value):
        @jax.jit
        def step(params, state):
            updates, state = ADAM.update(jax.grad(value)(params), state, params)
            return optax.apply_updates(params, updates), state

        return step

    params, state, steps = first, ADAM.init(first), [step_of(forgetting), step_of(retaining)]
    for step in 3 * steps:
        params, state = step(params, state)
    assert_close(found.params, params, rtol=1e-4, atol=1e-5)
    assert int(info.steps) == 6


def test_a_retain_step_follows_each_batch_to_forget():
    chosen = setting("tokens")
    unlearn = mu.code_eraser(chosen.model, ADAM, epochs=2, batch_size=2, retain_batch_size=4)
    _, info = unlearn(KEY, chosen.variables, *sets())
    assert [fit.loss.shape for fit in info.details[:2]] == [(6,), (6,)]
    np.testing.assert_array_equal(info.details.retain.examples, [4.0] * 6)


def test_positions_outside_the_secret_and_its_context_do_not_matter():
    chosen, (forget, retain) = setting("tokens"), sets()
    unlearn = mu.code_eraser(chosen.model, ADAM, epochs=1)
    y = forget.targets
    other = y._replace(tokens=jnp.where(y.mask > 0, y.tokens, -100))
    found = unlearn(KEY, chosen.variables, forget.replace(targets=other), retain)[0]
    assert_close(found, unlearn(KEY, chosen.variables, forget, retain)[0])


def test_targets_without_secrets_are_refused_in_one_sentence():
    chosen, (forget, retain) = setting("tokens"), sets()
    plain = forget.replace(targets=forget.targets._replace(secret=()))
    with pytest.raises(ValueError, match="mark the tokens of secrets") as error:
        mu.code_eraser(chosen.model, ADAM)(KEY, chosen.variables, plain, retain)
    assert is_one_sentence(str(error.value))
