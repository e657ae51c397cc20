"""SCRUB against the published program, in float64.

The numbers are those of `golden/classification_scrub.npz`. They are not to be regenerated from
this code: when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from golden_networks import MODEL, params
from golden_runs import Recorded, epochs_of, optimizer_of

import mu_jax as mu
from mu_jax.transforms.general.scrub import rewind_index

GOLDEN = load("classification_scrub.npz")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def unlearned(case, max_epochs=None, **changes):
    hyper = {k.rpartition("/")[2]: v for k, v in GOLDEN.items() if k.startswith(f"{case}/hp/")}
    is_max, rate = GOLDEN[f"{case}/is_max_step"], jnp.asarray(GOLDEN[f"{case}/lr"])
    epochs, max_epochs = int(hyper["epochs"]), int(hyper["max_epochs"])
    unlearn = mu.scrub(
        MODEL,
        optimizer_of(GOLDEN, case, lambda count: rate[count]),
        **{
            "epochs": epochs,
            "max_epochs": max_epochs,
            "temperature": float(hyper["T"]),
            "gamma": float(hyper["gamma"]),
            "alpha": float(hyper["alpha"]),
            **changes,
        },
    )
    forget = Recorded(epochs_of(GOLDEN, case, is_max == 1, max_epochs))
    retain = Recorded(epochs_of(GOLDEN, case, is_max == 0, epochs))
    before = mu.Variables(params(GOLDEN, "before"))
    return unlearn(jax.random.key(0), before, forget, retain)


def distance(found, case):
    expected = params(GOLDEN, f"{case}/after")
    return max(float(jnp.abs(found[name] - leaf).max()) for name, leaf in expected.items())


@pytest.mark.parametrize("case", ["small", "large"])
def test_golden_run(case):
    after, info = unlearned(case)
    assert all(leaf.dtype == jnp.float64 for leaf in after.params.values())
    assert distance(after.params, case) < 1e-10
    is_max = GOLDEN[f"{case}/is_max_step"] == 1
    for fit, chosen in ((info.details.forget, is_max), (info.details.retain, ~is_max)):
        # The report of a fit is in float32.
        expected = GOLDEN[f"{case}/loss"][chosen]
        np.testing.assert_allclose(fit.loss, expected, rtol=1e-6, atol=1e-14)
    assert info.steps == len(is_max)


@pytest.mark.parametrize(
    "changes", [{"temperature": 1.0}, {"gamma": 0.9}, {"alpha": 0.3}], ids=lambda c: next(iter(c))
)
def test_each_hyper_parameter_counts(changes):
    assert distance(unlearned("small", **changes)[0].params, "small") > 1e-6


def test_the_epoch_to_go_back_to():
    errors, finals = GOLDEN["rewind/forget_error"], GOLDEN["rewind/validation_error_final"]
    found = [int(rewind_index(e, f)) for e, f in zip(errors, finals, strict=True)]
    assert found == GOLDEN["rewind/selected_vgg"].tolist()
    published = GOLDEN["rewind/selected"]
    assert (0 in published) and found == np.maximum(published, 1).tolist()
