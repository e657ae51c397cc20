"""Batches, their padding, the split into sets, and every input that is refused."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.data.batches import (
    check_weight,
    in_memory,
    pad,
    random_order,
    without_padding_values,
)
from mu_jax.data.forget_retain import check_sets


def make(n=7, batch_size=3, **arguments):
    inputs = {"image": jnp.arange(2.0 * n).reshape(n, 2), "id": jnp.arange(n) * 10}
    return mu.batches(inputs, jnp.arange(n), batch_size=batch_size, **arguments)


def assert_refused(sentence, function, *arguments, **named):
    """Exactly one sentence: what was expected, what was found, what to do."""
    with pytest.raises(ValueError, match=sentence) as raised:
        function(*arguments, **named)
    message = str(raised.value)
    assert re.fullmatch(r"expected [^\n]+ found [^\n]+: [^\n]+[^.\n]", message), message


def test_batches_keep_the_order_and_pad_the_last_with_weight_zero():
    data = make()
    assert (data.num_examples, data.num_batches) == (7, 3)
    found = list(data)
    assert [b.index.tolist() for b in found] == [[0, 1, 2], [3, 4, 5], [6, -1, -1]]
    assert [b.weight.tolist() for b in found] == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
    last = found[-1]
    np.testing.assert_array_equal(last.inputs["image"], [[12, 13], [0, 1], [2, 3]])
    assert last.targets.tolist() == [6, 0, 1]


def test_a_batch_is_never_larger_than_the_data():
    (only,) = make(4, batch_size=100)
    assert only.weight.tolist() == [1] * 4


def test_defaults_and_dtypes():
    data = mu.batches(np.ones((3, 2)), np.array([1, 2, 3]), batch_size=2)
    assert (data.weight.dtype, data.index.dtype) == (jnp.float32, jnp.int32)
    assert data.weight.tolist() == [1] * 3 and data.index.tolist() == [0, 1, 2]
    assert isinstance(data.inputs, jax.Array) and isinstance(data.targets, jax.Array)


def test_targets_may_be_empty():
    data = mu.batches(jnp.ones((3, 2)), (), batch_size=2)
    assert data.at(0).targets == ()


def test_every_weight_of_an_epoch_adds_up_whatever_the_batch_size():
    weight = jnp.array([1.0, 0.5, 0.0, 2.0, 1.0, 0.25, 3.0])
    for batch_size in (1, 2, 3, 5, 7, 8):
        data = make(batch_size=batch_size, weight=weight)
        assert sum(float(b.weight.sum()) for b in data) == 7.75


def test_rows_of_weight_zero_are_overwritten_by_a_real_row():
    data = make(weight=jnp.array([0.0, 1, 1, 1, 1, 1, 1]))
    batch = data.at(0)
    assert batch.inputs["id"].tolist() == [10, 10, 20]
    assert batch.weight.tolist() == [0, 1, 1]


def test_at_follows_an_order_and_may_be_traced():
    data, order = make(), jnp.array([6, 5, 4, 3, 2, 1, 0])
    batch = jax.jit(lambda data, step: data.at(step, order))(data, 2)
    assert batch.index.tolist() == [0, -1, -1]
    assert data.at(0, order).targets.tolist() == [6, 5, 4]


def test_batches_pass_through_jit_as_a_pytree():
    total = jax.jit(lambda data: sum(b.inputs["image"].sum() * 0 + b.weight.sum() for b in data))
    assert total(make()) == 7
    doubled = jax.tree.map(lambda x: 2 * x, make())
    assert isinstance(doubled, mu.Batches) and doubled.batch_size == 3
    assert doubled.targets.tolist() == [0, 2, 4, 6, 8, 10, 12]


def test_take_and_shuffled_keep_rows_together():
    data = make(index=jnp.arange(100, 107), weight=jnp.arange(1.0, 8.0))
    taken = data.take(np.array([5, 0]))
    assert taken.index.tolist() == [105, 100] and taken.weight.tolist() == [6, 1]
    assert taken.inputs["id"].tolist() == [50, 0] and taken.targets.tolist() == [5, 0]
    shuffled = data.shuffled(jax.random.key(3))
    rows = np.asarray(shuffled.targets)
    assert sorted(rows) == list(range(7)) and list(rows) != list(range(7))
    np.testing.assert_array_equal(shuffled.index, rows + 100)
    np.testing.assert_array_equal(shuffled.weight, rows + 1)
    np.testing.assert_array_equal(shuffled.inputs["image"][:, 0], 2 * rows)
    assert data.shuffled(jax.random.key(3)).targets.tolist() == rows.tolist()
    assert data.targets.tolist() == list(range(7))


def test_concatenate_keeps_both_orders_and_the_batching_of_the_first():
    first, second = make(2, batch_size=4), make(3, batch_size=2, index=jnp.array([7, 8, 9]))
    both = mu.concatenate(first, second)
    assert both.index.tolist() == [0, 1, 7, 8, 9] and both.batch_size == 4
    assert both.inputs["id"].tolist() == [0, 10, 0, 10, 20]


def test_pad_repeats_the_last_row_with_weight_zero_and_no_id():
    batch = make(2, batch_size=2).at(0)
    padded = pad(batch, 5)
    assert padded.weight.tolist() == [1, 1, 0, 0, 0]
    assert padded.index.tolist() == [0, 1, -1, -1, -1]
    assert padded.inputs["id"].tolist() == [0, 10, 10, 10, 10]
    assert pad(batch, 2) is batch


def test_pad_refuses_to_cut():
    assert_refused("at most 2 rows, found 3: let the first", pad, make().at(0), 2)


def test_without_padding_values_hides_what_is_not_finite():
    batch = mu.Batch(
        jnp.array([jnp.nan, 1.0, 2.0]), jnp.arange(3), jnp.array([0.0, 1.0, 1.0]), jnp.arange(3)
    )
    clean = without_padding_values(batch)
    assert clean.inputs.tolist() == [1, 1, 2] and clean.targets.tolist() == [1, 1, 2]
    assert clean.weight.tolist() == [0, 1, 1]


def test_without_padding_values_leaves_zeros_where_no_row_counts():
    nothing = mu.Batch(jnp.full(2, jnp.nan), jnp.arange(2), jnp.zeros(2), jnp.arange(2))
    clean = without_padding_values(nothing)
    assert clean.inputs.tolist() == [0, 0] and clean.targets.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("inputs", "targets", "sentence"),
    [
        (np.ones((3, 2)), np.ones(4), r"one common leading axis .* found leading sizes \[3, 4\]"),
        ({"a": np.ones(3), "b": np.ones(2)}, np.ones(3), r"found leading sizes \[2, 3\]"),
        (np.ones((0, 2)), np.ones(0), r"at least one example, found leading sizes \[0\]"),
        (np.ones((3, 2)), np.float32(1), r"found leading sizes \[0, 3\]"),
        ((), (), r"found leading sizes \[\]"),
    ],
    ids=["unequal", "unequal in a dict", "empty", "scalar", "nothing"],
)
def test_leading_axes_must_agree(inputs, targets, sentence):
    assert_refused(sentence, mu.batches, inputs, targets, batch_size=2)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_must_be_positive(batch_size):
    assert_refused("batch_size >= 1", make, batch_size=batch_size)


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [
        ([1, np.nan, 1], "finite weights >= 0 for the examples, found nan at row 1"),
        ([1, 1, np.inf], "found inf at row 2"),
        ([-0.5, 1, 1], "found -0.5 at row 0"),
        ([0, 0, 0], "at least one row of positive weight in the examples, found none among 3"),
        ([1, 1], r"weight of shape \(3,\), one per example, found \(2,\)"),
        ([[1], [1], [1]], r"weight of shape \(3,\), one per example, found \(3, 1\)"),
        (1.0, r"weight of shape \(3,\), one per example, found \(\)"),
    ],
)
def test_weights_that_are_refused(weight, sentence):
    assert_refused(sentence, make, 3, weight=np.asarray(weight, np.float32))


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        ([0.0, 1.0, 2.0], "integer ids, found float64"),
        (["a", "b", "c"], "integer ids, found <U1"),
        ([0, 1, 2**31], r"ids from -2\*\*31 to 2\*\*31 - 1, found 2147483648: number"),
        ([0, 1, -(2**31) - 1], r"2\*\*31 - 1, found -2147483649: number"),
        ([0, 1, -(2**63)], r"2\*\*31 - 1, found -9223372036854775808: number"),
        ([0, 1], r"index of shape \(3,\), one per example, found \(2,\)"),
    ],
)
def test_ids_that_are_refused(index, sentence):
    assert_refused(sentence, make, 3, index=np.asarray(index))


def test_ids_of_other_integer_types_are_taken():
    for dtype in (np.uint8, np.int16, np.int64, np.uint64):
        assert make(3, index=np.array([3, 1, 2], dtype)).index.tolist() == [3, 1, 2]
    ends = [-(2**31), -1, 2**31 - 1]
    assert make(3, index=ends).index.tolist() == ends


def test_ids_below_zero_are_ids_like_others():
    ids = [10, -7, 12, 13, -1, -(2**31), 15]
    data = make(index=ids)
    forget, retain = mu.split(data, [-1, 12])
    assert forget.index.tolist() == [12, -1] and forget.targets.tolist() == [2, 4]
    assert retain.index.tolist() == [10, -7, 13, -(2**31), 15]
    assert_refused(r"1 in both \(first id -1\)", check_sets, forget, data.take(np.arange(3, 6)))
    for given in (data, list(data), iter(data)):
        found = in_memory(given)
        assert found.index.tolist() == ids and found.targets.tolist() == list(range(7))


def test_padding_is_told_by_weight_alone():
    batch = make(4, batch_size=4).at(0)._replace(weight=jnp.array([1.0, 0.0, 2.0, 0.0]))
    assert in_memory([batch]).index.tolist() == [0, 2]
    empty = batch._replace(weight=jnp.zeros(4))
    assert_refused("at least one row of positive weight", in_memory, [empty])


def test_split_goes_by_id_in_the_order_of_the_data():
    data = make(index=np.array([16, 15, 14, 13, 12, 11, 10]))
    forget, retain = mu.split(data, [10, 15, 10])
    assert forget.index.tolist() == [15, 10] and forget.targets.tolist() == [1, 6]
    assert retain.index.tolist() == [16, 14, 13, 12, 11]
    assert forget.batch_size == retain.batch_size == 3
    check_sets(forget, retain)


def test_split_does_not_depend_on_the_order_of_the_data():
    data = make(index=np.arange(100, 107))
    for order in (data, data.shuffled(jax.random.key(1))):
        forget, retain = mu.split(order, np.array([103, 101]))
        assert sorted(forget.targets.tolist()) == [1, 3]
        assert sorted(retain.targets.tolist()) == [0, 2, 4, 5, 6]


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        ([], "at least one id to forget, found none"),
        (range(7), "some examples to retain, found a request for all 7"),
        ([3, 99], r"ids that are in the data, found 1 unknown \(99\)"),
        ([-1], r"found 1 unknown \(-1\)"),
        (range(50, 60), r"found 10 unknown \(50, 51, 52, 53, 54, \.\.\.\)"),
        ([1.0, 2.0], "integer ids to forget, found float64"),
        ([True, False], "integer ids to forget, found bool"),
        ([2**40], r"found 1 unknown \(1099511627776\)"),
    ],
    ids=["none", "everything", "unknown", "padding", "many", "float", "mask", "large"],
)
def test_requests_that_split_refuses(ids, sentence):
    assert_refused(sentence, mu.split, make(), ids)


def test_split_refuses_repeated_ids_in_the_data():
    data = make(4, index=np.array([0, 1, 1, 2]))
    assert_refused("every id once in the data, found 3 different ids for 4", mu.split, data, [0])


def test_overlapping_sets_are_refused():
    data = make()
    first, second = data.take(np.array([0, 1, 4])), data.take(np.array([4, 1, 6]))
    assert_refused(
        r"without a common example, found 2 in both \(first id 1\)", check_sets, first, second
    )
    assert_refused("found 7 in both", check_sets, data, data)


@pytest.mark.parametrize("position", [0, 1])
def test_a_set_without_weight_is_refused_by_its_name(position):
    sets = list(mu.split(make(), [0, 1]))
    sets[position] = sets[position].replace(weight=jnp.zeros_like(sets[position].weight))
    name = ("forget", "retain")[position]
    assert_refused(f"positive weight in the {name} set, found none among", check_sets, *sets)
    sets[position] = sets[position].take(np.array([], np.int32))
    assert_refused(f"positive weight in the {name} set, found none among 0", check_sets, *sets)


def test_checks_let_pass_what_cannot_be_seen():
    forget, retain = mu.split(make(), [0, 1])

    @jax.jit
    def overlapping(forget, retain):
        check_sets(forget, forget)
        check_weight(-retain.weight)
        return forget.weight.sum()

    assert overlapping(forget, retain) == 2
    check_sets([forget.at(0)], iter([retain.at(0)]))


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [
        ([1.0, -1.0], "found -1.0 at row 1"),
        ([jnp.nan], "found nan at row 0"),
        ([0.0], "none among 1"),
    ],
)
def test_check_weight_names_what_it_looked_at(weight, sentence):
    assert_refused(sentence, check_weight, jnp.array(weight), "retain set")
    assert_refused("the retain set", check_weight, jnp.array(weight), "retain set")


def test_transforms_refuse_overlapping_and_empty_sets():
    model = mu.from_function(lambda w, state, x: x["image"] @ w, lambda o, t: jnp.square(o - t))
    data, variables = make(), mu.Variables(jnp.ones(2))
    for unlearn in (mu.ssd(model, alpha=2.0), mu.chain(mu.ssd(model, alpha=2.0))):
        assert_refused("common example", unlearn, jax.random.key(0), variables, data, data)


def test_a_random_order_is_a_permutation_and_every_place_is_as_likely():
    for n in (1, 2, 5, 64, 65_537):
        order = np.asarray(random_order(jax.random.key(0), n))
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
    orders = jax.vmap(lambda key: random_order(key, 6))(jax.random.split(jax.random.key(1), 6_000))
    counts = np.array([np.bincount(orders[:, place], minlength=6) for place in range(6)])
    # 1,000 expected with a standard deviation of 29; 36 numbers.
    assert np.abs(counts - 1_000).max() < 4 * 29
    first_before_second = (np.argsort(orders, 1)[:, 0] < np.argsort(orders, 1)[:, 1]).mean()
    assert abs(first_before_second - 0.5) < 4 * 0.5 / 6_000**0.5


def test_rows_are_taken_by_numbers_slices_and_marks():
    data = mu.batches(np.arange(5.0), np.arange(5), batch_size=2)
    for rows in (
        [1, 3],
        np.array([1, 3]),
        slice(1, 4, 2),
        np.arange(5) % 2 == 1,
        jnp.array([1, 3]),
    ):
        assert data.take(rows).index.tolist() == [1, 3]
        assert data.take(rows).inputs.tolist() == [1.0, 3.0]
