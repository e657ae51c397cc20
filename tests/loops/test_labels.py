"""Labels that are no class are refused, or NaN where nobody can see them; ignored ones are gone."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax.loops.predict import all_targets
from mu_jax.transforms.general.gaussian_amnesiac import draw_labels

pytestmark = pytest.mark.filterwarnings("ignore:SSD selected")
N, CLASSES, IGNORED = 12, 3, -100
X = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
LABELS = np.arange(N) % CLASSES
KEY, SGD = jax.random.key(0), optax.sgd(0.1)
PLAIN = optax.softmax_cross_entropy_with_integer_labels
IGNORING = mu.losses.CrossEntropy(ignore_label=IGNORED)


@functools.cache  # so that all tests share its programs
def model(loss):
    return mu.from_function(lambda w, state, x: jnp.tanh(x) @ w, loss)


def variables():
    return mu.Variables(
        jnp.asarray(np.random.default_rng(1).normal(size=(4, CLASSES)), jnp.float32)
    )


def sets(labels, kept=None):
    """Forget and retain set; of the rows `kept` only."""
    data = mu.batches(X, labels, batch_size=N)
    forget, retain = mu.split(data, [1, 2, 3, 4])
    if kept is None:
        return forget, retain
    return tuple(part.take(np.flatnonzero(np.isin(part.index, kept))) for part in (forget, retain))


def recipes(given):
    return {
        "finetune": mu.finetune(given, SGD, epochs=2),
        "gradient_ascent": mu.gradient_ascent(given, SGD, epochs=2),
        "capped ascent": mu.gradient_ascent(given, SGD, epochs=2, cap=3.0),
        "neg_grad_plus": mu.neg_grad_plus(given, SGD, epochs=2),
        "retrain": mu.retrain(given, SGD, init=lambda key: variables(), epochs=2),
        "iau": mu.iau(given, SGD, scale_by_fraction=True),
        "ssd": mu.ssd(given, 1.2, 0.5),
        "grouped ssd": mu.ssd(given, 1.2, 0.5, definition="grouped", group_size=1),
    }


NAMES = list(recipes(model(PLAIN)))
READS_FORGET = [name for name in NAMES if name not in ("finetune", "retrain")]


def blindspot(given):
    return mu.blindspot(given, init=lambda key: variables(), optimizer=SGD, epochs=2)


@pytest.mark.parametrize("loss", [PLAIN, mu.losses.cross_entropy, IGNORING])
@pytest.mark.parametrize("label", [-1, CLASSES, -3])
def test_methods_refuse_labels_that_are_no_class(loss, label):
    forget, retain = sets(np.where(np.arange(N) == 5, label, LABELS))
    given = model(loss)
    for name, unlearn in (*recipes(given).items(), ("blindspot", blindspot(given))):
        if name == "gradient_ascent" or name == "capped ascent":
            continue  # they do not read the retain set
        sentence = rf"labels of the retain set from 0 to 2, found {label} in row 1: correct them"
        with pytest.raises(ValueError, match=sentence):
            unlearn(KEY, variables(), forget, retain)


@pytest.mark.parametrize("name", READS_FORGET)
def test_labels_of_the_forget_set_are_checked_where_they_are_read(name):
    forget, retain = sets(np.where(np.arange(N) == 3, CLASSES, LABELS))
    with pytest.raises(ValueError, match="labels of the forget set from 0 to 2, found 3 in row 2"):
        recipes(model(PLAIN))[name](KEY, variables(), forget, retain)


def test_labels_that_are_not_read_may_be_anything():
    forget, retain = sets(np.where(np.isin(np.arange(N), [1, 2, 3, 4]), -1, LABELS))
    for unlearn in (blindspot(model(PLAIN)), recipes(model(PLAIN))["finetune"]):
        after, _ = unlearn(KEY, variables(), forget, retain)
        assert np.isfinite(after.params).all()


def test_rows_of_weight_zero_may_hold_any_label():
    forget, retain = sets(np.where(np.arange(N) == 5, -1, LABELS))
    retain = retain.replace(weight=jnp.where(retain.targets < 0, 0.0, 1.0))
    recipes(model(PLAIN))["ssd"](KEY, variables(), forget, retain)


@pytest.mark.quick("mean_gradient--1-cross*", "importance-3-soft*", "importance--1-cross*")
@pytest.mark.parametrize("loss", [PLAIN, mu.losses.cross_entropy])
@pytest.mark.parametrize("label", [-1, CLASSES])
@pytest.mark.parametrize("statistic", [mu.statistics.mean_gradient, mu.statistics.importance])
def test_where_labels_cannot_be_seen_the_result_is_not_finite(loss, label, statistic):
    given, (_, retain) = model(loss), sets(np.where(np.arange(N) == 5, label, LABELS))
    with pytest.raises(ValueError, match="found NaN or infinity"):
        mu.collect(statistic(given), variables(), retain)
    value = jax.jit(lambda data: mu.collect(statistic(given), variables(), data).value)(retain)
    assert not np.isfinite(value).any()
    _, info = mu.fit(given, mu.supervised(given), SGD, variables(), retain, key=KEY)
    assert np.isnan(info.loss).any() and info.messages()


def test_the_losses_themselves_refuse_or_poison():
    logits = jnp.asarray(X[:, :CLASSES])
    for label in (-1, CLASSES, -100):
        labels = jnp.asarray(np.where(np.arange(N) == 5, label, LABELS))
        with pytest.raises(ValueError, match=f"found {label} in row 5"):
            mu.losses.cross_entropy(logits, labels)
        found = jax.jit(mu.losses.cross_entropy)(logits, labels)
        assert np.flatnonzero(np.isnan(found)).tolist() == [5]
    labels = jnp.asarray(LABELS)
    np.testing.assert_array_equal(mu.losses.cross_entropy(logits, labels), PLAIN(logits, labels))


@pytest.mark.quick("uint8")
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.uint32])
def test_labels_of_narrow_types_are_the_same_labels(dtype):
    """There may be more classes than the type of the labels can count."""
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(4, 300)), jnp.float32)
    labels = np.array([0, 100, 127, 5])
    expected = PLAIN(logits, jnp.asarray(labels))
    for loss in (mu.losses.cross_entropy, IGNORING):
        np.testing.assert_array_equal(jax.jit(loss)(logits, labels.astype(dtype)), expected)
        np.testing.assert_array_equal(loss(logits, jnp.asarray(labels, dtype)), expected)
    given = mu.from_function(lambda w, state, x: x * w, IGNORING)
    data = mu.batches(logits, labels.astype(dtype), batch_size=4)
    start = mu.Variables(jnp.ones(300))
    assert mu.collect(mu.statistics.mean_gradient(given), start, data).weight == 4
    mu.attribution.trak(given, [start], data, key=KEY, dim=2)


def ignoring(labels):
    rows = np.array([2, 6, 7])
    return np.where(np.isin(np.arange(N), rows), IGNORED, labels), np.setdiff1d(np.arange(N), rows)


@pytest.mark.quick("finetune", "gradient_ascent", "iau", "retrain")
@pytest.mark.parametrize("name", NAMES)
def test_methods_do_as_without_the_rows_that_are_ignored(name):
    labels, kept = ignoring(LABELS)
    found = recipes(model(IGNORING))[name](KEY, variables(), *sets(labels))[0]
    expected = recipes(model(PLAIN))[name](KEY, variables(), *sets(labels, kept))[0]
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(found.params, variables().params)


def test_blindspot_ignores_rows_to_retain_and_reads_no_label_to_forget():
    rows = np.arange(N)
    labels = np.where(np.isin(rows, [6, 7]), IGNORED, LABELS)  # both are retained
    found = blindspot(model(IGNORING))(KEY, variables(), *sets(labels))[0]
    kept = np.setdiff1d(rows, [6, 7])
    expected = blindspot(model(PLAIN))(KEY, variables(), *sets(labels, kept))[0]
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-5, atol=1e-6)
    to_forget = np.where(np.isin(rows, [1, 2]), IGNORED, LABELS)
    found = blindspot(model(IGNORING))(KEY, variables(), *sets(to_forget))[0]
    expected = blindspot(model(PLAIN))(KEY, variables(), *sets(LABELS))[0]
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("definition", ["per_example", "grouped"])
def test_statistics_are_those_of_the_other_rows(definition):
    labels, kept = ignoring(LABELS)
    options = {"definition": definition, "group_size": 1 if definition == "grouped" else None}
    data = mu.batches(X, labels, batch_size=5)
    rest = data.take(kept)
    importance = functools.partial(mu.statistics.importance, **options)
    for make in (importance, mu.statistics.mean_gradient):
        found = mu.collect(make(model(IGNORING)), variables(), data)
        expected = mu.collect(make(model(PLAIN)), variables(), rest)
        assert found.weight == expected.weight == kept.size
        np.testing.assert_allclose(found.value, expected.value, rtol=1e-5)


def test_attribution_knows_no_ignored_rows():
    labels, kept = ignoring(LABELS)
    data = mu.batches(X, labels, batch_size=5)
    make = functools.partial(
        mu.attribution.trak, checkpoints=[variables()], key=KEY, dim=None, weight_decay=0.1
    )
    found = make(model(IGNORING), data=data)
    expected = make(model(PLAIN), data=data.take(kept))
    np.testing.assert_allclose(found.checkpoints[0].factor, expected.checkpoints[0].factor, 1e-4)
    effects = [store.effect(data.take(np.array([0, 1, 2])), data) for store in (found,)]
    other = expected.effect(data.take(np.array([0, 1])), data)
    np.testing.assert_allclose(effects[0], other, rtol=1e-3, atol=1e-5)


def test_amnesiac_labels_are_drawn_from_those_that_count():
    labels, _ = ignoring(LABELS)
    forget, retain = sets(labels)
    drawn = draw_labels(KEY, forget, retain, model=model(IGNORING))
    assert (drawn == IGNORED).tolist() == [False, True, False, False]
    assert set(np.asarray(drawn).tolist()) <= {0, 1, 2, IGNORED}


def test_nothing_is_left_where_every_row_is_ignored():
    forget, retain = sets(np.where(np.isin(np.arange(N), [1, 2, 3, 4]), IGNORED, LABELS))
    with pytest.raises(ValueError, match="expected at least one example of positive weight"):
        mu.ssd(model(IGNORING), 2.0)(KEY, variables(), forget, retain)


def test_of_token_labels_the_mean_is_over_those_that_count():
    logits = np.random.default_rng(2).normal(size=(3, 4, CLASSES)).astype(np.float32)
    labels = np.array([[0, 1, IGNORED, 2], [IGNORED] * 4, [2, 1, 0, 0]])
    found = jax.jit(IGNORING)(logits, labels)
    each = np.log(np.exp(logits).sum(-1, keepdims=True)) - logits
    expected = [np.mean([each[0, 0, 0], each[0, 1, 1], each[0, 3, 2]]), 0.0]
    expected.append(np.mean([each[2, t, y] for t, y in enumerate([2, 1, 0, 0])]))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert IGNORING.counts(labels).tolist() == [True, False, True]


def test_a_stream_of_ignored_labels_weighs_as_arrays_do():
    labels, _ = ignoring(LABELS)
    pairs = list(zip(X, labels, strict=True))
    streams = mu.split(mu.stream(pairs, batch_size=N), [1, 2, 3, 4])
    assert (np.asarray(all_targets(streams[0])) == IGNORED).sum() == 1
    unlearn = recipes(model(IGNORING))["neg_grad_plus"]
    found, expected = (unlearn(KEY, variables(), *both)[0] for both in (streams, sets(labels)))
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-6)
