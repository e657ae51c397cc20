from __future__ import annotations

import numpy as np
import pytest

from mu_jax import evaluation

LOSSES = np.full(20, 0.2)
RIGHT = np.ones(20, bool)


def found(after, **options):
    return evaluation.nothing_forgotten(LOSSES, after, **{"moved": True, **options})


def test_where_no_weight_changed_nothing_was_forgotten():
    assert found(LOSSES + 5, moved=False) == (True, "no weight changed")


@pytest.mark.parametrize("wrong, nothing", [(0, True), (1, True), (2, False), (20, False)])
def test_a_class_is_forgotten_when_its_accuracy_falls(wrong, nothing):
    after = np.arange(20) >= wrong
    said = found(LOSSES + 1, correct_before=RIGHT, correct_after=after, unretained=RIGHT)
    assert said.flag is nothing and bool(said.reason) is nothing


def test_the_accuracy_counts_only_where_the_class_is_not_retained():
    alone = np.arange(20) < 5
    options = {"correct_before": RIGHT, "unretained": alone}
    assert not found(LOSSES + 1, correct_after=~alone, **options).flag
    said = found(LOSSES + 1, correct_after=alone, **options)
    assert said.flag and said.reason.startswith("accuracy 1.000 on 5 forgotten examples")
    assert not found(LOSSES + 1, correct_before=RIGHT, correct_after=RIGHT).flag


def test_a_class_that_was_never_known_is_judged_by_its_losses():
    options = {"correct_before": ~RIGHT, "correct_after": ~RIGHT, "unretained": RIGHT}
    assert not found(LOSSES + 1, **options).flag
    assert found(LOSSES, **options).flag


@pytest.mark.parametrize(
    "change, nothing", [(0.0, True), (0.002, True), (-0.002, True), (0.003, False), (-0.003, False)]
)
def test_losses_that_stayed_say_that_nothing_was_forgotten(change, nothing):
    said = found(LOSSES + change)  # 1 % of 0.2 and 0.01 is 0.0021
    assert said.flag is nothing
    assert not found(LOSSES + 0.01 * (-1) ** np.arange(20)).flag  # the mean stayed, they did not


def test_what_is_not_one_value_an_example_is_refused():
    for losses, options in (
        (np.zeros(0), {}),
        (np.zeros((2, 2)), {}),
        (np.zeros(3), {"unretained": np.zeros(2, bool)}),
    ):
        with pytest.raises(ValueError, match="expected losses and correctness of the same forget"):
            evaluation.nothing_forgotten(losses, losses, moved=True, **options)
