"""SAM on the forget term against the published program, three steps in float64.

The program perturbs the parameters by the gradient of the forget loss, takes the forget gradient
there, and adds the gradient of the retain loss where the parameters are.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lm_golden import hp, params_of, predict, targets_of

from mu_jax.data.batches import Batch
from mu_jax.loops.gradients import Term, micro_batches, sam, total
from mu_jax.objectives.token_terms import token_cross_entropy

ROWS = jnp.ones(3)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def cross_entropy(params, name, scale=1.0):
    targets = targets_of(name)
    return token_cross_entropy(predict(params, (), targets.tokens), targets, ROWS, scale)


def ascent(params):
    return cross_entropy(params, "forget", -1.0)


def npo_of_a_batch(params):
    """The form of the program: one difference of token means for the whole batch."""
    moved = [total({"": cross_entropy(p, "forget")}) for p in (params, params_of("tiny_ref"))]
    beta = hp("npo_beta")
    return Term(-2 / beta * jax.nn.log_sigmoid(beta * (moved[0] - moved[1])), jnp.ones(()))


FORGET = {"ga": ascent, "npo_batch_mean": npo_of_a_batch}


@pytest.mark.quick("npo_batch_mean")
@pytest.mark.parametrize("name", FORGET)
def test_three_steps_of_the_program(name):
    optimizer = optax.adam(hp("lr"))

    def terms(params, batch):
        del batch
        kept = cross_entropy(params, "retain", hp("sam_gamma"))
        return {"forget": FORGET[name](params), "retain": kept}, ()

    take = jax.jit(lambda params: sam(hp("sam_rho"), "forget")(terms, params, None)[0])
    params = params_of("tiny")
    state = optimizer.init(params)
    for step in range(3):
        grads = take(params)
        if step == 0:
            for leaf, expected in params_of(f"sam/{name}/grad1").items():
                np.testing.assert_allclose(grads[leaf], expected, rtol=1e-9, atol=1e-13)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for leaf, expected in params_of(f"sam/{name}/tiny_after{step + 1}").items():
            np.testing.assert_allclose(params[leaf], expected, rtol=1e-9, atol=1e-12)


A, B = np.array([[3.0, 0.5], [0.5, 1.0]]), np.array([1.0, -2.0])


def quadratics(scale=2.0):
    """`f = p A p / 2 - b p` and `r = (p - 1) diag(1, 2) (p - 1) / 2`, rows with a share of each."""

    def terms(params, batch):
        share = batch.weight / batch.weight.shape[0]
        f = params @ jnp.asarray(A) @ params / 2 - jnp.asarray(B) @ params
        r = (jnp.array([1.0, 2.0]) * (params - 1) ** 2).sum() / 2
        forget = Term(f * share.sum(), share.sum())
        return {"forget": forget, "retain": Term(r * share.sum(), share.sum(), scale)}, ()

    return terms


def test_two_quadratics_by_hand():
    p, rho, gamma = np.array([0.3, 0.7]), 0.1, 2.0
    g = A @ p - B
    moved = p + rho * g / np.sqrt((g**2).sum())
    np.testing.assert_allclose(moved - p, [0.00873837, 0.09961747], atol=1e-8)
    expected = A @ moved - B + gamma * np.array([1.0, 2.0]) * (p - 1)
    for inner in (None, micro_batches(2)):
        seam = sam(rho, "forget") if inner is None else sam(rho, "forget", gradients=inner)
        batch = Batch((), (), jnp.ones(4), jnp.arange(4))
        found, terms, _ = seam(quadratics(gamma), jnp.asarray(p), batch)
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(p - 0.05 * found, [0.35369881, 0.61230067], atol=1e-8)
        at_p = p @ A @ p / 2 - B @ p + gamma * (np.array([1, 2]) * (p - 1) ** 2).sum() / 2
        np.testing.assert_allclose(total(terms), at_p, rtol=1e-12)
