"""Planners: closed forms by hand and against simulation, orders of the published program."""

import itertools
import math

import numpy as np
import pytest
from lineages import SHARDS, SLICES
from trees import is_one_sentence

from mu_jax.exact import (
    chance_to_answer,
    deletions_survived,
    matched_orders,
    order_score,
    plan_s3t,
    rotations,
    simulate_deletions,
    sisa_cost,
    stage_epochs,
)
from mu_jax.exact.orders import prefixes_of


def test_epochs_of_stages_are_as_much_work_as_one_training():
    for epochs, slices in itertools.product((1, 7, 30), (1, 2, 5, 9)):
        found = stage_epochs(epochs, slices)
        assert len(found) == slices and min(found) >= 0
        work = sum(e * (r + 1) / slices for r, e in enumerate(found))
        assert abs(work - epochs) <= 1.0
    e = 2 * 7 / 6
    assert stage_epochs(7, 5) == tuple(
        math.floor((r + 1) * e) - math.floor(r * e) for r in range(5)
    )


def test_the_cost_of_a_removal_by_hand_and_its_limit():
    assert sisa_cost(7, 1, 3) == pytest.approx(1 / 7)
    for slices in (2, 3, 5):  # as many epochs in each stage
        epochs = 3 * (slices + 1)
        assert sisa_cost(4, slices, epochs) == pytest.approx((2 * slices + 1) / (12 * slices))
    assert sisa_cost(1, 1000, 1001) == pytest.approx(2 / 3, abs=1e-3)
    assert sisa_cost(3, 2, 6, removed=10**6) == pytest.approx(1)


@pytest.mark.parametrize("removed", [1, 4])
def test_the_cost_of_a_removal_against_simulation(removed):
    """Cells are drawn, and the stages that have seen one counted."""
    draw, runs = np.random.default_rng(0), 20_000
    epochs = np.asarray(stage_epochs(5, SLICES))
    work = epochs * np.arange(1, SLICES + 1)
    shard = draw.integers(SHARDS, size=(runs, removed))
    piece = draw.integers(SLICES, size=(runs, removed))
    spent = np.zeros(runs)
    for s in range(SHARDS):
        first = np.where(shard == s, piece, SLICES).min(axis=1)
        spent += (work * (np.arange(SLICES) >= first[:, None])).sum(axis=1)
    spent /= SHARDS * work.sum()
    error = 1.96 * spent.std() / np.sqrt(runs)
    assert abs(spent.mean() - sisa_cost(SHARDS, SLICES, 5, removed=removed)) < error


def harmonic(n):
    return sum(1 / k for k in range(1, n + 1))


@pytest.mark.parametrize("shards, slices, orders", [(1, 1, 1), (5, 6, 1), (5, 6, 3), (3, 4, 20)])
def test_deletions_survived_in_closed_form(shards, slices, orders):
    found = deletions_survived(shards, slices, orders)
    firsts = min(orders, slices)
    assert found.last == pytest.approx(shards * slices * harmonic(shards * firsts), rel=1e-6)
    if orders == 1:  # the first request to any first slice
        assert found.first == pytest.approx(slices, rel=1e-6)
    if shards == 1:
        assert found.first == pytest.approx(found.last)


def test_deletions_survived_of_known_probabilities():
    """Two coupons: 1/p + 1/q - 1/(p + q)."""
    found = deletions_survived(1, 2, 2, probabilities=[0.7, 0.3])
    assert found.last == pytest.approx(1 / 0.7 + 1 / 0.3 - 1, rel=1e-6)
    assert deletions_survived(1, 2, 1, probabilities=[0.7, 0.3]).last == pytest.approx(1 / 0.3)


@pytest.mark.parametrize("orders", [1, 2, 4, 9])
def test_deletions_survived_against_simulation(orders):
    shards, slices = 3, 4
    found = simulate_deletions(0, rotations(slices, orders), shards, runs=4000)
    expected = deletions_survived(shards, slices, orders)
    for which in ("first", "last"):
        low, high = found.interval(which, confidence=0.999)
        assert low < getattr(expected, which) < high
    chance = chance_to_answer(60, shards, slices, orders)
    for requests in (10, 20, 40):
        share = (found.last > requests).mean()
        assert abs(share - chance[requests]) < 3 * np.sqrt(0.25 / 4000)
    assert found.last.mean() == pytest.approx(
        chance_to_answer(600, shards, slices, orders).sum(), rel=0.03
    )


def test_deletions_of_known_probabilities_against_simulation():
    p = [0.4, 0.3, 0.2, 0.1]
    found = simulate_deletions(1, matched_orders(p), 2, runs=4000, probabilities=p)
    low, high = found.interval(confidence=0.999)
    assert low < deletions_survived(2, 4, 4, probabilities=p).last < high


def test_chances_by_counting_all_sequences():
    """Two shards of two slices, orders that both begin with slice 0 or with either."""
    for orders, firsts in ((1, (0, 2)), (2, (0, 1, 2, 3))):
        found = chance_to_answer(4, 2, 2, orders)
        for requests in range(5):
            every = list(itertools.product(range(4), repeat=requests))
            alive = [not set(firsts) <= set(one) for one in every]
            assert found[requests] == pytest.approx(np.mean(alive))


def test_a_plan_counts_what_is_trained():
    plan = plan_s3t([[0, 1, 2], [0, 2, 1], [1, 0, 2]], shards=2, epochs=6)
    assert plan.trained == 2 * (2 + 3 + 3)
    assert plan.passes == pytest.approx(6 * (2 / 3 + 3 * 2 / 3 + 3))
    chance = chance_to_answer(100, 2, 3, 2)
    assert chance[plan.sure] >= 0.95 > chance[plan.sure + 1]
    assert plan.last == pytest.approx(6 * harmonic(4))


def test_rotations_of_four_slices():
    """Those of the published program, which turns the other way: the same four orders."""
    published = [[0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1], [1, 2, 3, 0]]
    assert sorted(rotations(4, 4).tolist()) == sorted(published)
    assert rotations(4, 4)[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("slices", [2, 3, 4])
def test_rotations_reach_every_order_once(slices):
    every = rotations(slices, math.factorial(slices)).tolist()
    assert sorted(every) == sorted(map(list, itertools.permutations(range(slices))))
    for budget in range(1, len(every) + 1):
        some = rotations(slices, budget)
        assert some.tolist() == every[:budget]
        starts = np.bincount(some[:, 0], minlength=slices)
        assert starts.max() - starts.min() <= 1  # as many beginnings as can be, and evenly


def test_matched_orders_of_four_probabilities():
    """Those of the published program for these probabilities."""
    found = matched_orders([0.4, 0.3, 0.2, 0.1])
    assert sorted(found.tolist()) == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
    assert matched_orders([0.4, 0.3, 0.2, 0.1], 2).tolist() == [[3, 2, 1, 0], [2, 3, 0, 1]]
    assert (np.sort(found, axis=0) == np.arange(4)[:, None]).all()  # each slice at each place


def test_a_matching_is_the_best_of_all():
    p = np.array([0.02, 0.05, 0.01])
    found = matched_orders(p)
    second = {row[0]: row[1] for row in found.tolist()}
    scores = {
        choice: sum(order_score(p[[k, choice[k]]]) for k in range(3))
        for choice in itertools.permutations(range(3))
        if all(choice[k] != k for k in range(3))
    }
    chosen = tuple(second[k] for k in range(3))
    assert scores[chosen] == pytest.approx(max(scores.values()))  # two of them may be as good


def test_the_score_of_an_order_by_hand():
    assert order_score([0.1, 0.2], power=3) == pytest.approx(0.9**3 + 2 * 0.7**3)


def test_the_tree_of_beginnings():
    tree = prefixes_of([[0, 1, 2], [0, 2, 1], [1, 2, 0]])
    assert tree.nodes == (((0,), (1,)), ((0, 1), (0, 2), (1, 2)), ((0, 1, 2), (0, 2, 1), (1, 2, 0)))
    assert [p.tolist() for p in tree.parents] == [[0, 0], [0, 0, 1], [0, 1, 2]]
    assert tree.places.tolist() == [[0, 0, 0], [0, 1, 1], [1, 2, 2]]


BAD = {
    "too many orders": lambda: rotations(3, 7),
    "no slices": lambda: rotations(0, 1),
    "probabilities above 1": lambda: matched_orders([0.9, 0.9]),
    "negative probabilities": lambda: matched_orders([-0.1, 0.9]),
    "a budget above the slices": lambda: matched_orders([0.5, 0.5], 3),
    "no epochs": lambda: stage_epochs(0, 3),
    "orders that are none": lambda: plan_s3t([[0, 0]], 1, 1),
    "a confidence of 1": lambda: plan_s3t([[0]], 1, 1, confidence=1.0),
    "slices that are never named": lambda: deletions_survived(1, 2, 2, probabilities=[1.0, 0.0]),
    "probabilities of other slices": lambda: deletions_survived(1, 3, probabilities=[0.5, 0.5]),
    "a simulation without an end": lambda: simulate_deletions(
        0, [[0, 1]], 1, probabilities=[0.0, 1.0]
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name):
    with pytest.raises(ValueError, match="expected") as error:
        BAD[name]()
    assert is_one_sentence(str(error.value)), error.value
