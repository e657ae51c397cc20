from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from golden_files import load
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit

from mu_jax import evaluation

TAGS = ("before", "ref/a2_l0.5", "shuffled/a2_l0.5", "per_example/a2_l0.5", "lossfree/a2_l0.5")


@pytest.fixture(scope="module")
def golden():
    return load("ssd_mlp_f64.npz")


def logits(golden, tag, inputs):
    where = "w_before" if tag == "before" else f"w_after/{tag}"
    hidden = jnp.asarray(inputs)
    for layer in ("fc1", "fc2", "fc3"):
        hidden = hidden @ golden[f"{where}/{layer}.weight"].T
        hidden = hidden + golden[f"{where}/{layer}.bias"][None]
        hidden = jax.nn.relu(hidden) if layer != "fc3" else hidden
    return hidden


@pytest.mark.parametrize("tag", TAGS)
def test_golden_numbers_of_the_published_program(golden, tag):
    """Entropy attack and accuracies; to refresh, see tests/golden/README.md."""
    is_forget = np.isin(np.arange(1200), golden["forget_idx"])
    with jax.enable_x64(True):
        train, test = (logits(golden, tag, golden[name]) for name in ("x", "x_test"))
        np.testing.assert_allclose(test, golden[f"logits_test/{tag}"], rtol=1e-9, atol=1e-9)
        retain, unseen, forget = map(
            evaluation.entropy, (train[~is_forget], test, train[is_forget])
        )
        by_class = np.asarray(evaluation.accuracy_by_class(test, golden["y_test"]))
        others = (golden["y_test"] != golden["forget_class"]).astype(float)
        accuracies = [
            evaluation.accuracy(test, golden["y_test"], others),
            by_class[golden["forget_class"]],
            evaluation.accuracy(train[is_forget], golden["y"][is_forget]),
        ]
        attacks = [evaluation.entropy_mia(retain, unseen, forget, C=C) for C in (1.0, 2.0)]
    fits = [number for attack in attacks for number in (attack.weight, attack.bias)]
    np.testing.assert_allclose(fits, golden[f"mia_fit/{tag}"], rtol=1e-7)
    fractions = [attack.member_fraction for attack in attacks]
    np.testing.assert_allclose([*accuracies, *fractions], golden[f"metrics/{tag}"], rtol=1e-6)
    assert evaluation.entropy_mia(retain, unseen, forget) == attacks[1]


@pytest.mark.parametrize("n_test", [200, 350])
def test_loss_mia_equals_the_kit_procedure_written_out(n_test):
    rng = np.random.default_rng(0)
    forget, test = rng.exponential(1.0, 200), rng.exponential(1.6, n_test)
    kept = test if n_test == 200 else np.random.default_rng(3).choice(test, 200, replace=False)
    features = np.concatenate([kept, forget])[:, None]
    classes = np.repeat([0, 1], 200)
    scores = []
    for fit, score in StratifiedShuffleSplit(10, test_size=0.1, random_state=3).split(
        features, classes
    ):
        model = LogisticRegression().fit(features[fit], classes[fit])
        scores.append((model.predict(features[score]) == classes[score]).mean())
    found = evaluation.loss_mia(forget, test, seed=3)
    assert found.accuracy == pytest.approx(np.mean(scores), abs=1e-12)
    assert found.accuracy_std == pytest.approx(np.std(scores, ddof=1), abs=1e-12)
    assert (found.n, found.auc_null_std) == (200, evaluation.auc_null_std(200, n_test))
    assert found.auc == evaluation.auc(-forget, -test)  # of all examples
    assert found == evaluation.loss_mia(forget, test, seed=3)
    assert found.accuracy != evaluation.loss_mia(forget, test, seed=4).accuracy


def test_loss_mia_of_one_distribution_is_near_one_half():
    rng = np.random.default_rng(1)
    found = evaluation.loss_mia(rng.exponential(size=1000), rng.exponential(size=3000), seed=0)
    assert found.n == 1000
    assert abs(found.auc - 0.5) < 3 * found.auc_null_std
    assert abs(found.accuracy - 0.5) < 0.05
    assert 0 < found.accuracy_std < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "n, scale, low, high", [(20, 1.0, 0.85, 1.15), (100, 1.0, 0.85, 1.15), (100, 4.0, 0.95, 1.3)]
)
def test_standard_error_is_the_spread_over_draws_of_examples(n, scale, low, high):
    """The spread of one split, which stood in its place, is 1.8 to 2.2 times that."""
    rng = np.random.default_rng(5)
    found = [
        evaluation.loss_mia(rng.exponential(1, n), rng.exponential(scale, n), seed=seed)
        for seed in range(100)
    ]
    accuracy, std, stderr = (
        np.array([getattr(each, name) for each in found])
        for name in ("accuracy", "accuracy_std", "accuracy_stderr")
    )
    truth = accuracy.std(ddof=1)
    assert low < np.sqrt(np.mean(stderr**2)) / truth < high
    assert np.sqrt(np.mean(std**2)) / truth > 1.6
    covered = np.abs(accuracy - accuracy.mean()) < scipy.stats.t.ppf(0.975, 9) * stderr
    assert covered.mean() >= 0.9


def test_over_forgetting_shows_as_a_leak():
    rng = np.random.default_rng(2)
    forget, test = rng.exponential(5.0, 300), rng.exponential(0.5, 300)
    found = evaluation.loss_mia(forget, test, seed=0)
    assert found.auc < 0.2 < 0.8 < found.strength


def test_strength_folds_an_accuracy_below_one_half():
    # Alternating values: what the fit learns from nine tenths is wrong on the tenth held out.
    losses = np.arange(12.0)
    results = [evaluation.loss_mia(losses, losses, seed=seed) for seed in range(4)]
    assert any(result.accuracy < 0.5 for result in results)
    for result in results:
        assert result.strength == max(result.accuracy, 1 - result.accuracy) >= 0.5
        assert result.auc == 0.5


def test_auc_of_two_gaussians_has_its_closed_form():
    rng = np.random.default_rng(0)
    members, others = rng.normal(1.0, 1, 20_000), rng.normal(0, 1, 20_000)
    expected = scipy.stats.norm.cdf(1 / np.sqrt(2))
    assert evaluation.auc(members, others) == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize("levels", [2, 7, 10_000])
def test_auc_and_tpr_equal_sklearn_with_ties(levels):
    rng = np.random.default_rng(levels)
    members, others = rng.integers(0, levels, 301), rng.integers(0, levels, 400)
    members = np.minimum(members + levels // 4, levels - 1)
    truth = np.repeat([1, 0], [members.size, others.size])
    scores = np.concatenate([members, others])
    assert evaluation.auc(members, others) == pytest.approx(
        sklearn.metrics.roc_auc_score(truth, scores), abs=1e-12
    )
    fpr, tpr, _ = sklearn.metrics.roc_curve(truth, scores, drop_intermediate=False)
    for rate in (0.0025, 0.01, 0.1, 0.29, 0.5, 0.99):
        expected = tpr[fpr <= rate + 1e-12].max()
        assert evaluation.tpr_at_fpr(members, others, rate) == expected


def test_rounding_of_the_rate_does_not_lose_an_allowed_false_positive():
    others = np.arange(100.0)
    assert 100 * 0.29 < 29
    # The 29 allowed non-members are 71 to 99; members above 70 are 70.5 to 99.5.
    assert evaluation.tpr_at_fpr(others + 0.5, others, 0.29) == 0.30


def test_null_standard_deviation_is_exact_over_all_rankings():
    ranks = np.arange(7.0)
    found = []
    for members in itertools.combinations(range(7), 3):
        is_member = np.isin(ranks, members)
        found.append(evaluation.auc(ranks[is_member], ranks[~is_member]))
    assert np.std(found) == pytest.approx(evaluation.auc_null_std(3, 4), rel=1e-12)
    table = [round(evaluation.auc_null_std(n, n), 3) for n in (50, 200, 1000)]
    assert table == [0.058, 0.029, 0.013]


RAMP = np.linspace(0.0, 1.0, 50)


@pytest.mark.parametrize(
    "attack, message",
    [
        (lambda: evaluation.loss_mia(np.full(50, 2.3), np.full(50, 2.3), seed=0), "collapsed"),
        (lambda: evaluation.loss_mia(RAMP[:9], RAMP, seed=0), "at least 10 forget losses"),
        (lambda: evaluation.loss_mia(RAMP, RAMP[:9], seed=0), "at least 10 test losses"),
        (lambda: evaluation.loss_mia(RAMP, np.append(RAMP, np.nan), seed=0), "finite test losses"),
        (lambda: evaluation.loss_mia(RAMP, RAMP[:, None], seed=0), "a vector"),
        (lambda: evaluation.entropy_mia(RAMP * 0, RAMP * 0, RAMP), "collapsed"),
        (lambda: evaluation.entropy_mia(2.3 + 1e-7 * RAMP, RAMP * 0 + 2.3, RAMP), "collapsed"),
        (lambda: evaluation.entropy_mia(RAMP, RAMP[:9], RAMP), "at least 10 test entropies"),
        (lambda: evaluation.entropy_mia(RAMP, RAMP, RAMP[:0]), "at least 1 forget entropies"),
        (lambda: evaluation.auc(RAMP * 0, RAMP * 0), "differ between examples"),
        (lambda: evaluation.auc([], RAMP), "at least 1 member scores"),
        (lambda: evaluation.tpr_at_fpr(RAMP, RAMP, 0.01), "at least 100 non-members"),
        (lambda: evaluation.tpr_at_fpr(RAMP, RAMP, 1.0), "in \\(0, 1\\)"),
    ],
)
def test_degenerate_input_is_refused_never_one_half(attack, message):
    with pytest.raises(ValueError, match=message) as error:
        attack()
    assert "\n" not in str(error.value)


def test_tiny_losses_that_differ_have_an_auc_but_no_fit():
    """The fits stay at their start: an accuracy of exactly 1/2 where all can be told apart."""
    forget, test = RAMP * 1e-9, (RAMP + 2) * 1e-9
    assert evaluation.auc(-forget, -test) == 1.0
    with pytest.raises(ValueError, match=r"stays at its start.*take the AUC"):
        evaluation.loss_mia(forget, test, seed=0)
    assert evaluation.loss_mia(forget * 1e8, test * 1e8, seed=0).accuracy > 0.9


@pytest.mark.parametrize("scale, shift", [(0.01, 0.0), (0.1, 50.0)])
def test_a_collapsed_network_has_no_entropy_attack(scale, shift):
    """Its outputs are noise around equal logits, or around one class that it always names."""
    rng = np.random.default_rng(0)
    sides = (
        evaluation.entropy(np.float32(scale * rng.normal(size=(n, 10)) + shift * np.eye(10)[0]))
        for n in (1000, 300, 100)
    )
    with pytest.raises(ValueError, match="collapsed"):
        evaluation.entropy_mia(*sides)
