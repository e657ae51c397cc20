from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import EXAMPLES, LOSS, MODEL, data, variables

import mu_jax as mu
from mu_jax import attribution


def naive_norms(model, point, examples):
    def loss(params, x, y):
        return model.loss(model.predict(params, (), x[None]), y[None])[0]

    gradients = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(
        point.params, examples.inputs, examples.targets
    )
    squares = [np.square(g).reshape(len(g), -1).sum(1) for g in jax.tree.leaves(gradients)]
    return np.sqrt(sum(squares))


def test_grand_is_the_mean_norm_of_each_gradient():
    points = [variables(s, np.float32) for s in (0, 1)]
    examples = data(batch_size=16, dtype=np.float32)
    expected = np.mean([naive_norms(MODEL, point, examples) for point in points], 0)
    found = attribution.grand(MODEL, points, examples)
    assert found.shape == (EXAMPLES,)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_grand_of_a_convolution_is_the_same_on_a_mesh():
    def predict(kernel, state, x):
        y = jax.lax.conv(x, kernel, (1,), "VALID")
        return jnp.tanh(y).sum(-1)

    rng = np.random.default_rng(0)
    model = mu.from_function(predict, LOSS)
    point = mu.Variables(jnp.asarray(rng.normal(size=(3, 2, 3)), jnp.float32))
    inputs = rng.normal(size=(19, 2, 6)).astype(np.float32)
    examples = mu.batches(inputs, rng.integers(3, size=19), batch_size=8)
    expected = naive_norms(model, point, examples)
    for given in (examples, mu.shard(examples, mu.data_mesh())):
        np.testing.assert_allclose(attribution.grand(model, [point], given), expected, rtol=1e-5)


def test_grand_refuses_what_is_not_finite():
    examples = data(dtype=np.float32)
    broken = examples.replace(inputs=examples.inputs.at[3].set(jnp.nan))
    with pytest.raises(ValueError, match="found 1 examples with NaN"):
        attribution.grand(MODEL, [variables(0, np.float32)], broken)
    with pytest.raises(ValueError, match="at least one checkpoint"):
        attribution.grand(MODEL, [], examples)


def test_el2n_is_the_mean_length_of_the_error():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(3, 10, 4)), rng.integers(4, size=10)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    expected = np.linalg.norm(p - np.eye(4)[labels], axis=-1).mean(0)
    np.testing.assert_allclose(attribution.el2n(logits, labels), expected, rtol=1e-5)
    np.testing.assert_allclose(
        attribution.el2n(logits[0], labels), np.linalg.norm(p[0] - np.eye(4)[labels], axis=-1), 1e-5
    )


def test_memorization_is_the_diagonal_of_the_difference_of_means():
    rng = np.random.default_rng(0)
    masks, correct = rng.random((20, 8)) < 0.5, rng.random((20, 8)) < 0.7
    found = attribution.memorization(masks, correct)
    for i in range(8):
        inside = masks[:, i]
        expected = correct[inside, i].mean() - correct[~inside, i].mean()
        np.testing.assert_allclose(found[i], expected, atol=1e-6)
    diagonal = jnp.diagonal(attribution.difference_of_means(masks, 1.0 * correct).effects)
    np.testing.assert_allclose(found, diagonal, atol=1e-6)
    with pytest.raises(ValueError, match="of one shape"):
        attribution.memorization(masks, correct[:, :5])


def test_forgetting_events_are_counted_once_each():
    correct = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 1, 1], [1, 1, 0, 1, 1], [0, 1, 0, 1, 1]], bool)
    np.testing.assert_array_equal(attribution.forgetting_events(correct), [2, 1, np.inf, 0, 0])
    with pytest.raises(ValueError, match="at least 2 times"):
        attribution.forgetting_events(correct[:1])
