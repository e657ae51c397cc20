"""In float64 no sum is divided by a float32 number: against NumPy, to the last digits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax.attribution import group_effects
from mu_jax.loops.gradients import Term, total
from mu_jax.probes import relearning_curve, worst_case_set

N, FORGET = 7, 2
CLOSE = {"rtol": 1e-12, "atol": 1e-14}
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Case:
    """Linear regression whose weights float32 holds, but not their sum."""

    def __init__(self, whole: bool):
        rng = np.random.default_rng(0)
        self.x, self.y, self.w = rng.normal(size=(N, 3)), rng.normal(size=N), rng.normal(size=3)
        drawn = np.ones(N) if whole else rng.uniform(0.3, 1, N)
        self.weight = np.float32(drawn).astype(np.float64)
        self.grads = self.x * (self.x @ self.w - self.y)[:, None]
        self.model = mu.from_function(
            lambda w, state, x: x @ w, lambda out, target: jnp.square(out - target) / 2
        )
        self.variables = mu.Variables(jnp.asarray(self.w))
        data = mu.batches(
            jnp.asarray(self.x), jnp.asarray(self.y), batch_size=3, weight=self.weight
        )
        self.data, self.forget, self.retain = (
            data,
            data.take(np.arange(FORGET)),
            data.take(np.arange(FORGET, N)),
        )

    def mean(self, rows, part=slice(None)):
        weight = self.weight[part]
        return weight @ rows[part] / weight.sum()

    def moved(self, transform):
        variables, _ = transform(KEY, self.variables, self.forget, self.retain)
        return np.asarray(variables.params) - self.w


FIRST, REST = slice(FORGET), slice(FORGET, None)
ONCE = {"epochs": 1, "batch_size": N}


@pytest.fixture(params=[True, False], ids=["whole", "fractions"])
def case(request):
    return Case(request.param)


def test_means_of_statistics(case):
    found = mu.collect(mu.statistics.mean_gradient(case.model), case.variables, case.data)
    np.testing.assert_allclose(found.value, case.mean(case.grads), **CLOSE)
    found = mu.collect(mu.statistics.importance(case.model), case.variables, case.data)
    np.testing.assert_allclose(found.value, case.mean(case.grads**2), **CLOSE)
    assert found.weight.dtype == found.value.dtype == np.float64


def test_conjugate_gradients_are_damped_by_the_exact_weight(case):
    direction = group_effects.gauss_newton_direction(
        case.model, case.variables, case.data, case.forget, weight_decay=0.1, tolerance=1e-13
    )
    hessian = (case.x.T * case.weight) @ case.x + 0.1 * case.weight.sum() * np.eye(3)
    gradient = case.weight[FIRST] @ case.grads[FIRST]
    np.testing.assert_allclose(direction, -np.linalg.solve(hessian, gradient), rtol=1e-11)


@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
def test_fits_divide_by_the_exact_weight(case):
    forget, retain = case.mean(case.grads, FIRST), case.mean(case.grads, REST)
    sgd = optax.sgd(0.1)
    found = case.moved(mu.finetune(case.model, sgd, **ONCE))
    np.testing.assert_allclose(found, -0.1 * retain, **CLOSE)
    found = case.moved(mu.gradient_ascent(case.model, sgd, **ONCE))
    np.testing.assert_allclose(found, 0.1 * forget, **CLOSE)
    found = case.moved(mu.iau(case.model, sgd, scale_by_fraction=True))
    share = case.weight[FIRST].sum() / case.weight.sum()
    np.testing.assert_allclose(found, -0.1 * share * (retain - forget), **CLOSE)


@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
def test_neg_grad_plus_weighs_its_terms_exactly(case):
    unlearn = mu.neg_grad_plus(case.model, optax.sgd(0.1), forget_weight=0.3, **ONCE)
    forget, retain = case.mean(case.grads, FIRST), case.mean(case.grads, REST)
    np.testing.assert_allclose(case.moved(unlearn), -0.1 * (0.7 * retain - 0.3 * forget), **CLOSE)


@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
def test_dampening_of_exact_importance():
    case = Case(whole=False)
    forget, full = case.mean(case.grads**2, FIRST), case.mean(case.grads**2)
    factor = np.where(forget > 0.7 * full, np.minimum(0.3 * full / forget, 1), 1)
    found = case.moved(mu.ssd(case.model, 0.7, 0.3)) + case.w
    np.testing.assert_allclose(found, factor * case.w, **CLOSE)


def test_terms_keep_the_type_of_their_sums():
    exact = {"loss": Term(jnp.float64(0.3), jnp.float64(0.7), 0.1)}
    np.testing.assert_allclose(total(exact), 0.1 * 0.3 / 0.7, **CLOSE)
    short = {"loss": Term(jnp.float32(0.3), jnp.float64(0.7), jnp.float64(0.1))}
    assert total(short).dtype == jnp.float32


@pytest.mark.parametrize("whole", [True, False])
def test_relearning_curves_are_exact_means(whole):
    case = Case(whole)
    curve = relearning_curve(
        case.model,
        optax.sgd(0.1),
        case.variables,
        case.forget,
        case.data,
        key=KEY,
        metric=lambda out, target: jnp.square(out - target),
        steps=1,
        batch_size=2,
    )
    after = case.w - 0.1 * case.mean(case.grads, FIRST)
    expected = case.mean(np.square(case.x @ after - case.y))
    np.testing.assert_allclose(curve[-1], expected, **CLOSE)


@pytest.mark.quick("float64")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_worst_case_sets_are_found(dtype):
    data = mu.batches(np.ones((6, 1), dtype), np.array([0, 0, 0, 0, 1, 1]), batch_size=6)
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
    variables = mu.Variables(jnp.zeros((1, 2), dtype))
    found = worst_case_set(model, variables, data, 4, key=KEY)
    assert found.ids.tolist() == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
def test_pruning_compares_with_a_threshold_of_the_weights_own_type():
    """Entries that differ by less than float32 tells: one in two goes, none or all before."""
    weights = jnp.asarray(1 + 1e-9 * np.arange(1, 5)).reshape(2, 2)
    model = mu.from_function(lambda w, state, x: x @ w, lambda out, target: out[:, 0])
    data = mu.batches(np.ones((4, 2)), np.zeros(4), batch_size=2)
    prune = mu.magnitude_prune(model, 0.5)
    pruned, _ = prune(KEY, mu.Variables(weights), *mu.split(data, [0]))
    np.testing.assert_array_equal(pruned.params == 0, [[True, True], [False, False]])


def test_float32_models_keep_their_types():
    case = Case(whole=False)
    variables = mu.Variables(jnp.asarray(case.w, jnp.float32))
    data = mu.batches(np.float32(case.x), np.float32(case.y), batch_size=3, weight=case.weight)
    found = mu.collect(mu.statistics.mean_gradient(case.model), variables, data)
    assert found.weight.dtype == found.value.dtype == np.float32
    unlearn = mu.finetune(case.model, optax.sgd(0.1), epochs=2, batch_size=3)
    after, _ = unlearn(KEY, variables, *mu.split(data, [0, 1]))
    assert after.params.dtype == np.float32
