"""Concept noise: where it goes, how large it is, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import setting
from trees import is_one_sentence

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)


def run(concepts, start=None, **options):
    chosen = setting("tokens")
    unlearn = mu.concept_noise(chosen.model, concepts=concepts, **options)
    return unlearn(KEY, start or chosen.variables, *chosen.sets())[0].params


def test_chosen_vectors_move_and_nothing_else():
    before, after = setting("tokens").variables.params, run({"head": [1, 4], "hidden": [2]})
    moved = {name: np.asarray(after[name] != before[name]) for name in before}
    assert moved["head"][[1, 4]].all() and not moved["head"][[0, 2, 3, 5]].any()
    assert moved["hidden"][2].all() and moved["hidden"].any(axis=1).sum() == 1
    assert not moved["bias"].any()


def test_the_noise_is_normal_and_scales():
    chosen = setting("tokens")
    params = chosen.variables.params | {"head": jnp.zeros((6, 4000))}
    start = mu.Variables(params, chosen.variables.state)
    drawn = np.asarray(run({"head": [0, 3]}, start)["head"])[[0, 3]]
    np.testing.assert_allclose(drawn.std(axis=1), 0.1, rtol=0.05)
    np.testing.assert_allclose(drawn.mean(axis=1), 0, atol=0.01)
    assert abs(np.corrcoef(drawn)[0, 1]) < 0.1
    twice = np.asarray(run({"head": [0, 3]}, start, noise=0.2)["head"])[[0, 3]]
    np.testing.assert_allclose(twice, 2 * drawn, rtol=1e-5)


@pytest.mark.parametrize(
    ("concepts", "says"),
    [
        ({"down": [1]}, "expected names of trained leaves such as 'bias', found 'down'"),
        ({}, "found none"),
        ({"head": [6]}, "expected numbers from 0 to 5 of vectors of 'head'"),
        ({"head": []}, "expected numbers from 0 to 5"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(concepts, says):
    with pytest.raises(ValueError, match=says) as error:
        run(concepts)
    assert is_one_sentence(str(error.value))
