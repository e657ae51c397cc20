from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import (
    CLASSES,
    EXAMPLES,
    FEATURES,
    LOGISTIC,
    MODEL,
    data,
    explicit,
    matrix_of,
    variables,
)
from trees import is_one_sentence

import mu_jax as mu
from mu_jax import attribution

KEY = jax.random.key(0)
SIZE = 40  # parameters of MODEL


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def prepare(seeds=(0, 1), *, dim=24, **options):
    return attribution.trak(
        MODEL, [variables(s) for s in seeds], data(), key=KEY, dim=dim, **options
    )


def features_of(store, number, examples):
    """phi, 1 - p and p (1 - p) of one checkpoint, from dense Jacobians and a dense P."""
    point = store.checkpoints[number]
    dense = explicit(store.model, point.variables, examples)
    matrix = matrix_of(point.projection, dense.gradients.shape[1])
    return dense.gradients @ matrix, dense.residual, dense.curvature


def raised(features, r, *, ridge=0.0, damping=0.0):
    matrix = (features * r[:, None]).T @ features
    return matrix + (ridge * np.diagonal(matrix).mean() + damping) * np.eye(len(matrix))


@pytest.mark.quick("None")
@pytest.mark.parametrize("dim", [24, None])
def test_scores_agree_with_dense_matrices(dim):
    targets = data(7, seed=5)
    store = prepare(dim=dim)
    products, residuals = [], []
    for number in range(2):
        phi, residual, _ = features_of(store, number, data())
        psi = features_of(store, number, targets)[0]
        matrix = raised(phi, np.ones(EXAMPLES), ridge=1e-3)
        products.append(phi @ np.linalg.solve(matrix, psi.T))
        residuals.append(residual[:, None])
    scores = attribution.trak_scores(store, data(), targets)
    expected = np.mean(products, 0) * np.mean(residuals, 0)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)
    averaged = attribution.trak_scores(store, data(), targets, product_of_averages=False)
    expected = np.mean([a * b for a, b in zip(products, residuals, strict=True)], 0)
    np.testing.assert_allclose(averaged, expected, rtol=1e-9, atol=1e-12)


def test_gauss_newton_scores_with_the_leave_one_out_denominator():
    targets = data(7, seed=5)
    store = prepare((4,), weight_decay=1e-2)
    phi, residual, r = features_of(store, 0, data())
    psi = features_of(store, 0, targets)[0]
    matrix = raised(phi, r, damping=1e-2 * EXAMPLES)
    solved = phi @ np.linalg.solve(matrix, psi.T)
    leverage = r * np.sum(phi * np.linalg.solve(matrix, phi.T).T, 1)
    expected = solved * (residual / (1 - leverage))[:, None]
    scores = attribution.trak_scores(store, data(), targets, leave_one_out=True)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)
    assert np.abs(scores / attribution.trak_scores(store, data(), targets) - 1).max() > 0.01


@pytest.mark.parametrize("dim", [24, None])
def test_reference_scaling_gives_the_units_of_the_published_program(dim):
    """Signs of +-1, gradients over sqrt(p), an inverse over its mean magnitude."""
    targets = data(7, seed=5)
    store = prepare(dim=dim)
    products, residuals = [], []
    for number in range(2):
        phi, residual, _ = features_of(store, number, data())
        psi = features_of(store, number, targets)[0]
        signs = np.sqrt(dim or 1)
        phi, psi = phi * signs / np.sqrt(SIZE), psi * signs / np.sqrt(SIZE)
        inverse = np.linalg.inv(raised(phi, np.ones(EXAMPLES), ridge=1e-3))
        products.append(phi @ (inverse / np.abs(inverse).mean()) @ psi.T)
        residuals.append(residual[:, None])
    scores = attribution.trak_scores(store, data(), targets, reference_scaling=True)
    expected = np.mean(products, 0) * np.mean(residuals, 0)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)


def logistic(n=EXAMPLES, *, weight_decay=0.0):
    """Logistic regression and its minimizer of `mean loss + weight_decay / 2 |w|^2`."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(n, FEATURES)), rng.integers(2, size=n)
    return mu.batches(x, y, batch_size=16), mu.Variables(minimize(x, y, n * weight_decay))


def minimize(x, y, l2):
    """The minimizer of `sum of losses + l2 / 2 |w|^2`, by Newton steps."""
    w = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ w))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + l2 * np.eye(len(w))
        w = w - np.linalg.solve(hessian, x.T @ (p - y) + l2 * w)
    return jnp.asarray(w)


@pytest.mark.quick("0.01")
@pytest.mark.parametrize("weight_decay", [None, 0.01])
def test_on_a_logistic_model_it_is_the_newton_step_without_each_example(weight_decay):
    """Plain TRAK is the formula without R; with `weight_decay` it is the formula itself."""
    examples, point = logistic(weight_decay=weight_decay or 0.0)
    x, y = np.asarray(examples.inputs), np.asarray(examples.targets)
    p = 1 / (1 + np.exp(-x @ np.asarray(point.params)))
    r = np.ones(EXAMPLES) if weight_decay is None else p * (1 - p)
    options = {"ridge": 0.0} if weight_decay is None else {"weight_decay": weight_decay}
    store = attribution.trak(LOGISTIC, [point], examples, key=KEY, dim=None, **options)
    scores = attribution.trak_scores(store, examples, examples, leave_one_out=True)
    sign = 2 * y - 1
    damping = EXAMPLES * (weight_decay or 0) * np.eye(FEATURES)
    for i in range(EXAMPLES):
        kept = np.arange(EXAMPLES) != i
        hessian = (x[kept] * r[kept, None]).T @ x[kept] + damping
        step = np.linalg.solve(hessian, x[i] * (p[i] - y[i]))  # from w to w without i
        np.testing.assert_allclose(scores[i], -sign * (x @ step), rtol=1e-8, atol=1e-12)


def test_it_predicts_retraining_of_a_logistic_model():
    wd = 0.02
    examples, point = logistic(weight_decay=wd)
    x, y = np.asarray(examples.inputs), np.asarray(examples.targets)
    store = attribution.trak(LOGISTIC, [point], examples, key=KEY, dim=None, weight_decay=wd)
    scores = attribution.trak_scores(store, examples, examples, leave_one_out=True)
    for i in (3, 20, 50):
        kept = np.arange(EXAMPLES) != i
        without = minimize(x[kept], y[kept], EXAMPLES * wd)
        change = (2 * y - 1) * (x @ np.asarray(point.params - without))
        np.testing.assert_allclose(scores[i], change, atol=0.06 * np.abs(change).max())


def test_an_example_of_weight_zero_was_not_there():
    examples = data()
    weight = np.ones(EXAMPLES, np.float32)
    weight[[2, 31]] = 0
    weighted = mu.batches(
        examples.inputs.at[2].set(np.nan), examples.targets, batch_size=16, weight=weight
    )
    kept = np.flatnonzero(weight)
    found, expected = (
        attribution.trak_scores(
            attribution.trak(MODEL, [variables(0)], given, key=KEY, dim=24), given, data(7, seed=5)
        )
        for given in (weighted, examples.take(kept))
    )
    np.testing.assert_allclose(found[kept], expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found[np.array([2, 31])], 0)


def _stream():
    pairs = zip(np.asarray(data().inputs), np.asarray(data().targets), strict=True)
    return mu.stream(list(pairs), batch_size=16)


@pytest.mark.quick("batches", "explicit mesh")
@pytest.mark.parametrize(
    "examples",
    [
        lambda: data(batch_size=23),
        _stream,
        lambda: mu.shard(data(), mu.data_mesh()),
        lambda: mu.shard(data(), _explicit_mesh()),
    ],
    ids=["batches", "stream", "mesh", "explicit mesh"],
)
def test_batches_padding_streams_and_meshes_give_the_same(examples):
    expected = attribution.trak_scores(prepare((0,)), data(), data(7, seed=5))
    store = attribution.trak(MODEL, [variables(0)], examples(), key=KEY, dim=24)
    scores = attribution.trak_scores(store, examples(), data(7, seed=5))
    np.testing.assert_allclose(scores, expected, rtol=1e-8, atol=1e-12)


def _explicit_mesh():
    return jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])


def test_checkpoints_have_different_projections_and_the_key_decides():
    store = prepare((0, 0))
    first, second = (matrix_of(point.projection, SIZE) for point in store.checkpoints)
    assert not np.array_equal(first, second)
    again = prepare((0, 0))
    np.testing.assert_array_equal(store.checkpoints[1].factor, again.checkpoints[1].factor)


def test_condition_is_a_lower_bound():
    point = prepare((0,)).checkpoints[0]
    matrix = np.asarray(point.factor) @ np.asarray(point.factor).T
    assert 1 < point.condition <= np.linalg.cond(matrix)


def test_refusals():
    def message(examples=None, points=None, **options):
        points = [variables(0)] if points is None else points
        with pytest.raises(ValueError) as error:
            attribution.trak(MODEL, points, examples or data(), key=KEY, **options)
        assert is_one_sentence(str(error.value))
        return str(error.value)

    assert "at most the number of examples" in message(data(20), dim=30)
    assert "less than the 40 parameters" in message(dim=40)
    assert "at least one checkpoint" in message(points=[], dim=24)
    with jax.enable_x64(False):
        few, point = data(20, dtype=np.float32), variables(0, np.float32)
        assert "give ridge=1e-3" in message(few, [point], dim=None, ridge=0.0)
    assert "margin" in message(points=[variables(0)._replace(params=_broken())], dim=24)
    for label in (CLASSES, -1):
        labels = data().targets.at[7].set(label)
        wrong = mu.batches(data().inputs, labels, batch_size=16)
        assert "margin" in message(wrong, dim=24)
    with pytest.raises(ValueError, match="expected Batches or a Stream"):
        attribution.trak_scores(prepare((0,)), list(data()), data())


def _broken():
    params = variables(0).params
    return {**params, "out": params["out"].at[0, 0].set(np.nan)}


def test_rows_of_margins_that_saturate_stay_finite():
    params = jax.tree.map(lambda x: 300 * x, variables(0).params)
    store = attribution.trak(
        MODEL, [mu.Variables(params)], data(), key=KEY, dim=24, weight_decay=1e-3
    )
    scores = attribution.trak_scores(store, data(), data(7, seed=5))
    assert np.isfinite(scores).all()
