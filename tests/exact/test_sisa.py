"""SISA after removals is its protocol trained without the rows, bit by bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lineages import KEY, SHARDS, SLICES, assert_same_bits, data, ids_in, requests, sisa, without
from trees import snapshot

import mu_jax as mu
from mu_jax.exact import combined
from mu_jax.exact.shards import laid_out, random_places


@functools.cache
def trained():
    return sisa().train(KEY, data())


REQUESTS = {
    "a row of the last slice": [ids_in(1, 2)[:1]],
    "a row of the first slice": [ids_in(2, 0)[:1]],
    "several shards and slices at once": [[*ids_in(0, 1)[:1], *ids_in(3, 2)[:2]]],
    "one after another": [ids_in(1, 2)[:1], ids_in(1, 0)[:1], ids_in(3, 1)[:2], ids_in(1, 2)[1:2]],
    "a slice emptied": [ids_in(1, 1)],
    "the first slice emptied": [ids_in(1, 0)],
    "a shard emptied": [ids_in(2, 0, 1, 2)],
    "a shard emptied row by row": [[k] for k in ids_in(0, 0, 1, 2)],
    "all shards but one emptied": [[*ids_in(0, 0, 1, 2), *ids_in(1, 0, 1, 2)], ids_in(3, 0, 1, 2)],
}


@pytest.mark.parametrize("name", REQUESTS)
def test_after_removals_it_is_the_protocol_without_the_rows(name):
    """All arrays: weights, statistics, Adam's moments and counts, of every checkpoint."""
    protocol, (variables, _) = sisa(), trained()
    after, _, left = requests(protocol, variables, *REQUESTS[name])
    again, _ = protocol.train(KEY, left)
    assert_same_bits(after, again)
    forgotten = {k for part in REQUESTS[name] for k in part}
    assert set(after.rows.ids.tolist()) == set(range(data().num_examples)) - forgotten


def test_only_what_has_seen_the_row_is_trained_again():
    protocol, (variables, _) = sisa(), trained()
    after, info, _ = requests(protocol, variables, ids_in(1, 1)[:1])
    assert info.details.first.tolist() == [SLICES, 1, SLICES, SLICES]
    steps = np.zeros((SLICES, SHARDS), int)
    steps[1, 1], steps[2, 1] = 2 * protocol.epochs[1], 3 * protocol.epochs[2]
    assert info.details.steps.tolist() == steps.tolist()
    assert float(info.example_passes) == 7 * protocol.epochs[1] + 11 * protocol.epochs[2]
    for shard in range(SHARDS):
        old, new = (jax.tree.map(lambda x, s=shard: x[s], v.last) for v in (variables, after))
        same = jax.tree.map(lambda a, b: bool((a == b).all()), old, new)
        assert all(jax.tree.leaves(same)) == (shard != 1)


def test_the_measured_cost_of_removals_is_the_closed_form():
    """A row of every slice: as many batches in each stage as before, so that steps are shares."""
    protocol, (variables, info) = sisa(), trained()
    steps = [
        int(protocol.unlearn(None, variables, *without(k))[1].steps) for k in range(SHARDS * SLICES)
    ]
    expected = mu.exact.sisa_cost(SHARDS, SLICES, epochs=2)
    np.testing.assert_allclose(np.mean(steps) / info.steps.sum(), expected, rtol=1e-6)


def test_a_checkpoint_holds_the_optimizer_and_the_statistics():
    """Weights alone would not do: Adam counts on, and batch statistics have moved."""
    variables, info = trained()
    steps = np.cumsum(info.steps, axis=0)
    for stage, checkpoint in enumerate([*stages_of(variables), variables.last]):
        count = checkpoint.opt_state[0].count
        assert np.asarray(count).tolist() == steps[stage].tolist()
    means = [c.variables["batch_stats"]["BatchNorm_0"]["mean"] for c in stages_of(variables)]
    assert (np.abs(means[0] - means[1]) > 0).all()


def stages_of(variables):
    return [jax.tree.map(lambda x, k=k: x[k], variables.earlier) for k in range(SLICES - 1)]


def test_a_removal_compiles_nothing():
    from compilations import counted_compilations

    protocol, left = sisa(placement=None, capacity=16), data().take(np.arange(36))
    variables, _ = protocol.train(KEY, left)
    for forget_ids in ([5], [1, 30, 31, 32]):
        with counted_compilations() as compiled:
            forget, left = mu.split(left, forget_ids)
            variables, _ = protocol.unlearn(None, variables, forget, left)
    assert not compiled
    assert_same_bits(variables, protocol.train(KEY, left)[0])


def test_where_rows_go_is_a_function_of_their_ids():
    """Half of the data are placed as all of them are."""
    protocol = sisa(placement=None, capacity=4096)
    index = np.arange(4096)
    rows = [laid_out(protocol, KEY, ids) for ids in (index, index[::2])]
    for shard in range(SHARDS):
        for piece in range(SLICES):
            own, half = (each.shard(shard, [piece]) for each in rows)
            assert own[own % 2 == 0].tolist() == half.tolist()
    expected = 4096 / (SHARDS * SLICES)
    assert np.abs(rows[0].counts - expected).max() < 5 * np.sqrt(expected)
    assert_same_bits(rows[0].without(index[1::2]), rows[1])
    draws = [random_places(jax.random.key(k), index, SHARDS, SLICES)[0] for k in (3, 4)]
    assert 0.7 < (draws[0] != draws[1]).mean() < 0.8  # three of four, by chance


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["together", "one_by_one"])
@pytest.mark.parametrize("slices", [1, 4])
def test_drawn_places_in_either_layout(layout, slices):
    protocol = sisa(placement=None, layout=layout, slices=slices, epochs=3)
    variables, _ = protocol.train(KEY, data())
    after, _, left = requests(protocol, variables, [3, 9], [11], [40, 41, 42])
    assert_same_bits(after, protocol.train(KEY, left)[0])


@pytest.mark.slow
def test_what_is_frozen_stays_as_it_was_drawn():
    own = mu.from_function(lambda p, state, x: x @ p["kernel"] + p["bias"], mu.losses.squared_error)
    protocol = mu.exact.sisa(
        mu.restrict(own, lambda name: name == "kernel"),
        optax.adamw(0.05, weight_decay=0.1),
        init=lambda key: mu.Variables({"kernel": jax.random.normal(key, (5,)), "bias": 3.0 * ONE}),
        shards=2,
        slices=2,
        epochs=2,
        batch_size=4,
        combine="outputs",
    )
    examples = data().replace(targets=data().inputs[:, 0])
    variables, _ = protocol.train(KEY, examples)
    forget, retain = mu.split(examples, [7])
    after, _ = protocol.unlearn(None, variables, forget, retain)
    assert_same_bits(after, protocol.train(KEY, retain)[0])
    assert after.last.variables.params["bias"].tolist() == [3.0, 3.0]
    assert not np.array_equal(*after.last.variables.params["kernel"])


ONE = np.float32(1)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["schedule_free", "average"])
def test_optimizers_that_return_a_mean(optimizer):
    made = {
        "schedule_free": optax.contrib.schedule_free_sgd(0.05),
        "average": optax.chain(optax.sgd(0.05), mu.loops.average_weights()),
    }[optimizer]
    own = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    protocol = mu.exact.sisa(
        own,
        made,
        init=lambda key: mu.Variables(jax.random.normal(key, (5,))),
        shards=2,
        slices=2,
        epochs=4,
        batch_size=4,
        combine="outputs",
    )
    examples = data().replace(targets=data().inputs[:, 0])
    variables, _ = protocol.train(KEY, examples)
    forget, retain = mu.split(examples, [7])
    after, _ = protocol.unlearn(None, variables, forget, retain)
    assert_same_bits(after, protocol.train(KEY, retain)[0])


def test_shards_answer_together():
    logits = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    weight = np.array([1.0, 0.0, 2.0])
    p = np.asarray(jax.nn.softmax(logits))
    mean = (p[0] + 2 * p[2]) / 3
    found = combined(jnp.asarray(logits), jnp.asarray(weight), "probabilities")
    np.testing.assert_allclose(np.exp(found), mean, rtol=1e-5)
    votes = np.eye(4)[p.argmax(-1)]
    found = combined(jnp.asarray(logits), jnp.asarray(weight), "votes")
    np.testing.assert_allclose(np.exp(found), (votes[0] + 2 * votes[2] + mean) / 4, rtol=1e-5)
    found = combined(jnp.asarray(logits), jnp.asarray(weight), "outputs")
    np.testing.assert_allclose(found, (logits[0] + 2 * logits[2]) / 3, rtol=1e-5)


def test_the_model_answers_by_the_shards_that_have_rows():
    protocol, (variables, _) = sisa(), trained()
    after, _, left = requests(protocol, variables, ids_in(2, 0, 1, 2))
    found = np.exp(protocol.model.apply(after, left.inputs))
    own = [
        protocol.base.apply(jax.tree.map(lambda x, s=s: x[s], after.last.variables), left.inputs)
        for s in (0, 1, 3)
    ]
    np.testing.assert_allclose(found, np.mean(jax.nn.softmax(jnp.stack(own)), axis=0), rtol=1e-5)
    light = after._replace(earlier=())
    assert np.array_equal(np.exp(protocol.model.apply(light, left.inputs)), found)


BAD = {
    "an unknown id": lambda p, v: p.unlearn(None, v, *_other_ids()),
    "an id named twice": lambda p, v: p.unlearn(None, v, _twice(), without(5)[1]),
    "forgotten already": lambda p, v: p.unlearn(None, requests(p, v, [5])[0], *without(5)),
    "what was forgotten comes back": lambda p, v: p.unlearn(
        None, requests(p, v, [5])[0], *without(6)
    ),
    "rows that are missing": lambda p, v: p.unlearn(
        None, v, without(5)[0], mu.split(without(5)[1], [6])[1]
    ),
    "another recipe": lambda p, v: sisa(epochs=3).unlearn(None, v, *without(5)),
    "another learning rate": lambda p, v: sisa(recipe={"rate": 1}).unlearn(None, v, *without(5)),
    "another number of shards": lambda p, v: sisa(shards=2).unlearn(None, v, *without(5)),
    "a changed checkpoint": lambda p, v: p.unlearn(
        None, v._replace(digests=v.digests ^ 1), *without(5)
    ),
    "a masked removal": lambda p, v: mu.masked(p.unlearn, lambda name: "Dense_0" in name)(
        None, v, *without(5)
    ),
    "a vote of another kind": lambda p, v: sisa(combine="vote"),
    "a small capacity": lambda p, v: sisa(capacity=4).train(KEY, data()),
    "places that are not there": lambda p, v: sisa(placement=lambda ids: (ids, 0 * ids)).train(
        KEY, data()
    ),
}


def _other_ids():
    forget, retain = without(5)
    return forget.replace(index=forget.index + 1000), retain


def _twice():
    return without(5)[0].take([0, 0])


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(name):
    from trees import is_one_sentence

    variables = trained()[0]
    before = snapshot(variables)
    with pytest.raises(ValueError, match="expected") as error:
        BAD[name](sisa(), variables)
    assert is_one_sentence(str(error.value)), error.value
    assert_same_bits(snapshot(variables), before)


def test_what_is_no_lineage_or_not_known_is_refused():
    protocol, (variables, _) = sisa(), trained()
    for wrong in (variables._replace(earlier=()), variables.last):
        with pytest.raises(TypeError, match="expected SISAVariables"):
            protocol.answer(None, wrong, *without(5))
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(protocol.unlearn)(None, variables, *without(5))
    with pytest.raises(TypeError, match="expected known Batches"):
        protocol.train(KEY, list(data()))
