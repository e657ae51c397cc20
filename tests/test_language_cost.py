"""A step of NPO, DPO and RMU against one of fine-tuning on the same rows, as compiled."""

from __future__ import annotations

import functools

import jax
import pytest

import mu_jax as mu
from benchmarks import language

ADAMW_TREES = 3  # parameters, and two moments


@functools.cache
def given():
    return language.setup(words=256, width=32, depth=8, length=32, rows=4, steps=1)


@functools.cache
def cost(name):
    return language.cost(given(), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["NPO", "DPO"])
def test_a_step_takes_what_fine_tuning_takes(name):
    one, base = cost(name), cost(language.BASE[name])
    assert one.operations == base.operations
    assert one.flops / base.flops == pytest.approx(1, abs=1e-3)
    assert one.traffic / base.traffic <= 1.01
    assert one.temporaries <= 1.01 * base.temporaries


@pytest.mark.slow
def test_a_step_of_rmu_takes_a_quarter():
    one, base = cost("RMU"), cost(language.FINETUNE)
    assert one.operations <= 0.25 * base.operations
    assert one.traffic <= 0.25 * base.traffic and one.temporaries <= 0.25 * base.temporaries


@pytest.mark.quick("NPO")
@pytest.mark.parametrize("name", ["NPO", "DPO", "RMU"])
def test_no_second_model_is_in_memory(name):
    """RMU has all parameters once, and of the few trained ones two moments and the reference."""
    one = cost(name)
    trees = one.model_bytes / one.parameters
    assert trees < (1.3 if name == "RMU" else ADAMW_TREES + 0.1)


@pytest.mark.slow
def test_a_second_model_would_be_seen(monkeypatch):
    recipe = mu.PairingRecipe("kl", epochs=1)
    model = given().decoder.model(language.LOSS)
    live = (mu.npo(model, language.ADAMW, recipe=recipe), given().forget, given().retain)
    scored = language.with_scores(given())
    monkeypatch.setattr(language, "transforms", lambda given: {"live": (live[0], scored, live[2])})
    one = language.cost(given(), "live")
    assert one.model_bytes / one.parameters > ADAMW_TREES + 1
    assert one.operations > 1.1 * cost(language.FINETUNE).operations


def test_the_rows_of_the_bases_are_those_of_the_methods():
    """Ratios are of the same work: rows to forget and drawn rows, or pairs and drawn rows."""
    found = language.transforms(given())
    rows = {name: sets[1].batch_size for name, (_, *sets) in found.items()}
    assert rows[language.FINETUNE] == 2 * rows["NPO"] == 2 * rows["RMU"]
    assert rows[language.FINETUNE_PAIRS] == 3 * rows["DPO"]
    steps = {
        name: (sets[0] if name in language.BASE else sets[1]).num_batches
        for name, (_, *sets) in found.items()
    }
    assert set(steps.values()) == {given().steps}
    assert jax.tree.leaves(found["DPO"][1].targets.loser.reference)
