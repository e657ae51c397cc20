from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classifiers import CLASSES, LOGISTIC, LOSS, MODEL, data, explicit, matrix_of, variables

import mu_jax as mu
from mu_jax import attribution

KEY = jax.random.key(0)
FORGET = np.array([3, 4, 10, 31, 55])


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def prepare(*, dim=24, **options):
    points = [variables(s) for s in (0, 1)]
    return attribution.trak(MODEL, points, data(), key=KEY, dim=dim, **options)


def explicit_scores(point, examples, targets, inverse, coefficient):
    """tau[i, x, c], the effect of each example on each logit, with nothing left implicit."""
    train = explicit(MODEL, point.variables, examples)
    matrix = matrix_of(point.projection, train.gradients.shape[1])
    psi = explicit(MODEL, point.variables, targets).logit_gradients @ matrix
    phi = train.gradients @ matrix
    return np.einsum("xck,kl,il,i->ixc", psi, inverse, phi, coefficient)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def inverse_of(point):
    factor = np.asarray(point.factor)
    return np.linalg.inv(factor @ factor.T)


@pytest.mark.quick("24-options1")
@pytest.mark.parametrize(
    ("dim", "options"), [(24, {}), (24, {"weight_decay": 1e-2}), (None, {"weight_decay": 1e-2})]
)
def test_one_forward_mode_product_is_the_sum_of_explicit_scores(dim, options):
    store, targets = prepare(dim=dim, **options), data(7, seed=5)
    directions = attribution.group_direction(store, data().take(FORGET))
    expected = []
    for point, direction in zip(store.checkpoints, directions, strict=True):
        residual = explicit(MODEL, point.variables, data()).residual
        scores = explicit_scores(point, data(), targets, inverse_of(point), residual)
        expected.append(scores[FORGET].sum(0))
        found = attribution.group_effect(MODEL, point.variables, direction, targets.inputs)
        assert found.shape == (7, CLASSES)
        assert np.abs(found - expected[-1]).max() < 1e-12 * np.abs(expected[-1]).max()
    effect = store.effect(data().take(FORGET), targets)
    np.testing.assert_allclose(effect, np.mean(expected, 0), rtol=1e-10, atol=1e-12)


@pytest.mark.quick("False")
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_it_agrees_with_the_scores_of_margins(leave_one_out):
    store, targets = prepare(weight_decay=1e-2), data(7, seed=5)
    scores = attribution.trak_scores(
        store, data(), targets, product_of_averages=False, leave_one_out=leave_one_out
    )
    directions = attribution.group_direction(
        store, data().take(FORGET), leave_one_out=leave_one_out
    )
    changes = []
    for point, direction in zip(store.checkpoints, directions, strict=True):

        def margins(params):
            return mu.evaluation.margins(MODEL.predict(params, (), targets.inputs), targets.targets)

        pushed = jax.jit(lambda at, along, of=margins: jax.jvp(of, (at,), (along,))[1])
        changes.append(pushed(point.variables.params, direction))
    expected = np.asarray(scores)[FORGET].sum(0)
    assert np.abs(np.mean(changes, 0) - expected).max() < 1e-12 * np.abs(expected).max()


def test_retain_only_takes_the_group_out_of_the_matrix():
    store, targets = prepare(weight_decay=1e-2), data(7, seed=5)
    _, retain = mu.split(data(), FORGET)
    alone = attribution.trak(
        MODEL, [variables(s) for s in (0, 1)], retain, key=KEY, dim=24, weight_decay=1e-2
    )
    group = data().take(FORGET)
    found = store.effect(group, targets, retain_only=True)
    np.testing.assert_allclose(found, alone.effect(group, targets), rtol=1e-8, atol=1e-12)
    assert np.abs(found - store.effect(group, targets)).max() > 0.05 * np.abs(found).max()


def test_on_a_logistic_model_retain_only_is_the_newton_step_without_the_group():
    rng = np.random.default_rng(1)
    x, y, wd = rng.normal(size=(60, 4)), rng.integers(2, size=60), 0.05
    w = rng.normal(size=4)
    examples = mu.batches(x, y, batch_size=16)
    store = attribution.trak(
        LOGISTIC, [mu.Variables(jnp.asarray(w))], examples, key=KEY, dim=None, weight_decay=wd
    )
    group = FORGET
    [found] = attribution.group_direction(store, examples.take(group), retain_only=True)
    kept, p = np.setdiff1d(np.arange(60), group), 1 / (1 + np.exp(-x @ w))
    hessian = (x[kept] * (p * (1 - p))[kept, None]).T @ x[kept] + 55 * wd * np.eye(4)
    expected = np.linalg.solve(hessian, x[group].T @ (y - p)[group])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_conjugate_gradients_give_the_matrix_form_for_two_classes():
    rng = np.random.default_rng(2)
    examples = mu.batches(rng.normal(size=(60, 4)), rng.integers(2, size=60), batch_size=16)
    point = mu.Variables(jnp.asarray(rng.normal(size=4)))
    store = attribution.trak(LOGISTIC, [point], examples, key=KEY, dim=None, weight_decay=0.05)
    group = examples.take(FORGET)
    [expected] = attribution.group_direction(store, group)
    found = attribution.gauss_newton_direction(
        LOGISTIC, point, examples, group, weight_decay=0.05, tolerance=1e-11
    )
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [LOSS, mu.losses.squared_error], ids=["softmax", "squared"])
def test_conjugate_gradients_solve_with_the_full_gauss_newton_matrix(loss):
    model = mu.from_function(MODEL.predict, loss)
    point, examples = variables(0), data()
    if loss is not LOSS:
        examples = examples.replace(targets=np.eye(CLASSES)[examples.targets])
    dense = explicit(MODEL, point, data()).logit_gradients
    logits = MODEL.apply(point, examples.inputs)
    hessians = jax.jit(jax.vmap(jax.hessian(lambda z, y: loss(z[None], y[None])[0])))(
        logits, examples.targets
    )
    matrix = np.einsum("ncp,ncd,ndq->pq", dense, hessians, dense) + 60 * 0.02 * np.eye(40)

    def group_loss(params):
        logits = MODEL.predict(params, (), examples.inputs[FORGET])
        return loss(logits, examples.targets[FORGET]).sum()

    gradient = flat(jax.jit(jax.grad(group_loss))(point.params))
    expected = np.linalg.solve(matrix, -gradient)
    found = attribution.gauss_newton_direction(
        model, point, examples, examples.take(FORGET), weight_decay=0.02, tolerance=1e-10
    )
    np.testing.assert_allclose(flat(found), expected, rtol=1e-6, atol=1e-8 * np.abs(expected).max())


def test_conjugate_gradients_damp_in_the_type_of_the_parameters():
    rng = np.random.default_rng(2)
    x, y, w = rng.normal(size=(60, 4)), rng.integers(2, size=60), rng.normal(size=4)
    examples = mu.batches(x, y, batch_size=16)
    found = attribution.gauss_newton_direction(
        LOGISTIC,
        mu.Variables(jnp.asarray(w)),
        examples,
        examples.take(FORGET),
        weight_decay=0.37,
        tolerance=1e-14,
    )
    p = 1 / (1 + np.exp(-x @ w))
    hessian = (x * (p * (1 - p))[:, None]).T @ x + 60 * 0.37 * np.eye(4)
    expected = np.linalg.solve(hessian, x[FORGET].T @ (y - p)[FORGET])
    np.testing.assert_allclose(jax.tree.leaves(found)[0], expected, rtol=1e-11)


def test_conjugate_gradients_that_do_not_converge_are_refused():
    with pytest.raises(ValueError, match="raise max_iterations or weight_decay"):
        attribution.gauss_newton_direction(
            MODEL, variables(0), data(), data().take(FORGET), weight_decay=1e-6, max_iterations=2
        )


def test_the_effect_goes_through_jit_with_the_store_as_an_argument():
    store, targets, group = prepare(weight_decay=1e-2), data(7, seed=5), data().take(FORGET)

    @jax.jit
    def effect(store, group, targets):
        return store.effect(group, targets, retain_only=True)

    expected = store.effect(group, targets, retain_only=True)
    np.testing.assert_allclose(effect(store, group, targets), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_the_effect_is_the_same_on_a_mesh_and_for_any_batches():
    store, targets = prepare(weight_decay=1e-2), data(7, seed=5)
    expected = store.effect(data().take(FORGET), targets, leave_one_out=True)
    sharded = mu.shard(targets, mu.data_mesh())
    group = mu.shard(data(batch_size=2), mu.data_mesh()).take(FORGET)
    found = store.effect(group, sharded, leave_one_out=True)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    small = targets.replace(batch_size=3)
    found = store.effect(data().take(FORGET), small, leave_one_out=True)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_multiplier_is_the_slope():
    rng = np.random.default_rng(0)
    predicted = rng.normal(size=(20, 3))
    observed = 0.6 * predicted + 0.1 * rng.normal(size=(20, 3))
    slope = np.linalg.lstsq(predicted.reshape(-1, 1), observed.ravel(), rcond=None)[0][0]
    np.testing.assert_allclose(attribution.multiplier(predicted, observed), slope, rtol=1e-12)


def test_both_ways_to_take_the_group_out_are_refused():
    with pytest.raises(ValueError, match="found both"):
        attribution.group_direction(prepare(), data(), leave_one_out=True, retain_only=True)


def test_a_restricted_model_has_directions_for_its_trainable_leaves_only():
    model = mu.restrict(MODEL, lambda name: name != "bias")
    point = variables(0)
    store = attribution.trak(model, [point], data(), key=KEY, dim=None, weight_decay=1e-2)
    [direction] = attribution.group_direction(store, data().take(FORGET))
    assert direction["bias"] is None
    assert np.linalg.norm(flat(direction)) > 0
    assert attribution.group_effect(model, point, direction, data().inputs).shape == (60, CLASSES)


def test_directions_answer_for_their_own_request_only():
    store, targets = prepare(weight_decay=1e-2), data(7, seed=5)
    forget = data().take(FORGET)
    request = store.directions(forget, retain_only=True)
    expected = store.effect(forget, targets, retain_only=True)
    np.testing.assert_allclose(request.effect(forget, targets), expected, rtol=1e-12)
    shuffled = forget.take(np.arange(FORGET.size)[::-1])
    np.testing.assert_allclose(
        jax.jit(lambda r: r.effect(shuffled, targets))(request), expected, rtol=1e-9
    )
    with pytest.raises(ValueError, match="expected the forget set of these directions, 5 examples"):
        request.effect(data().take(FORGET + 1), targets)
