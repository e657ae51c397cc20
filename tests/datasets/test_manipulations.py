"""Manipulated training sets: what changes, what stays, and that the draw is one of ids."""

import itertools

import jax
import numpy as np
import pytest

from mu_jax import datasets
from mu_jax.datasets import Examples


def images(n=60, seed=0):
    random = np.random.default_rng(seed)
    return Examples(
        random.uniform(0.0, 0.9, (n, 5, 6, 2)).astype(np.float32),
        (np.arange(n) % 4).astype(np.int32),
        random.permutation(1000)[:n].astype(np.int32),
    )


def shuffled(examples):
    rows = np.random.default_rng(9).permutation(len(examples.index))
    return Examples(*(x[rows] for x in examples)), rows


def test_a_trigger_covers_the_corner_of_every_channel_and_nothing_else():
    given = images().inputs
    found = np.array(datasets.add_trigger(given, size=2, value=1.5))
    assert (found[:, 3:, 4:] == 1.5).all()
    found[:, 3:, 4:] = given[:, 3:, 4:]
    np.testing.assert_array_equal(found, given)


def test_a_trigger_can_be_compiled_and_takes_any_leading_axes():
    given = images().inputs.reshape(6, 10, 5, 6, 2)
    found = jax.jit(datasets.add_trigger)(given)
    np.testing.assert_array_equal(found, datasets.add_trigger(given))
    assert found.dtype == given.dtype


def test_poison_marks_and_relabels_the_drawn_examples_only():
    given = images()
    before = Examples(*(x.copy() for x in given))
    found = datasets.poison(given, count=20, label=2, size=2, seed=1)
    drawn = np.isin(given.index, found.ids)
    assert drawn.sum() == 20 and (np.diff(found.ids) > 0).all()
    expected = np.where(
        drawn[:, None, None, None], datasets.add_trigger(given.inputs, size=2), given.inputs
    )
    np.testing.assert_array_equal(found.examples.inputs, expected)
    np.testing.assert_array_equal(found.examples.targets, np.where(drawn, 2, given.targets))
    np.testing.assert_array_equal(found.clean_targets, given.targets)
    for old, new in zip(before, given):
        np.testing.assert_array_equal(old, new)


def test_poisoned_examples_are_all_mislabeled():
    given = images()
    found = datasets.poison(given, count=45, label=2)  # all there are of other classes
    drawn = np.isin(given.index, found.ids)
    assert (found.clean_targets[drawn] != found.examples.targets[drawn]).all()


def test_confused_classes_swap_labels_half_and_half():
    given = images()
    found = datasets.confuse_classes(given, count=20, classes=(3, 1), seed=4)
    drawn = np.isin(given.index, found.ids)
    before, after = given.targets[drawn], found.examples.targets[drawn]
    assert np.bincount(before).tolist() == np.bincount(after).tolist() == [0, 10, 0, 10]
    np.testing.assert_array_equal(after, 4 - before)
    np.testing.assert_array_equal(found.examples.targets[~drawn], given.targets[~drawn])
    np.testing.assert_array_equal(found.clean_targets, given.targets)
    np.testing.assert_array_equal(found.examples.inputs, given.inputs)


@pytest.mark.parametrize(
    "manipulate, options",
    [
        (datasets.poison, {"size": 2}),
        (datasets.confuse_classes, {"classes": (0, 2)}),
    ],
)
def test_the_draw_follows_the_seed_and_the_ids(manipulate, options):
    given = images()
    found = manipulate(given, count=12, seed=3, **options)
    other, rows = shuffled(given)
    moved = manipulate(other, count=12, seed=3, **options)
    np.testing.assert_array_equal(moved.ids, found.ids)
    for part, expected in zip(moved.examples, found.examples):
        np.testing.assert_array_equal(part, expected[rows])
    np.testing.assert_array_equal(moved.clean_targets, found.clean_targets[rows])
    assert set(manipulate(given, count=6, seed=3, **options).ids) < set(found.ids)
    assert set(manipulate(given, count=12, seed=5, **options).ids) != set(found.ids)


def test_known_parts_are_nested_and_the_last_is_all():
    ids = images().index
    parts = [datasets.known_part(ids, fraction, seed=2) for fraction in (0.001, 0.25, 0.5, 1.0)]
    assert [part.size for part in parts] == [1, 15, 30, 60]
    for smaller, larger in itertools.pairwise(parts):
        assert set(smaller) < set(larger)
    np.testing.assert_array_equal(parts[-1], np.sort(ids))
    assert set(datasets.known_part(ids, 0.5, seed=3)) != set(parts[2])


REAL = images()._replace(targets=np.zeros(60, np.float32))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: datasets.poison(images(), count=46), "from 1 to 45"),
        (lambda: datasets.poison(images(), count=0), "from 1 to 45"),
        (lambda: datasets.poison(images(), count=5, label=4), "found \\[4\\]"),
        (lambda: datasets.poison(images(), count=5, size=6), "found shape \\(5, 5, 6, 2\\)"),
        (lambda: datasets.poison(REAL, count=5), "integer class labels"),
        (lambda: datasets.add_trigger(np.zeros((3, 4))), "images \\[..., H, W, C\\]"),
        (lambda: datasets.confuse_classes(images(), count=3, classes=(0, 1)), "even count"),
        (lambda: datasets.confuse_classes(images(), count=2, classes=(1, 1)), "two different"),
        (lambda: datasets.confuse_classes(images(), count=2, classes=(1, 7)), "found \\[7\\]"),
        (lambda: datasets.confuse_classes(images(), count=40, classes=(0, 1)), "of class 0"),
        (lambda: datasets.known_part([1, 2], 0.0), "in \\(0, 1\\]"),
        (lambda: datasets.known_part([1, 2], float("nan")), "in \\(0, 1\\]"),
        (lambda: datasets.known_part([], 0.5), "found 1"),
    ],
)
def test_bad_input_is_one_sentence(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
