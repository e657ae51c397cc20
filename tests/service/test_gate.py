"""What the gate and the budget ask, what drifts, and what counts as a try."""

from __future__ import annotations

import numpy as np
import pytest

from mu_jax.service import Budget, Event, Gate, of_lineage, put_backs
from mu_jax.store import Store


@pytest.mark.parametrize(
    "measured, reason",
    [
        ({"retain accuracy": 0.9}, ""),
        ({"retain accuracy": 0.899}, "retain accuracy 0.899, at least 0.9 is asked"),
        ({"retain accuracy": float("nan")}, "retain accuracy nan, at least 0.9 is asked"),
        ({}, "retain accuracy was not measured, at least 0.9 is asked"),
    ],
)
def test_a_gate_refuses_what_is_low_or_failed(measured, reason):
    assert Gate(retain_accuracy=0.9).judge(measured).sentence == reason


@pytest.mark.parametrize("attack, passes", [(0.5, True), (0.6, True), (0.61, False), (0.39, False)])
def test_an_attack_that_is_wrong_too_often_tells_members_too(attack, passes):
    assert Gate(membership=0.6).judge({"MIA": attack}).passes is passes


def test_the_distance_to_oracles_is_asked_where_there_are_some():
    gate = Gate(oracle_gap=0.02)
    assert gate.judge({}).passes and gate.judge({"oracle gap": 0.01}).passes
    assert gate.judge({"oracle gap": 0.03}, "it has collapsed").reasons == (
        "it has collapsed",
        "oracle gap 0.03, at most 0.02 is asked",
    )


@pytest.mark.parametrize("wrong", [1.2, -0.1, float("nan"), "0.9", True])
def test_thresholds_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="expected a number from 0 to 1 for retain_accuracy"):
        Gate(retain_accuracy=wrong)
    with pytest.raises(ValueError, match="expected a number from 0 to 1 for share"):
        Budget(share=wrong)


def test_drift_counts_from_the_root_of_the_lineage(tmp_path):
    store, weights = Store(tmp_path), {"w": np.ones(1)}
    root = store.publish(weights, method="retrain", forgotten=[0, 1], metrics={})
    first = store.publish(weights, method="ssd", parent=root, forgotten=[2])
    second = store.publish(weights, method="sisa", parent=first, forgotten=[3, 4, 5])
    found = of_lineage(store.lineage(second), 10, exact={"sisa"})
    assert (found.root, found.steps, found.forgotten, found.examples) == (1, 1, 4, 8)
    assert found.share == 0.5 and found.drop is None
    assert Budget(share=0.5).spent(found) == "" and Budget(share=0.49).spent(found)


def test_put_backs_count_from_when_a_request_was_last_done():
    def count(*states, reason=""):
        return put_backs(Event(n, "", 1, state, reason) for n, state in enumerate(states))

    assert count("accepted", "pending", "accepted", "pending", "done", "accepted") == 0
    assert count("accepted", "accepted", "pending", "pending", "accepted") == 1
    assert count("accepted", "pending", "accepted", reason="not tried, it is retrained") == 0
