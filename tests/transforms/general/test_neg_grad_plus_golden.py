"""NegGrad+ and gradient ascent against the published programs, in float64.

The numbers are those of `golden/classification_neg_grad_plus.npz`. They are not to be regenerated
from this code: when a test fails, either the code is wrong or the definition was changed on
purpose.
"""

import importlib

import jax
import numpy as np
import optax
import pytest
from golden_files import load
from golden_networks import MODEL, params
from golden_runs import Recorded, batch, epochs_of, optimizer_of

import mu_jax as mu
from mu_jax.data.forget_retain import Marked

GOLDEN = load("classification_neg_grad_plus.npz")
MODULE = importlib.import_module("mu_jax.transforms.general.neg_grad_plus")


def pull_to(anchor, strength):
    """The gradient of `strength / 2 ||theta - anchor||^2`, which the program adds."""
    return optax.stateless(
        lambda g, p: jax.tree.map(lambda g, p, a: g + strength * (p - a), g, p, anchor)
    )


def pairs(case):
    """The recorded steps in epochs: rows to retain and to forget, weighted so that each counts.

    The transform weights both parts of a shuffled batch by the sizes of the sets; with weights
    `n / (N b)` for the b rows of a part, of a set of n, its value is the program's.
    """
    steps = []
    retained, forgotten = (GOLDEN[f"{case}/{part}_rows"] for part in ("retain", "forget"))
    for rows in zip(retained, forgotten, strict=True):
        parts = [
            batch(GOLDEN, chosen, weight=size / 300 / (chosen >= 0).sum())
            for chosen, size in zip(rows, (240, 60), strict=True)
        ]
        joined = mu.Batch(*(np.concatenate(each) for each in zip(*parts, strict=True)))
        marks = np.repeat([False, True], [len(part.index) for part in parts])
        steps.append(joined._replace(targets=Marked(joined.targets, marks)))
    epochs = int(GOLDEN[f"{case}/hp/epochs"])
    return [steps[i * len(steps) // epochs :][: len(steps) // epochs] for i in range(epochs)]


def check(after, case):
    for name, expected in params(GOLDEN, f"{case}/after").items():
        assert after.params[name].dtype == np.float64
        np.testing.assert_allclose(after.params[name], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("case", ["frozen_statistics", "train_statistics"])
def test_golden_run_of_neg_grad_plus(case, monkeypatch):
    hyper = {name: float(GOLDEN[f"{case}/hp/{name}"]) for name in ("a", "lr", "pull", "epochs")}
    with jax.enable_x64(True):
        start = mu.Variables(params(GOLDEN, "before"))
        optimizer = optimizer_of(GOLDEN, case, hyper["lr"])
        if hyper["pull"]:
            pull = pull_to(start.params, hyper["a"] * hyper["pull"])
            optimizer = optax.chain(pull, optimizer)
        data = mu.batches(GOLDEN["x"], GOLDEN["y"], batch_size=64)
        sets = mu.split(data, GOLDEN["forget_random_rows"])
        monkeypatch.setattr(MODULE, "marked_mix", lambda *_: Recorded(pairs(case)))
        unlearn = mu.neg_grad_plus(
            MODEL, optimizer, forget_weight=1 - hyper["a"], epochs=int(hyper["epochs"])
        )
        after, info = unlearn(jax.random.key(0), start, *sets)
        check(after, case)
        if not hyper["pull"]:
            np.testing.assert_allclose(info.details.loss, GOLDEN[f"{case}/loss"], rtol=1e-6)


def test_golden_run_of_gradient_ascent():
    case, epochs = "gradient_ascent", int(GOLDEN["gradient_ascent/hp/epochs"])
    with jax.enable_x64(True):
        optimizer = optimizer_of(GOLDEN, case, float(GOLDEN[f"{case}/hp/lr"]))
        unlearn = mu.gradient_ascent(MODEL, optimizer, epochs=epochs)
        steps = len(GOLDEN[f"{case}/rows"])
        forget = Recorded(epochs_of(GOLDEN, case, np.ones(steps, bool), epochs))
        retain = [batch(GOLDEN, GOLDEN["retain_random_rows"])]
        start = mu.Variables(params(GOLDEN, "before"))
        after, info = unlearn(jax.random.key(0), start, forget, retain)
        check(after, case)
        np.testing.assert_allclose(info.details.loss, GOLDEN[f"{case}/loss"], rtol=1e-6)
