"""Sums and weights: merging, continuing, refusing, and the fingerprint of variables."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import mu_jax as mu
from mu_jax.statistics import Accumulator, Statistic, fingerprint

N = 10
MODEL = mu.from_function(
    lambda p, state, x: jnp.tanh(x @ p["w"]) @ p["v"], lambda o, t: jnp.square(o - t)
)
IMPORTANCE = mu.statistics.importance(MODEL)
GRADIENT = mu.statistics.mean_gradient(MODEL)


def variables(scale=1.0):
    w = scale * jnp.linspace(-1, 1, 6).reshape(3, 2)
    return mu.Variables({"w": w, "v": jnp.array([1.0, -2.0])})


def data(batch_size=4, n=N):
    inputs = jax.random.normal(jax.random.key(0), (n, 3))
    weight = jnp.linspace(0.5, 1.5, n)
    return mu.batches(inputs, inputs[:, 0], batch_size=batch_size, weight=weight)


def close(first, second, tolerance=2e-6):
    first, second = jax.tree.leaves(first), jax.tree.leaves(second)
    for a, b in zip(first, second, strict=True):
        scale = np.abs(np.asarray(a)).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def assert_one_sentence(raised):
    message = str(raised.value)
    assert message.startswith("expected ") and "found" in message and "\n" not in message


@pytest.fixture(params=[IMPORTANCE, GRADIENT], ids=["importance", "mean gradient"])
def statistic(request):
    return request.param


def test_value_is_sum_over_weight(statistic):
    acc = mu.collect(statistic, variables(), data())
    np.testing.assert_allclose(acc.weight, data().weight.sum(), rtol=1e-6)
    jax.tree.map(
        lambda v, s: np.testing.assert_allclose(v, s / acc.weight, rtol=1e-6), acc.value, acc.sum
    )
    assert jax.tree.structure(acc.value) == jax.tree.structure(variables().params)
    assert statistic.finalize(acc).keys() == acc.value.keys()


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_the_batch_size_does_not_matter(statistic, batch_size):
    expected = mu.collect(statistic, variables(), data())
    acc = mu.collect(statistic, variables(), data(batch_size))
    close(acc.sum, expected.sum)


def test_the_order_does_not_matter(statistic):
    expected = mu.collect(statistic, variables(), data())
    close(mu.collect(statistic, variables(), data().shuffled(jax.random.key(1))).sum, expected.sum)


def test_padding_does_not_matter_whatever_it_holds(statistic):
    expected = mu.collect(statistic, variables(), data())
    junk = data(4, 3).replace(weight=jnp.zeros(3))
    junk = junk.replace(inputs=jnp.full((3, 3), jnp.nan), targets=jnp.full(3, jnp.inf))
    padded = mu.concatenate(data(), junk)
    close(mu.collect(statistic, variables(), padded).sum, expected.sum)
    ragged = [jax.tree.map(lambda x, keep=batch.index >= 0: x[keep], batch) for batch in data(4)]
    close(mu.collect(statistic, variables(), ragged).sum, expected.sum)


def test_in_your_own_loop(statistic):
    acc = statistic.init(variables())
    update = jax.jit(statistic.update)
    for batch in data():
        acc = update(acc, variables(), batch)
    close(statistic.finalize(acc), mu.collect(statistic, variables(), data()).value)


def test_under_jit_and_vmap(statistic):
    expected = mu.collect(statistic, variables(), data())
    collected = jax.jit(lambda v, d: mu.collect(statistic, v, d))(variables(), data())
    close(collected.sum, expected.sum)
    assert collected.definition == expected.definition
    scales = jnp.array([1.0, 0.5])
    many = jax.vmap(lambda s: mu.collect(statistic, variables(s), data()))(scales)
    close(jax.tree.map(lambda x: x[0], many.sum), expected.sum)
    assert not np.array_equal(many.fingerprint[0], many.fingerprint[1])


@pytest.mark.parametrize("cut", [1, 4, 7])
def test_merged_parts_are_the_whole(statistic, cut):
    whole = mu.collect(statistic, variables(), data())
    parts = [np.arange(cut), np.arange(cut, N)]
    first, second = (mu.collect(statistic, variables(), data().take(rows)) for rows in parts)
    for merged in (first.merge(second), second.merge(first)):
        close(merged.value, whole.value)
        np.testing.assert_allclose(merged.weight, whole.weight, rtol=1e-6)
        assert merged.definition == whole.definition


def test_without_a_part_is_the_rest(statistic):
    whole = mu.collect(statistic, variables(), data())
    part = mu.collect(statistic, variables(), data().take(np.arange(3)))
    rest = mu.collect(statistic, variables(), data().take(np.arange(3, N)))
    left = whole.without(part)
    close(left.value, rest.value, 1e-5)
    np.testing.assert_allclose(left.weight, rest.weight, rtol=1e-6)


def test_resume_continues_a_sum(statistic):
    whole = mu.collect(statistic, variables(), data())
    first = mu.collect(statistic, variables(), data().take(np.arange(4)))
    kept = jax.tree.map(np.array, first)
    both = mu.collect(statistic, variables(), data().take(np.arange(4, N)), resume=first)
    close(both.value, whole.value)
    jax.tree.map(np.testing.assert_array_equal, first, kept)


def test_resume_between_batches_is_bit_identical(statistic):
    update, expected = jax.jit(statistic.update), statistic.init(variables())
    batches = list(data())
    for batch in batches:
        expected = update(expected, variables(), batch)
    first = mu.collect(statistic, variables(), batches[:2])
    both = mu.collect(statistic, variables(), batches[2:], resume=first)
    jax.tree.map(np.testing.assert_array_equal, both, mu.collect(statistic, variables(), batches))
    close(both.sum, expected.sum)


OTHERS = {
    "grouped": mu.statistics.importance(MODEL, "grouped", 2),
    "another group size": mu.statistics.importance(MODEL, "grouped", 4),
    "loss_free": mu.statistics.importance(MODEL, "loss_free"),
    "mean gradient": GRADIENT,
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_definition_is_refused(name):
    acc = mu.collect(IMPORTANCE, variables(), data())
    other = mu.collect(OTHERS[name], variables(), data())
    for attempt in (
        lambda: acc.merge(other),
        lambda: acc.without(other),
        lambda: mu.collect(IMPORTANCE, variables(), data(), resume=other),
    ):
        with pytest.raises(ValueError, match="two statistics of one definition") as raised:
            attempt()
        assert_one_sentence(raised)
        assert repr(other.definition) in str(raised.value)


def test_group_sizes_are_definitions_of_their_own():
    names = {mu.statistics.importance(MODEL, "grouped", size).definition for size in (1, 2, 4)}
    names |= {mu.statistics.importance(MODEL, "loss_free", size).definition for size in (1, 2)}
    assert len(names | {IMPORTANCE.definition}) == 6
    assert (
        mu.statistics.importance(MODEL, "loss_free").definition
        == mu.statistics.importance(MODEL, "loss_free", 1).definition
    )


def test_a_statistic_of_other_variables_is_refused():
    acc = mu.collect(IMPORTANCE, variables(), data())
    stale = mu.collect(IMPORTANCE, variables(1.001), data())
    for attempt in (
        lambda: acc.merge(stale),
        lambda: acc.without(stale),
        lambda: mu.collect(IMPORTANCE, variables(), data(), resume=stale),
        lambda: mu.ssd(MODEL, alpha=2.0, full_importance=stale)(
            jax.random.key(0), variables(), *mu.split(data(), [1])
        ),
    ):
        with pytest.raises(ValueError, match="a statistic of these variables, found") as raised:
            attempt()
        assert_one_sentence(raised)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("field", ["inputs", "targets", "params"])
def test_a_result_that_is_not_finite_is_refused_with_its_leaves_named(statistic, field, bad):
    batches, model = data(), variables()
    if field == "params":
        model.params["v"] = model.params["v"].at[1].set(bad)
    else:
        array = getattr(batches, field)
        batches = batches.replace(**{field: array.at[2].set(bad)})
    with pytest.raises(ValueError, match=f"finite '{statistic.definition}', found NaN") as raised:
        mu.collect(statistic, model, batches)
    assert_one_sentence(raised)
    assert "in v, w: check inputs" in str(raised.value)


def test_only_the_bad_leaf_is_named():
    model = mu.from_function(
        lambda p, state, x: x @ p["good"] + jnp.sqrt(p["bad"]), lambda o, t: jnp.square(o - t)
    )
    start = mu.Variables({"good": jnp.ones(3), "bad": jnp.float32(0)})
    with pytest.raises(ValueError, match=r"infinity in bad: check"):
        mu.collect(mu.statistics.mean_gradient(model), start, data())


@pytest.mark.parametrize("form", ["arrays", "list"])
def test_nothing_to_sum_is_refused(statistic, form):
    empty = data().replace(weight=jnp.zeros(N))
    with pytest.raises(ValueError, match="at least one example of positive weight, found none"):
        mu.collect(statistic, variables(), empty if form == "arrays" else list(empty))


def test_no_batch_at_all_is_refused(statistic):
    with pytest.raises(ValueError, match="at least one batch, found an empty iterable"):
        mu.collect(statistic, variables(), [])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_sums_are_float32_or_wider(statistic, dtype):
    narrow = jax.tree.map(lambda x: x.astype(dtype), variables())
    batches = data().replace(
        inputs=data().inputs.astype(dtype), targets=data().targets.astype(dtype)
    )
    acc = mu.collect(statistic, narrow, batches)
    assert {leaf.dtype for leaf in jax.tree.leaves((acc.sum, acc.value))} == {jnp.dtype("float32")}
    close(acc.value, mu.collect(statistic, variables(), data()).value, 0.05)


def test_float64_parameters_have_float64_sums(statistic):
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: x.astype(jnp.float64), variables())
        batches = data().replace(inputs=data().inputs.astype(jnp.float64))
        acc = mu.collect(statistic, wide, batches)
        assert {leaf.dtype for leaf in jax.tree.leaves(acc.sum)} == {jnp.dtype("float64")}


def counting(value, batch):
    """A statistic that adds `value` for every example."""
    return Statistic(
        lambda variables, batch: (
            jax.tree.map(lambda p: jnp.full(p.shape, value) * batch.weight.sum(), variables),
            batch.weight.sum(),
        ),
        lambda variables: variables,
        "count",
    )


def test_many_small_terms_are_not_lost_in_bfloat16_parameters():
    statistic = counting(0.001, None)
    batches = mu.batches(jnp.zeros((4000, 1)), (), batch_size=10)
    acc = mu.collect(statistic, {"p": jnp.zeros(2, jnp.bfloat16)}, batches)
    np.testing.assert_allclose(acc.sum["p"], 4.0, rtol=1e-4)


def shapes(rows):
    """A batch that was never made."""
    vector = jax.ShapeDtypeStruct((rows,), jnp.float32)
    ids = jax.ShapeDtypeStruct((rows,), jnp.int32)
    return mu.Batch(jax.ShapeDtypeStruct((rows, 3), jnp.float32), vector, vector, ids)


def temporary_memory(rows):
    """Bytes of working memory of the compiled pass over `rows` examples."""
    batches = data(16).replace(**shapes(rows)._asdict())
    collect = jax.jit(lambda v, d: mu.collect(IMPORTANCE, v, d))
    return collect.lower(variables(), batches).compile().memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_number_of_examples():
    sizes = [temporary_memory(rows) for rows in (1_000, 10_000, 100_000)]
    assert 0 < sizes[0] == sizes[1] == sizes[2]


def test_memory_would_grow_were_the_batch_the_whole_set():
    """The measurement above can tell the difference."""
    grown = [
        jax.jit(IMPORTANCE.terms)
        .lower(variables(), shapes(rows))
        .compile()
        .memory_analysis()
        .temp_size_in_bytes
        for rows in (1_000, 10_000)
    ]
    assert grown[1] > 5 * grown[0]


def with_bit_flipped(array, position, bit):
    raw = np.array(array)
    words = raw.view(np.uint8).reshape(-1)
    words[position * raw.dtype.itemsize + bit // 8] ^= np.uint8(1 << (bit % 8))
    return jnp.asarray(raw)


def test_the_fingerprint_changes_with_any_bit():
    params = {"a": jnp.linspace(-1, 1, 6).reshape(2, 3), "b": jnp.zeros(2)}
    found = {tuple(np.asarray(fingerprint(params)).tolist())}
    for name, size in (("a", 6), ("b", 2)):
        for position in range(size):
            for bit in range(32):
                other = {**params, name: with_bit_flipped(params[name], position, bit)}
                found.add(tuple(np.asarray(fingerprint(other)).tolist()))
    assert len(found) == 1 + 8 * 32


@pytest.mark.parametrize(("dtype", "bits"), [(jnp.bfloat16, 16), (jnp.float16, 16), (jnp.int8, 8)])
def test_the_fingerprint_sees_every_bit_of_narrow_types(dtype, bits):
    params = jnp.arange(5).astype(dtype)
    others = [with_bit_flipped(params, place, bit) for place in range(5) for bit in range(bits)]
    found = {tuple(np.asarray(fingerprint(tree)).tolist()) for tree in [params, *others]}
    assert len(found) == 1 + 5 * bits


def test_the_fingerprint_sees_every_bit_of_float64():
    with jax.enable_x64(True):
        params = jnp.linspace(-1, 1, 3)
        assert params.dtype == jnp.float64
        others = [with_bit_flipped(params, place, bit) for place in range(3) for bit in range(64)]
        found = {tuple(np.asarray(fingerprint(tree)).tolist()) for tree in [params, *others]}
    assert len(found) == 1 + 3 * 64


def test_the_fingerprint_sees_where_a_value_stands():
    first = fingerprint({"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0, 4.0])})
    for other in (
        {"a": jnp.array([2.0, 1.0]), "b": jnp.array([3.0, 4.0])},
        {"a": jnp.array([3.0, 4.0]), "b": jnp.array([1.0, 2.0])},
        {"a": jnp.array([1.0, 3.0]), "b": jnp.array([2.0, 4.0])},
    ):
        assert not np.array_equal(first, fingerprint(other))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("spec", [PartitionSpec("data"), PartitionSpec()])
def test_the_fingerprint_is_the_same_on_a_sharded_mesh(dtype, spec):
    params = {"w": jax.random.normal(jax.random.key(0), (16, 5)).astype(dtype)}
    sharded = jax.device_put(params, NamedSharding(mu.data_mesh(), spec))
    np.testing.assert_array_equal(fingerprint(sharded), fingerprint(params))
    np.testing.assert_array_equal(jax.jit(fingerprint)(sharded), fingerprint(params))


def test_the_fingerprint_belongs_to_the_parameters_only():
    with_state = variables()._replace(state={"count": jnp.ones(3)})
    moved = variables()._replace(state={"count": jnp.zeros(3)})
    accs = [IMPORTANCE.init(v) for v in (with_state, moved, variables())]
    for acc in accs:
        np.testing.assert_array_equal(acc.fingerprint, accs[0].fingerprint)


def test_an_accumulator_is_a_pytree():
    acc = mu.collect(GRADIENT, variables(), data())
    doubled = jax.tree.map(lambda x: x, acc)
    assert isinstance(doubled, Accumulator) and doubled.definition == acc.definition
    assert optax.tree.size(acc) == 6 + 2 + 1 + 2
