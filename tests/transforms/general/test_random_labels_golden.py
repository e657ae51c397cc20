"""Random labels against the published programs, in float64.

The numbers are those of `golden/classification_random_labels.npz`. They are not to be regenerated
from this code: when a test fails, either the code is wrong or the definition was changed on
purpose.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from golden_networks import MODEL, params
from golden_runs import Recorded, epochs_of, optimizer_of

import mu_jax as mu
from mu_jax.data.forget_retain import Marked

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
GOLDEN = load("classification_random_labels.npz")
MODULE = importlib.import_module("mu_jax.transforms.general.random_labels")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unlearned(monkeypatch):
    """The unlearned weights of a recorded run, whose labels a rule looks up by the ids."""

    def run(case, **options):
        hyper = {k.rpartition("/")[2]: v for k, v in GOLDEN.items() if k.startswith(f"{case}/hp/")}
        epochs, kind = int(hyper["epochs"]), str(hyper["forget_set"])
        drawn = jnp.full(len(GOLDEN["y"]), -1, jnp.int32)  # not to be used: NaN
        if f"{case}/forget_labels" in GOLDEN:
            rows = GOLDEN[f"forget_{kind}_rows"]
            drawn = drawn.at[rows].set(GOLDEN[f"{case}/forget_labels"])
            options["label_rule"] = lambda key, label, classes: drawn[label]
        else:  # drawn in every epoch: recorded in the batches
            options["label_rule"] = lambda key, label, classes: label
        monkeypatch.setattr(MODULE, "marked_mix", lambda *sets: Recorded(mixed(case, kind, epochs)))
        unlearn = mu.random_labels(
            MODEL, optimizer_of(GOLDEN, case, float(hyper["lr"])), epochs=epochs, **options
        )
        before = mu.Variables(params(GOLDEN, "before"))
        after, info = unlearn(jax.random.key(0), before, *sets(case, kind, epochs))
        for name, expected in params(GOLDEN, f"{case}/after").items():
            assert after.params[name].dtype == jnp.float64
            np.testing.assert_allclose(after.params[name], expected, rtol=0, atol=1e-10)
        return info

    return run


def sets(case, kind, epochs):
    """The batches of both sets, as recorded where a pass is over one of them."""
    chosen = GOLDEN.get(f"{case}/is_forget_step")
    if chosen is None:
        data = mu.batches(GOLDEN["x"], GOLDEN["y"], batch_size=60)
        return [data.take(GOLDEN[f"{part}_{kind}_rows"]) for part in ("forget", "retain")]
    return [Recorded(epochs_of(GOLDEN, case, chosen == which, epochs)) for which in (1, 0)]


def mixed(case, kind, epochs):
    """The batches of a union; where labels are drawn once, a label to forget is its row."""

    def mark(batch):
        forget = np.isin(batch.index, GOLDEN[f"forget_{kind}_rows"])
        labels = batch.targets
        if f"{case}/forget_labels" in GOLDEN:
            labels = jnp.where(forget, batch.index, GOLDEN["y"][batch.index])
        return batch._replace(targets=Marked(labels, jnp.asarray(forget)))

    every = np.ones(len(GOLDEN[f"{case}/rows"]), bool)
    return [list(map(mark, epoch)) for epoch in epochs_of(GOLDEN, case, every, epochs)]


@pytest.mark.quick("once_class")
@pytest.mark.parametrize("case", ["once_class", "once_random"])
def test_labels_drawn_once(case, unlearned):
    info = unlearned(case)
    np.testing.assert_allclose(info.details.loss, GOLDEN[f"{case}/loss"], rtol=1e-6)


def test_labels_drawn_in_every_epoch_in_a_union(unlearned):
    info = unlearned("redraw_union", protocol="redrawn_union")
    np.testing.assert_allclose(info.details.loss, GOLDEN["redraw_union/loss"], rtol=1e-6)


def test_passes_in_turn(unlearned):
    info = unlearned("redraw_passes", protocol="alternating")
    forget = GOLDEN["redraw_passes/is_forget_step"] == 1
    for fit, chosen in ((info.details.forget, forget), (info.details.retain, ~forget)):
        np.testing.assert_allclose(fit.loss, GOLDEN["redraw_passes/loss"][chosen], rtol=1e-6)
