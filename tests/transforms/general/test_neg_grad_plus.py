"""NegGrad+: closed forms on linear models, its two ends, and its weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close

import mu_jax as mu
from mu_jax.loops.gradients import per_term

KEY = jax.random.key(0)


def linear(loss=mu.losses.squared_error):
    return mu.from_function(lambda w, state, x: x @ w, loss)


def losses_of(model, variables, data):
    return jax.jit(model.losses)(variables, data)


def examples(n=12, forgotten=4, **options):
    inputs = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    data = mu.batches(inputs, inputs.sum(1) + 1, batch_size=n, **options)
    return mu.split(data, range(forgotten))


@pytest.mark.parametrize("forget_weight", [0.05, 0.5])
def test_one_step_of_a_linear_regression_by_hand(forget_weight):
    forget, retain = examples()
    w = jnp.array([0.5, -1.0, 2.0])

    def mean_gradient(part):
        inputs, apart = np.asarray(part.inputs), np.asarray(part.inputs) @ w - part.targets
        return 2 * inputs.T @ np.asarray(apart) / part.num_examples

    unlearn = mu.neg_grad_plus(linear(), optax.sgd(0.1), forget_weight=forget_weight)
    after, info = unlearn(KEY, mu.Variables(w), forget, retain)
    gradient = (1 - forget_weight) * mean_gradient(retain) - forget_weight * mean_gradient(forget)
    assert_close(after.params, w - 0.1 * gradient)
    model = linear()
    losses = [losses_of(model, mu.Variables(w), part).mean() for part in (retain, forget)]
    expected = (1 - forget_weight) * losses[0] - forget_weight * losses[1]
    np.testing.assert_allclose(info.details.loss[0], expected, rtol=1e-5)
    assert (info.steps, info.example_passes) == (1, 12)


def test_batches_are_on_average_the_whole_sets():
    forget, retain = examples(n=12, forgotten=1)
    w = mu.Variables(jnp.array([0.5, -1.0, 2.0]))
    unlearn = mu.neg_grad_plus(linear(), optax.sgd(0.0), forget_weight=0.3, batch_size=3)
    with pytest.warns(mu.UnlearningWarning, match="Nothing was changed"):
        _, info = unlearn(KEY, w, forget, retain)
    model = linear()
    whole = [losses_of(model, w, part).mean() for part in (retain, forget)]
    # Three of the four batches hold nothing to forget.
    np.testing.assert_allclose(info.details.loss.mean(), 0.7 * whole[0] - 0.3 * whole[1], rtol=1e-5)


def test_its_ends_are_finetuning_and_gradient_ascent():
    chosen = setting("raw")
    forget, retain = chosen.sets(batch_size=100)

    def run(factory, **options):
        return factory(chosen.model, optax.sgd(0.05), **options)(
            KEY, chosen.variables, forget, retain
        )[0].params

    assert_close(run(mu.neg_grad_plus, forget_weight=0.0), run(mu.finetune))
    assert_close(run(mu.neg_grad_plus, forget_weight=1.0), run(mu.gradient_ascent))
    capped = run(mu.neg_grad_plus, forget_weight=1.0, cap=1.5)
    assert_close(capped, run(mu.gradient_ascent, cap=1.5))


def test_classes_to_forget_lose_and_the_others_stay():
    model = linear(mu.losses.cross_entropy)
    data = mu.batches(jnp.eye(3), jnp.arange(3), batch_size=3)
    forget, retain = mu.split(data, [2])
    unlearn = mu.neg_grad_plus(model, optax.sgd(0.5), forget_weight=0.5, epochs=50)
    after, _ = unlearn(KEY, mu.Variables(jnp.eye(3)), forget, retain)
    found = losses_of(model, after, data)
    assert found[2] > 5 > 0.2 > found[:2].max()


def test_an_example_at_its_cap_pushes_no_further():
    data = mu.batches(jnp.eye(2), jnp.zeros(2), batch_size=2)
    forget, retain = mu.split(data, [0])
    model, start = linear(mu.losses.absolute_error), mu.Variables(jnp.array([1.0, 3.0]))
    options = {"forget_weight": 0.5, "epochs": 40}
    unlearn = mu.neg_grad_plus(model, optax.sgd(0.5), cap=3.9, **options)
    # |w| of the first rises by 1/4 a step to beyond 3.9, that of the other falls to 0.
    np.testing.assert_allclose(unlearn(KEY, start, forget, retain)[0].params, [4.0, 0.0])
    free, _ = mu.neg_grad_plus(model, optax.sgd(0.5), **options)(KEY, start, forget, retain)
    np.testing.assert_allclose(free.params, [11.0, 0.0])


def test_both_parts_have_names_and_the_weight_may_be_traced():
    chosen = setting("raw")
    sets = chosen.sets()

    def run(forget_weight, gradients=None):
        unlearn = mu.neg_grad_plus(
            chosen.model, optax.sgd(0.05), forget_weight=forget_weight, gradients=gradients
        )
        return unlearn(KEY, chosen.variables, *sets)[0].params

    both = per_term(lambda grads: optax.tree.add(grads["retain"], grads["forget"]))
    assert_close(run(0.3, both), run(0.3))
    found = jax.jit(jax.vmap(run))(jnp.array([0.1, 0.3]))
    assert_close(jax.tree.map(lambda x: x[1], found), run(0.3))


@pytest.mark.parametrize("weight", [[1, 2, 0, 1, 3, 1, 1, 1, 0, 1, 1, 1]])
def test_weights_count_in_the_means(weight):
    forget, retain = examples(weight=weight)
    w = jnp.array([0.5, -1.0, 2.0])
    unlearn = mu.neg_grad_plus(linear(), optax.sgd(0.1), forget_weight=0.5)
    after, _ = unlearn(KEY, mu.Variables(w), forget, retain)

    def loss(w):
        means = [
            jnp.average(linear().losses(mu.Variables(w), part), weights=part.weight)
            for part in (retain, forget)
        ]
        return 0.5 * means[0] - 0.5 * means[1]

    assert_close(after.params, w - 0.1 * jax.jit(jax.grad(loss))(w))
