"""How to take the gradient: plain, sharpness-aware, one per term, in micro-batches."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting_cases import (
    ADAM,
    KEY,
    MODEL,
    OBJECTIVE,
    N,
    assert_same,
    by_hand,
    close,
    data,
    mean_loss,
    run,
    squared,
    start,
)

import mu_jax as mu
from mu_jax.loops.gradients import Term, micro_batches, per_term, plain, sam, total
from mu_jax.losses import weighted_sum


def two_terms(variables, batch, frozen, key):
    del frozen, key
    losses = squared(MODEL.apply(variables, batch.inputs), batch.targets)
    norm = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(variables.params))
    found = {
        "loss": Term(weighted_sum(losses, batch.weight), batch.weight.sum()),
        "norm": Term(norm, jnp.ones(()), 0.1),
    }
    return found, variables


def add_up(gradients):
    return jax.tree.map(lambda *leaves: sum(leaves), *gradients.values())


def project(gradients):
    """The gradient of the loss without its part along that of the norm."""
    g, n = gradients["loss"], gradients["norm"]
    return optax.tree.add_scale(g, -optax.tree.vdot(g, n) / optax.tree.vdot(n, n), n)


def test_total_is_the_sum_of_scaled_means_and_an_empty_term_counts_nothing():
    terms = {
        "a": Term(jnp.float32(6), jnp.float32(4)),
        "b": Term(jnp.float32(3), jnp.float32(2), -2.0),
        "empty": Term(jnp.float32(0), jnp.float32(0)),
    }
    assert total(terms) == 1.5 - 3.0


def test_plain_is_the_gradient_of_the_mean():
    batch = data().at(2)

    def terms(params, batch):
        return OBJECTIVE(mu.Variables(params), batch, {}, KEY)

    grads, found, moved = plain(terms, start().params, batch)
    rows = slice(8, 11)
    expected = jax.grad(mean_loss)(
        start().params, data().inputs[rows], data().targets[rows], jnp.ones(3)
    )
    close(grads, expected)
    assert found["loss"].weight == 3
    assert_same(moved, start())


def test_sam_is_the_gradient_at_the_perturbed_parameters():
    rho, take = 0.3, jax.value_and_grad(mean_loss)

    def gradient(params, *batch):
        loss, grads = take(params, *batch)
        length = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
        moved = jax.tree.map(lambda p, g: p + rho * g / length, params, grads)
        return loss, take(moved, *batch)[1]

    state, info = run(epochs=2, gradients=sam(rho))
    params, losses = by_hand(data(), 6, gradient=gradient)
    close(state.variables.params, params, rtol=1e-4)
    np.testing.assert_allclose(info.loss, losses, rtol=1e-4)
    close(run(gradients=sam(0.0))[0].variables, run()[0].variables)


def test_one_gradient_per_term_added_up_is_plain():
    expected, info = run(objective=two_terms, epochs=2)
    found, per_term_info = run(objective=two_terms, epochs=2, gradients=per_term(add_up))
    close(found.variables, expected.variables)
    close(per_term_info, info)


def test_one_gradient_per_term_may_be_projected():
    batch = data().at(0)
    norm = jax.grad(lambda p: 0.1 * sum(jnp.sum(x * x) for x in jax.tree.leaves(p)))(start().params)
    loss = jax.grad(mean_loss)(start().params, batch.inputs, batch.targets, batch.weight)

    def terms(params, batch):
        return two_terms(mu.Variables(params), batch, {}, KEY)

    seen = []
    grads, _, _ = per_term(lambda g: seen.append(g) or project(g))(terms, start().params, batch)
    close(seen[0], {"loss": loss, "norm": norm})
    close(grads, project({"loss": loss, "norm": norm}))
    assert abs(optax.tree.vdot(grads, norm)) < 1e-6


@pytest.mark.parametrize("number", [1, 2, 4])
def test_micro_batches_are_plain(number):
    expected, info = run(objective=two_terms, epochs=2)
    found, found_info = run(objective=two_terms, epochs=2, gradients=micro_batches(number))
    close(found.variables, expected.variables, rtol=1e-5)
    close(found_info, info, rtol=1e-5)


def test_micro_batches_are_plain_to_rounding_in_float64():
    with jax.enable_x64(True):
        batches = data(8, jnp.float64, weight=jnp.linspace(0.1, 2, N))

        def terms(params, batch):
            return two_terms(mu.Variables(params), batch, {}, KEY)

        params = start(jnp.float64).params
        for batch in batches:
            expected, found, _ = jax.jit(lambda p, b: plain(terms, p, b))(params, batch)
            grads, parts, _ = jax.jit(lambda p, b: micro_batches(4)(terms, p, b))(params, batch)
            close(grads, expected, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(total(parts), total(found), rtol=1e-12)


def test_micro_batches_refuse_parts_of_unequal_size():
    with pytest.raises(ValueError, match="divides into 3 parts, found one of 4 rows"):
        run(gradients=micro_batches(3))


class Normalized(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(1)(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))[:, 0]


def test_micro_batches_move_statistics_by_the_last_part():
    module = Normalized()
    variables = module.init(jax.random.key(0), jnp.ones((2, 3)))
    model = mu.from_linen(module, squared)
    objective = mu.supervised(model, training_mode=True)
    batches = data(4).take(np.arange(4))
    state, _ = mu.fit(
        model,
        objective,
        ADAM,
        variables,
        batches,
        key=KEY,
        shuffle=False,
        gradients=micro_batches(2),
    )
    mean = state.variables["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.5 * batches.inputs[2:].mean(0), rtol=1e-5)
