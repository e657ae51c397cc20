from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from sklearn.linear_model import Lasso, Ridge
from trees import is_one_sentence

import mu_jax as mu
from mu_jax import attribution

GOLDEN = load("dmm_golden.npz")
MASKS, OUTPUTS = GOLDEN["dm_masks"], GOLDEN["dm_outputs"]
FORGET = GOLDEN["dm_forget"]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def table(effects):
    return np.asarray(effects).reshape(40, 36)


def fit_ridge(masks=MASKS, outputs=OUTPUTS):
    return attribution.ridge(masks, outputs, penalty=float(GOLDEN["dm_ridge_penalty"]))


def test_ridge_agrees_with_golden_numbers():
    models = fit_ridge()
    assert models.effects.shape == (40, 12, 3) and models.bias.shape == (12, 3)
    np.testing.assert_allclose(table(models.effects), GOLDEN["dm_beta_ridge"], atol=1e-10)
    np.testing.assert_allclose(models.bias.ravel(), GOLDEN["dm_bias_ridge"], atol=1e-10)


def test_difference_of_means_agrees_with_golden_numbers():
    models = attribution.difference_of_means(MASKS, OUTPUTS)
    np.testing.assert_allclose(table(models.effects), GOLDEN["dm_diff_of_means"], atol=1e-12)


def fit_lasso():
    return attribution.lasso(MASKS, OUTPUTS, penalty=float(GOLDEN["dm_lasso_alpha"]))


# Adding the standard deviations of the masks to the coefficients changes no prediction, as subsets
# have one size, and hardly their l1 norm: in three columns the golden solver stopped on the way.
STOPPED_EARLY = [10, 13, 15]


def test_lasso_agrees_with_golden_numbers_in_effects_per_inclusion():
    models = fit_lasso()
    expected = GOLDEN["dm_lasso_coef_standardised"] / GOLDEN["dm_mask_std"][:, None]
    finished = np.delete(np.arange(36), STOPPED_EARLY)
    np.testing.assert_allclose(table(models.effects)[:, finished], expected[:, finished], atol=1e-6)
    spread = MASKS - MASKS.mean(0)
    np.testing.assert_allclose(spread @ table(models.effects), spread @ expected, atol=1e-6)
    # half-size subsets: what the published solver stores is half the effect
    ratio = np.linalg.norm(models.effects) / np.linalg.norm(GOLDEN["dm_lasso_coef_standardised"])
    assert 1.99 < ratio < 2.01


def test_lasso_reaches_the_objective_of_the_golden_numbers_or_less():
    std, penalty = GOLDEN["dm_mask_std"][:, None], float(GOLDEN["dm_lasso_alpha"])
    z = (MASKS - MASKS.mean(0)) / GOLDEN["dm_mask_std"]
    y = OUTPUTS.reshape(-1, 36) - OUTPUTS.reshape(-1, 36).mean(0)

    def objective(w):
        return np.square(y - z @ w).sum(0) / 1600 + penalty * np.abs(w).sum(0)

    found = objective(table(fit_lasso().effects) * std)
    gain = objective(GOLDEN["dm_lasso_coef_standardised"]) - found
    assert gain.min() > -1e-15
    assert set(np.flatnonzero(gain > 1e-11)) == set(STOPPED_EARLY)


@pytest.mark.parametrize("name", ["ridge", "lasso", "diffmeans"])
def test_predictions_without_the_group_agree_with_golden_numbers(name):
    fits = {
        "ridge": fit_ridge,
        "lasso": fit_lasso,
        "diffmeans": lambda: attribution.difference_of_means(MASKS, OUTPUTS),
    }
    found = fits[name]().predict_without(FORGET, GOLDEN["dm_full_output"]).ravel()
    expected = GOLDEN[f"dm_pred_{name}"].ravel()
    if name == "lasso":
        found, expected = (np.delete(x, STOPPED_EARLY) for x in (found, expected))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_effects_rank_the_true_changes_and_the_multiplier_calibrates_them():
    true = GOLDEN["dm_full_output"] - GOLDEN["dm_true_retrained_output"]
    effect = fit_ridge().group_effect(FORGET)
    assert np.corrcoef(effect.ravel(), true.ravel())[0, 1] > 0.98
    slope = attribution.multiplier(effect, true)
    assert 0.5 < slope < 0.6
    found = fit_ridge().predict_without(FORGET, GOLDEN["dm_full_output"], multiplier=slope)
    raw = fit_ridge().predict_without(FORGET, GOLDEN["dm_full_output"])
    error, raw_error = (
        np.linalg.norm(x - GOLDEN["dm_true_retrained_output"]) for x in (found, raw)
    )
    assert error < 0.3 * raw_error


@pytest.mark.parametrize("models", [800, 30])
def test_ridge_agrees_with_scikit_learn_in_both_forms(models):
    """With more models than examples, and with fewer (the kernel form)."""
    rows = slice(0, models)
    found = attribution.ridge(MASKS[rows], OUTPUTS[rows], penalty=2.5)
    expected = Ridge(alpha=2.5).fit(MASKS[rows].astype(float), OUTPUTS[rows].reshape(-1, 36))
    np.testing.assert_allclose(table(found.effects), expected.coef_.T, atol=1e-10)
    np.testing.assert_allclose(found.bias.ravel(), expected.intercept_, atol=1e-9)


@pytest.mark.parametrize("models", [200, 30])
def test_lasso_agrees_with_scikit_learn_for_a_penalty_per_output(models):
    masks, outputs = MASKS[:models], OUTPUTS[:models, :2]
    penalty = np.geomspace(1e-3, 3e-2, 6).reshape(2, 3)
    found = attribution.lasso(masks, outputs, penalty=penalty)
    z = (masks - masks.mean(0)) / masks.std(0)
    for target in range(2):
        for column in range(3):
            solver = Lasso(alpha=penalty[target, column], tol=1e-12, max_iter=100_000)
            weights = solver.fit(z, outputs[:, target, column]).coef_
            effects = found.effects[:, target, column]
            np.testing.assert_allclose(effects, weights / masks.std(0), atol=1e-6)
            np.testing.assert_array_equal(effects == 0, weights == 0)


@pytest.mark.slow
def test_the_penalty_is_chosen_per_output_on_held_out_models():
    """Against the same choice written out with scikit-learn's path."""
    masks, outputs = MASKS[:100], OUTPUTS[:100, :3, 0]
    noisy = outputs + 0.3 * np.random.default_rng(0).normal(size=outputs.shape)
    found = attribution.lasso(masks, noisy, num_penalties=8, held_out=0.3)
    z = (masks - masks[:70].mean(0)) / masks[:70].std(0)
    z_all = (masks - masks.mean(0)) / masks.std(0)
    chosen = set()
    for target in range(3):
        y = noisy[:, target]
        largest = np.abs(z[:70].T @ (y[:70] - y[:70].mean())).max() / 70
        path = largest * np.geomspace(1, 1e-3, 8)
        fits = [Lasso(alpha=a, tol=1e-10, max_iter=100_000).fit(z[:70], y[:70]) for a in path]
        errors = [np.mean(np.square(fit.predict(z[70:]) - y[70:])) for fit in fits]
        best = int(np.argmin(errors))
        chosen.add(best)
        weights = Lasso(alpha=path[best], tol=1e-12, max_iter=100_000).fit(z_all, y).coef_
        np.testing.assert_allclose(found.effects[:, target], weights / masks.std(0), atol=1e-6)
    assert 0 not in chosen and 7 not in chosen


def test_predictions_on_subsets_are_linear():
    models = fit_ridge()
    predicted = models.predict(MASKS[:3])
    expected = models.bias + np.einsum("mn,ntk->mtk", MASKS[:3], models.effects)
    np.testing.assert_allclose(predicted, expected, atol=1e-12)
    assert np.square(predicted - OUTPUTS[:3]).mean() < 0.3 * OUTPUTS.var()


def test_float16_tables_are_summed_in_float32():
    models = fit_ridge()
    half = jax.tree.map(lambda x: x, models)
    half = attribution.Datamodels(models.effects.astype(jnp.float16), *jax.tree.leaves(half)[1:])
    effect = half.group_effect(np.arange(40))
    assert effect.dtype == jnp.float32
    exact = np.asarray(half.effects, np.float64).sum(0)
    np.testing.assert_allclose(effect, exact, rtol=1e-5, atol=1e-5)


def test_effects_are_found_by_stable_ids_also_under_jit():
    train, targets = np.arange(40)[::-1] * 10, np.arange(12) * 7 + 3
    models = attribution.with_ids(fit_ridge(), train=train, targets=targets)
    forget = mu.batches(np.zeros((3, 1)), np.zeros(3, int), batch_size=2, index=train[FORGET])
    wanted = np.array([5, 0, 11, 7])
    data = mu.batches(np.zeros((4, 1)), np.zeros(4, int), batch_size=2, index=targets[wanted])
    expected = np.asarray(fit_ridge().effects)[FORGET].sum(0)[wanted]
    np.testing.assert_allclose(models.effect(forget, data), expected, atol=1e-12)
    jitted = jax.jit(lambda models, forget, data: models.effect(forget, data))
    np.testing.assert_allclose(jitted(models, forget, data), expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"unknown \(first: 4\)"):
        models.group_effect([10, 4])


def test_refusals():
    fit = fit_ridge
    for masks, outputs, match in [
        (MASKS[:5], OUTPUTS, "of the same M models"),
        (MASKS[0], OUTPUTS, "expected masks"),
        (MASKS[:1], OUTPUTS[:1], "at least 2 models"),
        (np.ones_like(MASKS), OUTPUTS, "found 40 in all or none"),
        (MASKS * 2, OUTPUTS, "masks of 0 and 1"),
        (MASKS, np.where(np.arange(12)[:, None] == 3, np.nan, OUTPUTS), "NaN or infinity"),
    ]:
        with pytest.raises(ValueError, match=match) as error:
            fit(masks, outputs)
        assert is_one_sentence(str(error.value))
    with pytest.raises(ValueError, match="positive penalty"):
        attribution.ridge(MASKS, OUTPUTS, penalty=0.0)
    with pytest.raises(ValueError, match="raise max_iterations"):
        attribution.lasso(MASKS, OUTPUTS, penalty=1e-4, max_iterations=3)
    with pytest.raises(ValueError, match="change held_out"):
        attribution.lasso(MASKS, OUTPUTS, held_out=0.0)
    with pytest.raises(ValueError, match="40 different ids for train"):
        attribution.with_ids(fit(), train=np.zeros(40, int), targets=np.arange(12))


@pytest.mark.parametrize(
    ("fraction", "models", "examples"), [(0.5, 10, 13), (0.75, 8, 21), (0.2, 10, 25)]
)
def test_masks_are_balanced(fraction, models, examples):
    masks = np.asarray(
        attribution.balanced_masks(jax.random.key(1), models, examples, fraction=fraction)
    )
    assert masks.shape == (models, examples) and masks.dtype == bool
    np.testing.assert_array_equal(masks.sum(0), fraction * models)
    sizes = masks.sum(1)
    assert sizes.max() - sizes.min() <= 1 + (fraction == 0.75)
    assert abs(sizes.mean() - fraction * examples) < 1e-9
    assert len(np.unique(masks, axis=0)) == models


def test_masks_at_one_half_come_in_complementary_pairs():
    masks = np.asarray(attribution.balanced_masks(jax.random.key(1), 40, 11))
    np.testing.assert_array_equal(masks[0::2], ~masks[1::2])
    signs = 2.0 * masks[0::2] - 1
    assert np.abs(signs[:, :-1] * signs[:, 1:]).mean() == 1
    assert abs((signs[:, :-1] * signs[:, 1:]).mean()) < 0.3


def test_masks_that_cannot_be_balanced_are_refused():
    for options in ({"fraction": 1.0}, {"fraction": 0.2, "num_models": 7}, {"num_examples": 1}):
        arguments = {"num_models": 10, "num_examples": 9, **options}
        with pytest.raises(ValueError, match="expected a"):
            attribution.balanced_masks(jax.random.key(0), **arguments)
