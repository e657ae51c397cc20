"""Boundary shrink and expand against the published programs, in float64.

The numbers are those of `golden/classification_boundary.npz`. They are not to be regenerated from
this code: when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from golden_networks import MODEL, params
from golden_runs import Recorded, batch, optimizer_of

import mu_jax as mu
from mu_jax.objectives.boundary import Attack, nearest

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
GOLDEN = load("classification_boundary.npz")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def before():
    return mu.Variables(params(GOLDEN, "before"))


def of_run(case, name):
    return float(GOLDEN[f"{case}/hp/{name}"])


def recorded(case):
    """The steps with the true labels, and one epoch before them in which attacks are counted."""
    steps = [batch(GOLDEN, rows) for rows in GOLDEN[f"{case}/rows"]]
    epochs = int(GOLDEN[f"{case}/hp/epochs"])
    size = len(steps) // epochs
    parts = [steps[i * size : (i + 1) * size] for i in range(epochs)]
    return Recorded([parts[0], *parts])


def retained():
    return [batch(GOLDEN, GOLDEN["retain_class_rows"])]


@pytest.mark.parametrize("epsilon", ["0.1", "0.3"])
def test_the_attack_and_its_labels(epsilon):
    rows = batch(GOLDEN, GOLDEN["forget_class_rows"])
    numbers = {"epsilon": float(epsilon), "low": 0.0, "high": 1.0}
    moved = Attack()(MODEL, before(), rows, numbers)
    expected = GOLDEN[f"fgsm/{epsilon}/x_adv_times_255"].reshape(moved.shape)
    np.testing.assert_allclose(255 * moved, expected, rtol=0, atol=1e-10)
    found = nearest(MODEL, before(), rows, Attack(), numbers)
    np.testing.assert_array_equal(found.labels, GOLDEN[f"fgsm/{epsilon}/labels"])
    crossed = np.asarray(found.labels) != np.asarray(rows.targets)
    assert crossed.mean() == GOLDEN[f"fgsm/{epsilon}/success"]


VARIANTS = {"shrink_weighted": {"weighted": True}, "shrink_curvature": {"curvature_weight": 0.7}}


@pytest.mark.parametrize(
    "case", ["shrink", "shrink_original", "shrink_weighted", "shrink_curvature"]
)
def test_golden_shrink(case):
    unlearn = mu.boundary_shrink(
        MODEL,
        optimizer_of(GOLDEN, case, of_run(case, "lr")),
        epsilon=of_run(case, "bound"),
        epochs=int(of_run(case, "epochs")),
        **VARIANTS.get(case, {}),
    )
    after, info = unlearn(jax.random.key(0), before(), recorded(case), retained())
    for name, expected in params(GOLDEN, f"{case}/after").items():
        assert after.params[name].dtype == jnp.float64
        np.testing.assert_allclose(after.params[name], expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(info.details.fit.loss, GOLDEN[f"{case}/loss"], rtol=1e-6)
    np.testing.assert_allclose(info.details.crossed, GOLDEN["fgsm/0.1/success"], rtol=1e-6)
    assert info.details.outside == 0


@pytest.mark.parametrize("case", ["expand", "expand_no_decay"])
def test_golden_expand(case):
    row = (GOLDEN[f"{case}/new_row/weight"], GOLDEN[f"{case}/new_row/bias"])
    unlearn = mu.boundary_expand(
        MODEL,
        optimizer_of(GOLDEN, case, of_run(case, "lr")),
        epochs=int(of_run(case, "epochs")),
        new_row=lambda key, inputs: row,
    )
    after, info = unlearn(jax.random.key(0), before(), recorded(case), retained())
    for name in params(GOLDEN, "before"):
        expected = GOLDEN[f"{case}/after_wide/{name}"]
        expected = expected[:10] if name.startswith("fc3") else expected
        assert after.params[name].dtype == jnp.float64
        np.testing.assert_allclose(after.params[name], expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(info.details.loss, GOLDEN[f"{case}/loss"], rtol=1e-6)
