from __future__ import annotations

import jax
import numpy as np
import pytest

from mu_jax import evaluation

FRACTIONS = [1.0, 0.1, 0.5]


def study(models=(3,), n=40, m=60, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    affected, retained = (rng.normal(size=(*models, size, classes)) for size in (n, m))
    return (affected, rng.integers(0, classes, n)), (retained, rng.integers(0, classes, m))


def test_curve_is_both_accuracies_in_the_order_of_the_known_part():
    affected, retained = study()
    found = evaluation.corrective_curve(FRACTIONS, affected, retained)
    assert found.fraction.tolist() == [0.1, 0.5, 1.0]
    for place, model in enumerate((1, 2, 0)):
        for curve, (logits, labels) in ((found.corrected, affected), (found.retained, retained)):
            expected = (logits[model].argmax(-1) == labels).mean()
            assert float(curve[place]) == pytest.approx(expected)
    assert (found.n_corrected, found.n_retained) == (40, 60)


def test_images_of_the_trigger_class_do_not_count_as_corrected():
    affected, retained = study()
    logits, labels = affected
    logits[..., 0] = 100.0  # the trigger works on all of them
    plain = evaluation.corrective_curve(FRACTIONS, affected, retained)
    found = evaluation.corrective_curve(FRACTIONS, affected, retained, trigger_label=0)
    assert (plain.corrected == np.float32((labels == 0).mean())).all()
    assert (found.corrected == 0).all()
    assert found.n_corrected == (labels != 0).sum()
    np.testing.assert_array_equal(found.retained, plain.retained)


def test_further_axes_are_seeds():
    affected, retained = study(models=(3, 4))
    found = evaluation.corrective_curve(FRACTIONS, affected, retained)
    assert found.corrected.shape == found.retained.shape == (3, 4)
    single = evaluation.corrective_curve(
        FRACTIONS, (affected[0][:, 2], affected[1]), (retained[0][:, 2], retained[1])
    )
    np.testing.assert_array_equal(found.corrected[:, 2], single.corrected)


def test_curve_can_be_compiled_over_logits():
    affected, retained = study()

    def corrected(logits):
        return evaluation.corrective_curve(
            FRACTIONS, (logits, affected[1]), retained, trigger_label=1
        ).corrected

    np.testing.assert_array_equal(jax.jit(corrected)(affected[0]), corrected(affected[0]))


AFFECTED, RETAINED = study()


@pytest.mark.parametrize(
    "fractions, affected, options, message",
    [
        ([0.0, 0.5, 1.0], AFFECTED, {}, "in \\(0, 1\\]"),
        ([np.nan, 0.5, 1.0], AFFECTED, {}, "in \\(0, 1\\]"),
        (0.5, AFFECTED, {}, "fractions \\[G\\]"),
        ([], AFFECTED, {}, "fractions \\[G\\]"),
        ([0.5, 0.5, 1.0], AFFECTED, {}, "different fractions"),
        ([0.5, 1.0], AFFECTED, {}, "one entry per fraction"),
        ([0.5, 0.7, 1.0], (AFFECTED[0][0], AFFECTED[1]), {}, "one entry per fraction"),
        ([0.5, 0.7, 1.0], (AFFECTED[0], AFFECTED[1] * 0), {"trigger_label": 0}, "found none"),
        ([0.5, 0.7, 1.0], (AFFECTED[0], AFFECTED[1][:3]), {}, "one label per example"),
    ],
)
def test_bad_input_is_refused(fractions, affected, options, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluation.corrective_curve(fractions, affected, RETAINED, **options)
    assert "\n" not in str(error.value)
