"""S3T after removals is a model never trained past the beginnings that are left, bit by bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lineages import (
    KEY,
    LAYERS,
    NETWORK,
    SHARDS,
    SLICES,
    assert_same_bits,
    base,
    data,
    ids_in,
    requests,
    s3t,
    without,
)
from trees import is_one_sentence, snapshot

import mu_jax as mu
from mu_jax.adapters.low_rank import merged
from mu_jax.exact import rotations


@functools.cache
def trained(**options):
    return s3t(**options).train(KEY, base(), data())


REQUESTS = {
    "one row": [ids_in(1, 2)[:1]],
    "several shards at once": [[*ids_in(0, 1)[:1], *ids_in(3, 2)[:2]]],
    "one after another": [ids_in(1, 2)[:1], ids_in(1, 0)[:1], ids_in(3, 1)[:2], ids_in(1, 2)[1:2]],
    "a slice emptied": [ids_in(1, 1)],
    "a shard lost": [ids_in(2, 0)[:1], ids_in(2, 1)[:1], ids_in(2, 2)[:1]],
    "a shard emptied": [ids_in(2, 0, 1, 2)],
}


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.filterwarnings("ignore:Shards 2 answer no more")
def test_after_removals_it_was_never_trained_past_what_is_left(name):
    """The second training is given neither the removed rows nor the slices that they were in."""
    protocol, (variables, _) = s3t(), trained()
    after, info, left = requests(protocol, variables, *REQUESTS[name])
    gone = np.zeros((SHARDS, SLICES), bool)
    for forgotten in (k for part in REQUESTS[name] for k in part):
        gone[forgotten % SHARDS, forgotten // SHARDS % SLICES] = True
    again, _ = protocol.train(KEY, base(), left, without=gone)
    assert_same_bits(after, again)
    assert int(info.steps) == 0
    expected = {0: 3, 1: 2, 2: 1, 3: 0}  # of rotations of three slices
    assert info.details.depth.tolist() == [expected[k] for k in gone.sum(axis=1)]


def test_answers_are_those_of_a_model_with_the_upper_adapters_alone():
    """A network that never had the lower adapters, with the head of its last stage."""
    protocol, (variables, _) = (
        s3t(shards=1, placement=one_shard),
        trained(shards=1, placement=one_shard),
    )
    after, _, left = requests(protocol, variables, [2])  # slice 2: order (0, 1, 2) keeps two
    upper = {
        name: jax.tree.map(lambda x: x[0, 0], pair)
        for stage in after.stages[:2]
        for name, pair in stage.adapters.items()
    }
    assert sorted(upper) == ["block_10/kernel", "block_11/kernel"]
    params = merged(base().params, upper, protocol.scale)
    head = jax.tree.map(lambda x: x[0, 0], after.stages[1].head)
    params = {**params, "head": {"kernel": head["head/kernel"], "bias": head["head/bias"]}}
    expected = NETWORK.apply(mu.Variables(params), left.inputs)
    found = protocol.model.apply(after, left.inputs)
    np.testing.assert_allclose(np.exp(found), jax.nn.softmax(expected), rtol=1e-5)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(after.stages[2]))
    before = protocol.model.apply(variables, left.inputs)
    assert np.abs(np.exp(before) - np.exp(found)).max() > 1e-4


def one_shard(ids):
    return 0 * ids, ids % SLICES


def test_a_row_stays_where_it_was_whatever_a_placement_says_later():
    """One by place and not by id, under which the rows behind a removed one would all move."""
    protocol = s3t(shards=1, placement=lambda ids: (0 * ids, np.arange(ids.size) % SLICES))
    variables, _ = protocol.train(KEY, base(), data())
    after, _, _ = requests(protocol, variables, [4])  # of slice 1
    assert after.gone.tolist() == [[False, True, False]]
    for piece in (0, 2):
        own = (v.rows.shard(0, [piece]).tolist() for v in (variables, after))
        assert [*own] == [list(range(piece, 48, 3))] * 2
    assert after.rows.shard(0, [1]).tolist() == [1, *range(7, 48, 3)]


def test_a_stage_trains_its_own_layers_and_the_head():
    """Names are compared part by part: block_1 is not the beginning of block_10."""
    variables, info = trained()
    for stage, layer in zip(variables.stages, LAYERS):
        assert list(stage.adapters) == [f"{layer}/kernel"]
        assert sorted(stage.head) == ["head/bias", "head/kernel"]
        assert all(np.abs(pair.b).max() > 0 for pair in stage.adapters.values())
    heads = [np.asarray(stage.head["head/kernel"][:, 0]) for stage in variables.stages]
    assert not np.array_equal(heads[0], heads[1]) and not np.array_equal(heads[1], heads[2])
    assert np.isfinite(info.loss).all() and (info.loss > 0).all()
    assert_same_bits(variables.base, base())


@pytest.mark.slow
def test_orders_share_their_beginnings():
    """A beginning is trained once, and is the same whatever orders have it."""
    orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2]]
    variables, _ = s3t(orders=orders).train(KEY, base(), data())
    few, _ = s3t(orders=orders[1:2]).train(KEY, base(), data())
    assert [stage.head["head/bias"].shape[1] for stage in variables.stages] == [2, 3, 3]
    for one, many, place in zip(few.stages, variables.stages, (0, 1, 1)):
        same = jax.tree.map(lambda x, y, k=place: np.allclose(x[:, 0], y[:, k]), one, many)
        assert all(jax.tree.leaves(same))


def test_the_order_with_the_longest_beginning_answers():
    protocol, (variables, _) = (
        s3t(shards=1, placement=one_shard),
        trained(shards=1, placement=one_shard),
    )
    for piece, best in ((0, 1), (1, 2), (2, 0)):
        after, info, left = requests(protocol, variables, [piece])
        assert info.details.depth.tolist() == [2]
        stage = after.stages[1]
        params = merged(
            base().params,
            {
                name: jax.tree.map(lambda x, b=best: x[0, b], pair)
                for part in after.stages[:2]
                for name, pair in part.adapters.items()
            },
            protocol.scale,
        )
        own = {k.split("/")[1]: v[0, best] for k, v in stage.head.items()}
        expected = NETWORK.apply(mu.Variables({**params, "head": own}), left.inputs)
        found = protocol.model.apply(after, left.inputs)
        np.testing.assert_allclose(np.exp(found), jax.nn.softmax(expected), rtol=1e-5)


def test_the_last_beginning_is_not_given_away():
    protocol, (variables, _) = (
        s3t(shards=1, placement=one_shard),
        trained(shards=1, placement=one_shard),
    )
    after, _, left = requests(protocol, variables, [0], [1])
    before = snapshot(after)
    with pytest.raises(mu.exact.Spent, match="train a new lineage") as error:
        protocol.unlearn(None, after, *mu.split(left, [2]))
    assert is_one_sentence(str(error.value))
    assert_same_bits(snapshot(after), before)


def test_a_shard_that_is_lost_says_so_and_does_not_answer():
    protocol, (variables, _) = s3t(), trained()
    with pytest.warns(mu.UnlearningWarning, match="Shards 2 answer no more"):
        after, info, left = requests(protocol, variables, ids_in(2, 0, 1, 2))
    assert info.details.alive.tolist() == [3, 3, 0, 3]
    params, _, weight = protocol._members(after.stages, after)
    assert weight.tolist() == [True, True, False, True]
    own = [
        protocol._predict_one(jax.tree.map(lambda x, s=s: x[s], params), after.base, left.inputs)
        for s in (0, 1, 3)
    ]
    expected = np.mean(jax.nn.softmax(jnp.stack(own)), axis=0)
    np.testing.assert_allclose(
        np.exp(protocol.model.apply(after, left.inputs)), expected, rtol=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("factored", [False, True])
def test_in_the_other_layout_and_factored(factored):
    protocol = s3t(layout="together", factored=factored, placement=None, orders=rotations(3, 5))
    variables, _ = protocol.train(KEY, base(), data())
    after, _, left = requests(protocol, variables, [3], [20, 21])
    again, _ = protocol.train(KEY, base(), left, without=after.gone)
    assert_same_bits(after, again)
    other = s3t(placement=None, orders=rotations(3, 5)).train(KEY, base(), data())[0]
    for found, expected in zip(jax.tree.leaves(variables.stages), jax.tree.leaves(other.stages)):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


BAD = {
    "an unknown id": lambda p, v: p.unlearn(None, v, *_other_ids()),
    "an id named twice": lambda p, v: p.unlearn(None, v, without(5)[0].take([0, 0]), without(5)[1]),
    "forgotten already": lambda p, v: p.unlearn(None, requests(p, v, [5])[0], *without(5)),
    "what was forgotten comes back": lambda p, v: p.unlearn(
        None, requests(p, v, [5])[0], *without(6)
    ),
    "rows that are missing": lambda p, v: p.unlearn(
        None, v, without(5)[0], mu.split(without(5)[1], [6])[1]
    ),
    "another recipe": lambda p, v: s3t(epochs=3).unlearn(None, v, *without(5)),
    "other orders": lambda p, v: s3t(orders=[[0, 2, 1]]).unlearn(None, v, *without(5)),
    "slices of no shard": lambda p, v: p.train(KEY, base(), data(), without=[True]),
    "a vote of another kind": lambda p, v: s3t(combine="vote"),
    "no layers": lambda p, v: s3t(layers=()),
    "a layer twice": lambda p, v: s3t(layers=("block_1", "block_1")),
    "a layer that is not there": lambda p, v: s3t(layers=("block",)).train(KEY, base(), data()),
    "a head that is not there": lambda p, v: s3t(head="top").train(KEY, base(), data()),
    "orders of other slices": lambda p, v: s3t(orders=[[0, 1]]),
    "orders that are none": lambda p, v: s3t(orders=[[0, 0, 1]]),
}


def _other_ids():
    forget, retain = without(5)
    return forget.replace(index=forget.index + 1000), retain


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name):
    variables = trained()[0]
    before = snapshot(variables)
    with pytest.raises(ValueError, match="expected") as error:
        BAD[name](s3t(), variables)
    assert is_one_sentence(str(error.value)), error.value
    assert_same_bits(snapshot(variables), before)
