"""SSD against the published program, in float64.

The numbers are those of `golden/ssd_mlp_f64.npz`. They are not to be regenerated from this code:
when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import jax
import numpy as np
import pytest
from golden_files import load
from golden_networks import MODEL, assert_relative, params

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
GOLDEN = load("ssd_mlp_f64.npz")
GROUPED = {"definition": "grouped", "group_size": 64}
VARIANTS = {
    "ref": GROUPED,
    "shuffled": GROUPED,
    "per_example": {},
    "lossfree": {"definition": "loss_free", "group_size": 64},
}
SETTINGS = {"a10_l1": (10.0, 1.0), "a2_l0.5": (2.0, 0.5)}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def data(batch_size=64):
    return mu.batches(GOLDEN["x"], GOLDEN["y"], batch_size=batch_size)


def variables():
    return mu.Variables(params(GOLDEN, "w_before"))


def importances(variant, batch_size=64):
    """Of the forget set, and of all data in the order of the variant."""
    everything = data(batch_size)
    forget, _ = mu.split(everything, GOLDEN["forget_idx"])
    if variant == "shuffled":
        everything = everything.take(GOLDEN["shuffle_perm"])
    statistic = mu.statistics.importance(MODEL, **VARIANTS[variant])
    return [mu.collect(statistic, variables(), x) for x in (forget, everything)]


@pytest.mark.quick("ref-100", "shuffled-64", "per_example-64", "lossfree-100")
@pytest.mark.parametrize("batch_size", [64, 100, 1200])
@pytest.mark.parametrize("variant", VARIANTS)
def test_importances_at_any_batch_size(variant, batch_size):
    forget, full = importances(variant, batch_size)
    assert_relative(forget.value, params(GOLDEN, f"imp_forget/{variant}"), 1e-9)
    assert_relative(full.value, params(GOLDEN, f"imp_full/{variant}"), 1e-9)
    expected = (125, 1200) if variant == "per_example" else (2, 19)
    assert (forget.weight, full.weight) == expected


@pytest.mark.quick("ref-a10_l1-64", "ref-a2_l0.5-50", "shuffled-a2_l0.5-50", "lossfree-a10_l1-64")
@pytest.mark.parametrize(("setting", "batch_size"), [("a10_l1", 64), ("a2_l0.5", 50)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_edited_weights(variant, setting, batch_size):
    alpha, dampening = SETTINGS[setting]
    # Retained examples first, then the forget set, is the order in which SSD itself reads all data.
    full = importances(variant)[1] if variant == "shuffled" else None
    unlearn = mu.ssd(MODEL, alpha, dampening, full_importance=full, **VARIANTS[variant])
    sets = mu.split(data(batch_size), GOLDEN["forget_idx"])
    after, info = unlearn(jax.random.key(0), variables(), *sets)
    assert_relative(after.params, params(GOLDEN, f"w_after/{variant}/{setting}"), 1e-9)
    selected, total = GOLDEN[f"selected/{variant}/{setting}"]
    assert round(float(info.details.selected) * total) == selected


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_the_edited_network(variant):
    full = importances(variant)[1]
    unlearn = mu.ssd(MODEL, 2.0, 0.5, full_importance=full, **VARIANTS[variant])
    sets = mu.split(data(), GOLDEN["forget_idx"])
    after, _ = unlearn(jax.random.key(0), variables(), *sets)
    logits = MODEL.apply(after, jax.numpy.asarray(GOLDEN["x_test"]))
    expected = GOLDEN[f"logits_test/{variant}/a2_l0.5"]
    np.testing.assert_allclose(logits, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_adaptive_threshold(variant):
    forget, full = importances(variant)
    percentile, alpha = GOLDEN[f"assd/{variant}"]
    np.testing.assert_allclose(100 - np.log1p(100 * 125 / 1200), percentile, rtol=1e-9)
    found = mu.edits.adaptive_alpha(forget.value, full.value, 125 / 1200)
    np.testing.assert_allclose(found, alpha, rtol=1e-9)
