"""Hyper-parameters outside their range are refused where they can be seen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax.data.checks import check_range

NAN, INF = float("nan"), float("inf")
MODEL = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
SGD = optax.sgd(0.1)
ONES = jnp.ones(2)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: mu.ssd(MODEL, 2.0, dampening=-1), "expected dampening from 0 to .*, found -1:"),
        (lambda: mu.ssd(MODEL, 2.0, NAN), "expected dampening from 0 to .*, found nan:"),
        (lambda: mu.ssd(MODEL, 2.0, INF), "expected dampening from 0 to .*, found inf:"),
        (lambda: mu.ssd(MODEL, -0.5), "expected alpha >= 0, found -0.5:"),
        (lambda: mu.ssd(MODEL, NAN), "expected alpha >= 0, found nan:"),
        (lambda: mu.ssd(MODEL, jnp.array([1.0, -2.0])), "expected alpha >= 0, found -2:"),
        (lambda: mu.ssd(MODEL, np.float32(NAN)), "expected alpha >= 0, found nan:"),
        (lambda: mu.magnitude_prune(MODEL, 1.5), "expected sparsity from 0 to 1, found 1.5:"),
        (lambda: mu.magnitude_prune(MODEL, -0.1), "expected sparsity from 0 to 1, found -0.1:"),
        (lambda: mu.magnitude_prune(MODEL, NAN), "expected sparsity from 0 to 1, found nan:"),
        (lambda: mu.neg_grad_plus(MODEL, SGD, forget_weight=2), "forget_weight from 0 to 1"),
        (lambda: mu.neg_grad_plus(MODEL, SGD, cap=NAN), "expected cap .*, found nan:"),
        (lambda: mu.gradient_ascent(MODEL, SGD, cap=NAN), "expected cap .*, found nan:"),
        (lambda: mu.edits.dampen(ONES, ONES, ONES, alpha=-1), "expected alpha >= 0, found -1:"),
        (
            lambda: mu.edits.dampen(ONES, ONES, ONES, alpha=0.5, dampening=-1),
            "expected dampening from 0",
        ),
        (lambda: mu.edits.dampen(ONES, ONES, ONES, alpha=0.5, upper=NAN), "expected upper >= 0"),
    ],
)
def test_numbers_outside_their_range(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_bounds_and_what_cannot_be_seen_pass():
    check_range(0, 1, a=0, b=1, c=None, d=np.array([0.5, 1.0]))
    mu.ssd(MODEL, 0.0, 0.0), mu.ssd(MODEL, INF), mu.magnitude_prune(MODEL, 1)

    @jax.jit
    def dampened(alpha):
        return mu.edits.dampen(ONES, 2 * ONES, ONES, alpha=alpha)

    np.testing.assert_array_equal(dampened(-1.0), -0.5 * ONES)
