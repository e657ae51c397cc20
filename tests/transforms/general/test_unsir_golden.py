"""UNSIR against the published program, in float64.

The numbers are those of `golden/classification_unsir.npz`. They are not to be regenerated from this
code: when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import load
from golden_networks import MODEL, params
from golden_runs import Recorded

import mu_jax as mu
from mu_jax.transforms._shared.noise import as_noise, learn_noise
from mu_jax.transforms.general.unsir import impair_and_repair

GOLDEN = load("classification_unsir.npz")
KEY = jax.random.key(0)
HYPER = {k.rpartition("/")[2]: GOLDEN[k] for k in GOLDEN if k.startswith("noise/hp/")}


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def noise_after(steps, penalty=None):
    data = mu.batches(GOLDEN["x"], GOLDEN["y"], batch_size=8)
    labels = jnp.full(8, int(HYPER["label"]), jnp.int32)
    start = as_noise(data, jnp.asarray(GOLDEN["noise/start"].reshape(8, 64)), labels)
    return learn_noise(
        MODEL,
        mu.Variables(params(GOLDEN, "before")),
        start,
        optax.adam(float(HYPER["lr"])),
        key=KEY,
        steps=steps,
        penalty=float(HYPER["weight"]) if penalty is None else penalty,
    )


@pytest.mark.parametrize("steps", [1, 5, 25])
def test_the_noise(steps):
    noise, info = noise_after(steps)
    expected = GOLDEN[f"noise/after_{steps}"].reshape(8, 64)
    np.testing.assert_allclose(noise.inputs, expected, rtol=0, atol=1e-10)
    assert noise.inputs.dtype == jnp.float64
    np.testing.assert_allclose(info.loss, GOLDEN["noise/loss"][:steps], rtol=1e-6)


def test_the_lengths_count():
    expected = GOLDEN["noise/after_5"].reshape(8, 64)
    assert np.abs(noise_after(5, 0.2)[0].inputs - expected).max() > 1e-3


def recorded(case, impair):
    """The batches of one phase; rows from 300 on are noise images."""
    images = noise_after(25)[0].inputs
    inputs = np.concatenate([GOLDEN["x"], images])

    def batch(step):
        rows = GOLDEN[f"{case}/rows"][step]
        rows, labels = rows[rows >= 0], GOLDEN[f"{case}/labels"][step][rows >= 0]
        return mu.Batch(inputs[rows], jnp.asarray(labels), np.ones(rows.size), rows)

    steps = np.flatnonzero(GOLDEN[f"{case}/is_impair_step"] == impair)
    return Recorded([[batch(step) for step in steps]])


@pytest.mark.parametrize("case", ["reference", "whole_batch"])
def test_impair_and_repair(case):
    rates = (float(GOLDEN[f"{case}/hp/lr_{phase}"]) for phase in ("impair", "repair"))
    state, info = impair_and_repair(
        MODEL,
        mu.Variables(params(GOLDEN, "before")),
        (recorded(case, 1), recorded(case, 0)),
        tuple(map(optax.adam, rates)),
        key=KEY,
    )
    for name, expected in params(GOLDEN, f"{case}/after").items():
        np.testing.assert_allclose(state.variables.params[name], expected, rtol=0, atol=1e-9)
    found = np.concatenate([fit.loss for fit in info.fits])
    np.testing.assert_allclose(found, GOLDEN[f"{case}/loss"], rtol=1e-6)


def test_the_slip_of_the_programs_uses_one_image_of_each_batch():
    rows = [GOLDEN[f"{case}/rows"] for case in ("reference", "whole_batch")]
    seen = [np.unique(each[each >= 300]).size for each in rows]
    assert seen == [1, 8] and GOLDEN["noise/start"].shape[:2] == (8, 1)
