from __future__ import annotations

import jax
import numpy as np
import pytest

from mu_jax import evaluation

UNLEARNED = {"retain": 0.991, "forget": 0.88, "test": 0.912, "seconds": 12.0}
RETRAINED = {"retain": 0.999, "forget": 0.924, "test": 0.92, "seconds": 90.0}
NAMES = ("retain", "forget", "test")


def test_average_gap_is_in_points_and_names_its_metrics():
    gap = evaluation.average_gap(UNLEARNED, RETRAINED, NAMES)
    assert float(gap.value) == pytest.approx((0.8 + 4.4 + 0.8) / 3, abs=1e-4)
    assert gap.metrics == NAMES
    assert evaluation.average_gap(RETRAINED, RETRAINED, NAMES).value == 0
    swapped = evaluation.average_gap(RETRAINED, UNLEARNED, NAMES)
    assert swapped.value == gap.value


def test_a_metric_that_is_no_fraction_counts_relative_to_the_reference():
    gap = evaluation.average_gap(UNLEARNED, RETRAINED, units={"seconds": "seconds"})
    expected = (0.8 + 4.4 + 0.8 + 100 * (1 - 12 / 90)) / 4
    assert float(gap.value) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ValueError, match="expected finite values for a of the reference"):
        evaluation.average_gap({"a": 1.0}, {"a": np.inf}, units={"a": ""})


def test_average_gap_pairs_seeds():
    values = {"a": np.array([0.5, 0.7]), "b": np.array([0.1, 0.2])}
    reference = {"a": np.array([0.4, 0.9]), "b": np.array([0.1, 0.6])}
    np.testing.assert_allclose(
        evaluation.average_gap(values, reference).value, [5.0, 30.0], rtol=1e-5
    )


@pytest.mark.parametrize(
    "values, reference, metrics, message",
    [
        ({"a": 0.5}, {"a": 0.5, "b": 0.1}, None, "same metrics"),
        ({"a": 0.5, "b": 0.1}, {"a": 0.5}, None, "same metrics"),
        ({"a": 0.5}, {"a": 0.5}, ["a", "b"], "same metrics"),
        ({}, {}, None, "same metrics"),
        ({"a": 50.0}, {"a": 0.5}, None, "divide percentages by 100"),
        ({"a": 0.5}, {"a": float("nan")}, None, "a of the reference"),
    ],
)
def test_incomparable_sides_are_refused(values, reference, metrics, message):
    with pytest.raises(ValueError, match=message):
        evaluation.average_gap(values, reference, metrics)


def test_tug_of_war_has_the_published_value_and_limits():
    unlearned, retrained = ([side[name] for name in NAMES] for side in (UNLEARNED, RETRAINED))
    assert float(evaluation.tug_of_war(unlearned, retrained)) == pytest.approx(0.940765, abs=1e-6)
    assert evaluation.tug_of_war(retrained, retrained) == 1
    assert evaluation.tug_of_war([1.0, 0.3], [0.0, 0.3]) == 0
    seeds = np.stack([unlearned, retrained])
    found = jax.jit(evaluation.tug_of_war)(seeds, np.stack([retrained, retrained]))
    np.testing.assert_allclose(found, [0.940765, 1.0], atol=1e-6)


def test_tug_of_war_refuses_percentages_and_other_shapes():
    with pytest.raises(ValueError, match="fractions"):
        evaluation.tug_of_war([99.1], [99.9])
    with pytest.raises(ValueError, match="one shape"):
        evaluation.tug_of_war([0.5, 0.5], [0.5])
