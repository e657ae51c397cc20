from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from sklearn.datasets import load_digits

import mu_jax as mu
from mu_jax import probes
from mu_jax.models import MLP

KEY = jax.random.key(0)
SIZE = 40
MODULE = MLP((32,), 10)
MODEL = mu.from_linen(MODULE, optax.softmax_cross_entropy_with_integer_labels)
UNLEARN = mu.finetune(MODEL, optax.sgd(0.2), epochs=2, batch_size=50)


def nearest(values, size):
    """The projection by a general solver."""
    scale = np.abs(values).max()
    found = scipy.optimize.minimize(
        lambda w: ((w - values) ** 2).sum() / scale,
        np.full(values.size, size / values.size),
        jac=lambda w: 2 * (w - values) / scale,
        bounds=[(0, 1)] * values.size,
        constraints={"type": "eq", "fun": lambda w: w.sum() - size},
        method="SLSQP",
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert found.success
    return found.x


@pytest.mark.parametrize("scale", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("size", [0.5, 3, 11])
def test_projection_is_the_nearest_point_of_the_capped_simplex(scale, size):
    values = scale * np.random.default_rng(int(size)).normal(size=12)
    with jax.enable_x64(True):
        found = probes.project_capped_simplex(values, size)
        np.testing.assert_allclose(found, nearest(values, size), atol=2e-6)
        assert found.sum() == pytest.approx(size, abs=1e-9)
    single = jax.jit(probes.project_capped_simplex)(values.astype(np.float32), size)
    np.testing.assert_allclose(single, found, atol=1e-5)


def test_projection_leaves_its_points_alone_and_takes_ends_and_ties():
    inside = np.array([0.5, 1.0, 0.0, 0.25, 0.25], np.float32)
    np.testing.assert_allclose(probes.project_capped_simplex(inside, 2.0), inside, atol=1e-6)
    for size in (0.0, 5.0):
        found = probes.project_capped_simplex(inside, size)
        np.testing.assert_allclose(found, np.full(5, size / 5), atol=1e-6)
    np.testing.assert_allclose(probes.project_capped_simplex(np.ones(4), 1.0), 0.25, atol=1e-6)
    many = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    rows = jax.vmap(probes.project_capped_simplex, (0, None))(many, 2.0)
    np.testing.assert_allclose(rows[1], probes.project_capped_simplex(many[1], 2.0), atol=1e-6)


@pytest.fixture(scope="module")
def digits():
    """Digits, the original model, and the loss on given ids after fine-tuning on the others."""
    images, labels = load_digits(return_X_y=True)
    data = mu.batches(np.float32(images[:400] / 16), labels[:400], batch_size=50)
    start = MODULE.init(KEY, data.inputs[:1])
    state, _ = mu.fit(MODEL, mu.supervised(MODEL), optax.adam(1e-2), start, data, key=KEY, epochs=4)

    @jax.jit
    def loss_after(key, variables, ids):
        chosen = jnp.isin(data.index, ids)
        sets = (
            data.replace(weight=chosen * 1.0, index=data.index + 1000),
            data.replace(weight=1.0 - chosen),
        )
        unlearned, _ = UNLEARN(key, variables, *sets)
        losses = MODEL.losses(unlearned, data.replace(batch_size=400).at(0))
        return (losses * chosen).sum() / chosen.sum()

    return data, state.variables, lambda key, ids: float(loss_after(key, state.variables, ids))


def choose(digits, **options):
    data, variables, _ = digits
    given = {"key": KEY, "unlearn": UNLEARN, "rounds": 10, "step_size": 0.1} | options
    return probes.worst_case_set(MODEL, variables, data, SIZE, **given)


@pytest.mark.slow
def test_chosen_examples_are_harder_to_forget_than_random_ones(digits):
    data, _, loss_after = digits
    hardest, easiest = choose(digits), choose(digits, easiest=True)
    other_keys = jax.random.split(jax.random.key(9), 3)
    random = [
        loss_after(key, jax.random.choice(key, data.num_examples, (SIZE,), replace=False))
        for key in jax.random.split(jax.random.key(5), 10)
    ]
    hard = [loss_after(key, hardest.ids) for key in other_keys]
    easy = [loss_after(key, easiest.ids) for key in other_keys]
    assert max(hard) < 0.5 * min(random)
    assert min(easy) > 2 * max(random)


@pytest.mark.slow
def test_the_weights_are_feasible_and_name_the_set(digits):
    data, _, _ = digits
    found = choose(digits)
    assert found.ids.shape == (SIZE,) and len(set(found.ids.tolist())) == SIZE
    assert found.weights.min() >= 0 and found.weights.max() <= 1
    assert float(found.weights.sum()) == pytest.approx(SIZE, abs=1e-3)
    largest = np.sort(np.asarray(found.weights))[-SIZE:]
    chosen = np.isin(data.index, found.ids)
    np.testing.assert_array_equal(np.sort(found.weights[chosen]), largest)
    assert found.losses.shape == (10,) and found.losses[-1] < found.losses[0]


def test_each_round_is_a_projected_step_along_the_losses_after_unlearning(digits):
    data, variables, _ = digits
    found = choose(digits, rounds=2, gamma=0.3)

    @jax.jit
    def after(number, weights):
        forget = data.replace(weight=weights, index=data.index + 1000)
        retain = data.replace(weight=1 - weights)
        unlearned, _ = UNLEARN(jax.random.fold_in(KEY, number), variables, forget, retain)
        losses = MODEL.losses(unlearned, data.replace(batch_size=400).at(0))
        step = weights - 0.1 * (losses + 2 * 0.3 * weights)
        return losses, probes.project_capped_simplex(step, SIZE)

    weights = np.full(400, SIZE / 400, np.float32)
    for number in range(2):
        losses, weights = map(np.asarray, after(number, weights))
        np.testing.assert_allclose(found.losses[number], weights @ losses / SIZE, rtol=1e-4)
    np.testing.assert_allclose(found.weights, weights, atol=1e-5)
    assert np.ptp(weights) > 0.01


@pytest.mark.slow
def test_binarising_between_rounds_and_gamma_change_the_weights(digits):
    softest = choose(digits, rounds=3, gamma=3.0).weights
    plain, binary = (choose(digits, rounds=3, binarise_every=n).weights for n in (20, 2))
    assert np.square(softest).sum() < np.square(plain).sum()
    kept = np.argsort(-np.asarray(choose(digits, rounds=2).weights))[:SIZE]
    rest = np.setdiff1d(np.arange(400), kept)
    assert binary[kept].mean() > 0.85  # they start the last round at 1
    assert binary[rest].max() < 0.5
    assert not np.allclose(plain, binary)


@pytest.mark.slow
def test_ids_are_those_of_the_data_also_under_jit_and_vmap(digits):
    data, *_ = digits
    moved = data.replace(index=data.index + 7)
    ids = choose(digits, rounds=2).ids
    np.testing.assert_array_equal(choose((moved, *digits[1:]), rounds=2).ids, ids + 7)

    def chosen(key, step_size):
        return choose(digits, key=key, step_size=step_size, rounds=2).ids

    many = jax.jit(jax.vmap(chosen))(jnp.stack([KEY, KEY]), jnp.array([0.1, 0.1]))
    np.testing.assert_array_equal(many, [ids, ids])


def test_any_transform_that_heeds_weights_can_unlearn(digits):
    ascent = mu.gradient_ascent(MODEL, optax.sgd(0.05), epochs=1)
    found = choose(digits, unlearn=ascent, rounds=2)
    assert len(set(found.ids.tolist())) == SIZE
    assert not np.array_equal(found.ids, choose(digits, rounds=2).ids)


def test_what_cannot_be_chosen_from_is_refused(digits):
    data, variables, _ = digits
    for size in (0, 400):
        with pytest.raises(ValueError, match="expected a size between 1 and 399"):
            probes.worst_case_set(MODEL, variables, data, size, key=KEY)
    with pytest.raises(ValueError, match="array-backed Batches, found list"):
        probes.worst_case_set(MODEL, variables, list(data), SIZE, key=KEY)
    padded = data.replace(weight=data.weight.at[3].set(0))
    with pytest.raises(ValueError, match="rows of positive weight, found others"):
        probes.worst_case_set(MODEL, variables, padded, SIZE, key=KEY)
    wild = mu.finetune(MODEL, optax.sgd(1e30), batch_size=50)
    with pytest.raises(ValueError, match="NaN or infinity in round 0"):
        choose(digits, unlearn=wild, rounds=2)
