"""SalUn-soft, random labels with a proximal pull, against the published program, in float64.

The numbers are those of `golden/classification_salun_soft.npz`. They are not to be regenerated from
this code: when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import load
from golden_networks import MODEL, params
from golden_runs import Recorded, epochs_of, optimizer_of

import mu_jax as mu
from mu_jax.data.forget_retain import Marked

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
GOLDEN = load("classification_salun_soft.npz")
MODULE = importlib.import_module("mu_jax.transforms.general.random_labels")
STEPS, EPOCHS = 10, 2


def mark(batch):
    forget = np.isin(batch.index, GOLDEN["forget_random_rows"])
    return batch._replace(targets=Marked(batch.targets, jnp.asarray(forget)))


def soft(steps):
    """The share that is held, by the program's schedule."""
    first = steps // (STEPS // EPOCHS) * (STEPS // EPOCHS)
    return float(GOLDEN["soft/hp/mask_ratio"]) * (1 - (first + 1) / STEPS)


def distance(monkeypatch, share, every):
    """How far the result of a run is from the published weights."""
    recorded = epochs_of(GOLDEN, "soft", np.ones(STEPS, bool), EPOCHS)
    recorded = [list(map(mark, epoch)) for epoch in recorded]
    monkeypatch.setattr(MODULE, "marked_mix", lambda *sets: Recorded(recorded))
    with jax.enable_x64(True):
        optimizer = optax.chain(
            optimizer_of(GOLDEN, "soft", float(GOLDEN["soft/hp/lr"])),
            mu.loops.pull_back(share, every),
        )
        unlearn = mu.random_labels(
            MODEL,
            optimizer,
            protocol="redrawn_union",
            epochs=EPOCHS,
            label_rule=lambda key, label, classes: label,  # the recorded labels are in the batches
        )
        data = mu.batches(GOLDEN["x"], GOLDEN["y"], batch_size=64)
        sets = (data.take(GOLDEN[f"{part}_random_rows"]) for part in ("forget", "retain"))
        after, info = unlearn(jax.random.key(0), mu.Variables(params(GOLDEN, "before")), *sets)
        expected = params(GOLDEN, "soft/after")
        assert all(leaf.dtype == jnp.float64 for leaf in after.params.values())
        return max(float(jnp.abs(after.params[k] - x).max()) for k, x in expected.items()), info


def test_golden_run(monkeypatch):
    held = [int(soft(first) * 2778) for first in (0, STEPS // EPOCHS)]
    assert held == GOLDEN["soft/kept_per_epoch"].tolist()
    apart, info = distance(monkeypatch, soft, STEPS // EPOCHS)
    assert apart < 1e-10
    np.testing.assert_allclose(info.details.loss, GOLDEN["soft/loss"], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "every"), [(soft, None), (0.45, STEPS // EPOCHS)])
def test_schedule_and_anchor_count(monkeypatch, share, every):
    assert distance(monkeypatch, share, every)[0] > 1e-6
