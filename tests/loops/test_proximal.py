"""The proximal pull: how much is held, and where."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, is_one_sentence, stack

import mu_jax as mu
from mu_jax.loops import pull_back

KEY = jax.random.key(0)


def fitted(optimizer, steps=3):
    chosen = setting("raw")
    state, _ = mu.fit(
        chosen.model,
        mu.supervised(chosen.model),
        optimizer,
        chosen.variables,
        chosen.data(),
        key=KEY,
        steps=steps,
    )
    return state.variables.params


def moved(params):
    start = setting("raw").variables.params
    pairs = zip(jax.tree.leaves(params), jax.tree.leaves(start), strict=True)
    return np.concatenate([np.asarray(a - b).ravel() for a, b in pairs])


def test_a_share_keeps_every_bit_of_its_start():
    step = optax.sgd(0.1, momentum=0.9)
    free = moved(fitted(step, 1))
    for share in (0.0, 0.3, 0.75):
        found = moved(fitted(optax.chain(step, pull_back(share)), 1))
        number = int(share * found.size)
        least = np.sort(np.abs(free))[number - 1] if number else 0
        assert (found == 0).sum() == number
        expected = np.sign(free) * np.maximum(np.abs(free) - least, 0)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    held = moved(fitted(optax.chain(step, pull_back(0.75)), 3)) == 0
    assert held.sum() >= int(0.75 * held.size)
    assert (moved(fitted(optax.chain(step, pull_back(1.0)))) == 0).all()


def test_an_anchor_that_moves_holds_what_the_last_steps_did():
    step = optax.sgd(0.1)
    before, after = (fitted(optax.chain(step, pull_back(0.6, 2)), n) for n in (2, 3))
    found = moved(after) - moved(before)
    number = int(0.6 * found.size)
    assert (moved(after) == 0).sum() < number <= (found == 0).sum()


@pytest.mark.slow
def test_shares_may_be_traced_and_are_one_program():
    def run(share):
        return fitted(optax.chain(optax.sgd(0.1), pull_back(share)))

    shares = jnp.array([0.2, 0.5])
    assert_close(jax.vmap(run)(shares), stack([run(float(x)) for x in shares]))


@pytest.mark.parametrize(
    ("options", "says"),
    [({"share": 1.5}, "share from 0 to 1, found 1.5"), ({"share": 0.5, "every": 0}, "every as a")],
)
def test_wrong_numbers_are_refused_at_once(options, says):
    with pytest.raises(ValueError, match=says) as error:
        pull_back(**options)
    assert is_one_sentence(str(error.value))
