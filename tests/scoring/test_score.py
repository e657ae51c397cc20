"""The table of `mu.evaluation.score`, every number of it against NumPy."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax import evaluation, reporting
from mu_jax.scoring import ensembles

CLASSES = 4
MODEL = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)


def make_sets(n=240, forgotten=40):
    """Inputs that hold their class but for noise; the forget set is class 3, and a few more."""
    random = np.random.default_rng(0)
    targets = random.integers(0, CLASSES, n)
    inputs = np.eye(CLASSES)[targets] + 0.4 * random.normal(size=(n, CLASSES))
    data = mu.batches(inputs.astype(np.float32), targets, batch_size=32, index=np.arange(n) + 100)
    train_set, test_set = data.take(np.arange(160)), data.take(np.arange(160, n))
    ids = np.asarray(train_set.index)[np.asarray(train_set.targets) == 3]
    return *mu.split(train_set, ids), test_set


FORGET, RETAIN, TEST = make_sets()
SETS = {"forget": FORGET, "retain": RETAIN, "test": TEST}


def weights(seed, *, forgets, n=None):
    """Weights of one model or of n: the identity with noise, blind for class 3 if it forgets."""
    random = np.random.default_rng(seed)
    w = np.eye(CLASSES) + 0.2 * random.normal(size=(*(() if n is None else (n,)), CLASSES, CLASSES))
    if forgets:
        w[..., 3] = -2.0
    return mu.Variables(jnp.asarray(w, jnp.float32))


def run(versions, sets=SETS, **options):
    return mu.evaluation.score(MODEL, versions, **sets, **options)


# The same numbers in NumPy.


def logits(variables, data):
    return np.asarray(data.inputs, np.float64) @ np.asarray(variables.params, np.float64)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def losses_in_numpy(variables, data):
    found, targets = log_softmax(logits(variables, data)), np.asarray(data.targets)
    return -np.take_along_axis(found, targets[:, None], 1)[:, 0]


def numbers_in_numpy(variables, seed):
    """Accuracies and the accuracy of the attack, in the order of the columns."""
    right = {name: logits(variables, d).argmax(1) == d.targets for name, d in SETS.items()}
    kept = np.isin(np.asarray(TEST.targets), np.unique(RETAIN.targets))
    attacked = (losses_in_numpy(variables, data).astype(np.float32) for data in (FORGET, TEST))
    return [
        right["retain"].mean(),
        right["forget"].mean(),
        right["test"][kept].mean(),
        evaluation.loss_mia(*attacked, seed=seed).accuracy,
    ]


def klom_in_numpy(oracle, unlearned, bins=20, eps=1e-5):
    found = []
    for p, q in zip(oracle.T, unlearned.T):
        span = min(p.min(), q.min()), max(p.max(), q.max())
        p, q = (np.histogram(x, bins, span)[0] / x.size for x in (p, q))
        q = np.where(p > 0, np.maximum(q, eps), q)
        q = q / q.sum()
        found.append(sum(a * np.log(a / b) for a, b in zip(p, q) if a > 0))
    return np.array(found)


def values(row):
    return [cell.mean for cell in row.cells]


def test_every_number_of_the_table_of_single_models():
    retrained = [weights(seed, forgets=True) for seed in (1, 2, 3)]
    original, unlearned = weights(4, forgets=False), weights(5, forgets=True)
    found = run({"mine": unlearned}, retrained=retrained, original=original)
    expected = np.array([numbers_in_numpy(one, seed) for seed, one in enumerate(retrained, 1)])
    rows = {row.label: row for row in found.rows}
    assert list(rows) == ["retrain", "do nothing", "mine", "constant"]
    np.testing.assert_allclose(values(rows["retrain"])[:4], expected.mean(0), rtol=1e-6)
    deviations = [cell.std for cell in rows["retrain"].cells[:4]]
    np.testing.assert_allclose(deviations, expected.std(0, ddof=1), atol=1e-7)
    for name, one in (("do nothing", original), ("mine", unlearned)):
        own = numbers_in_numpy(one, 0)
        np.testing.assert_allclose(values(rows[name])[:4], own, rtol=1e-6)
        gap = 100 * np.abs(own - expected).mean()
        np.testing.assert_allclose(rows[name].cells[4].mean, gap, rtol=1e-5)
    others = [np.delete(expected, i, 0) for i in range(3)]
    floor = np.mean([100 * np.abs(one - rest).mean() for one, rest in zip(expected, others)])
    np.testing.assert_allclose(rows["retrain"].cells[4].mean, floor, rtol=1e-5)
    assert rows["mine"].best and rows["mine"].cells[4].mean < rows["do nothing"].cells[4].mean
    assert [column.note for column in found.table.columns] == ["%, closer to retrain"] * 4 + [
        "points, lower is better"
    ]


def test_the_constant_row_says_the_majority_and_is_marked_as_collapsed():
    found = run({"mine": weights(5, forgets=True)}, retrained=[weights(1, forgets=True)])
    (constant,) = (row for row in found.rows if row.label == "constant")
    majority = np.bincount(RETAIN.targets).argmax()
    kept = np.asarray(TEST.targets)[np.isin(np.asarray(TEST.targets), np.unique(RETAIN.targets))]
    expected = [np.mean(RETAIN.targets == majority), 0.0, np.mean(kept == majority)]
    np.testing.assert_allclose(values(constant)[:3], expected, rtol=1e-6)
    assert constant.collapsed and not constant.best
    assert "constant [collapsed]" in str(found) and "constant predictions" in repr(found)
    counts = np.bincount(RETAIN.targets, minlength=CLASSES)
    losses = -log_softmax(np.log((counts + 1) / (counts.sum() + CLASSES)))[np.asarray(TEST.targets)]
    np.testing.assert_allclose(found.arrays["constant"]["test"].losses[0], losses, rtol=1e-5)


def test_a_collapsed_version_is_marked_and_not_ranked():
    broken = mu.Variables(jnp.full((CLASSES, CLASSES), jnp.nan))
    found = run(
        {"broken": broken, "mine": weights(5, forgets=True)}, retrained=weights(1, forgets=True)
    )
    row = next(row for row in found.rows if row.label == "broken")
    assert row.collapsed and not row.best and row.cells[0].mean is None
    assert "non-finite outputs on" in str(found)


@pytest.mark.slow
def test_every_number_of_the_table_of_ensembles(monkeypatch):
    monkeypatch.setattr(ensembles, "ATTACKED", 1)
    retrained = weights(1, forgets=True, n=43)
    versions = {"mine": weights(2, forgets=True, n=22), "other": weights(3, forgets=False, n=21)}
    original = weights(4, forgets=False, n=30)
    found = run(versions, retrained=retrained, original=original)
    number = 21  # the least of any row, and at most half of the retrained ones
    data = mu.concatenate(mu.concatenate(FORGET, RETAIN), TEST)
    targets = np.asarray(data.targets)

    def margins(variables):
        z = logits(variables, data)
        of = np.take_along_axis(z, np.broadcast_to(targets[:, None], (*z.shape[:2], 1)), 2)[..., 0]
        others = np.where(np.eye(CLASSES, dtype=bool)[targets], -np.inf, z)
        return of - np.log(np.exp(others).sum(-1))

    oracles = margins(retrained)[:-number]
    records = {record.method: record for record in found.records}
    assert list(records) == ["retrain", "do nothing", "mine", "other", "constant"]
    chosen = {"retrain": margins(retrained)[-number:]}
    chosen |= {name: margins(v)[:number] for name, v in versions.items()}
    forget = slice(0, FORGET.num_examples)
    floor = np.percentile(klom_in_numpy(oracles[:, forget], chosen["retrain"][:, forget]), 95)
    for name, own in chosen.items():
        metric = records[name].metrics["KLoM forget p95"]
        expected = np.percentile(klom_in_numpy(oracles[:, forget], own[:, forget]), 95)
        np.testing.assert_allclose(metric.value, expected, rtol=1e-3)
        np.testing.assert_allclose(metric.null, floor, rtol=1e-3)
        assert metric.n == number and metric.direction == "lower is better"
        right = logits(versions.get(name, retrained), RETAIN).argmax(-1) == np.asarray(
            RETAIN.targets
        )
        right = right[-number:] if name == "retrain" else right[:number]
        np.testing.assert_allclose(records[name].metrics["retain accuracy"].value, right.mean())
    first = mu.Variables(versions["mine"].params[0])
    attacked = numbers_in_numpy(first, 0)[3]
    assert records["mine"].metrics["MIA"].value == pytest.approx(attacked, abs=1e-6)
    assert records["constant"].status == "collapsed"
    assert "KLoM" in str(found) and "a perfect unlearner scores" in str(found)
    assert found.arrays["mine"]["forget"].margins.shape == (22, FORGET.num_examples)
    np.testing.assert_allclose(
        found.arrays["mine"]["forget"].margins, margins(versions["mine"])[:, forget], rtol=1e-4
    )


@pytest.mark.slow
def test_with_too_few_models_each_is_a_record_and_klom_is_said_to_lack_models():
    found = run({"mine": weights(2, forgets=True, n=3)}, retrained=weights(1, forgets=True, n=4))
    assert [r.seed for r in found.records if r.method == "mine"] == [0, 1, 2]
    assert [r.seed for r in found.records if r.method == "retrain"] == [3, 4, 5, 6]
    assert not any("KLoM" in name for name in found.records[0].metrics)
    assert "it needs 20 models of every row" in str(found) and "found 3 of mine" in str(found)


def test_pairs_are_compared_with_their_own_retrained_model():
    retrained, mine = ([weights(s + t, forgets=True) for s in (1, 2)] for t in (0, 10))
    found = run({"mine": mine}, retrained=retrained, paired=True, seed=5)
    row = next(row for row in found.rows if row.label == "mine")
    own, wanted = (
        np.array([numbers_in_numpy(one, 5 + j) for j, one in enumerate(models)])
        for models in (mine, retrained)
    )
    np.testing.assert_allclose(row.cells[4].mean, 100 * np.abs(own - wanted).mean(), rtol=1e-5)
    with pytest.raises(
        ValueError, match=r"expected as many models .* found 2 of 'retrain', 1 of 'mine'"
    ):
        run({"mine": mine[0]}, retrained=retrained, paired=True)


@pytest.mark.slow
def test_lists_tuples_iterators_and_stacked_variables_are_the_same_models():
    models = [weights(seed, forgets=False) for seed in (1, 2)]
    stacked = mu.Variables(jnp.stack([one.params for one in models]))
    forms = [models, tuple(models), iter(models), stacked]
    first, *others = (run({"mine": form}).arrays["mine"]["test"].losses for form in forms)
    assert first.shape == (2, TEST.num_examples)
    for other in others:
        np.testing.assert_allclose(other, first, rtol=1e-5)
    np.testing.assert_allclose(first[1], losses_in_numpy(models[1], TEST), rtol=1e-4)


def test_the_arrays_are_what_the_numbers_are_made_of():
    one = weights(1, forgets=False)
    examples = run({"mine": one}).arrays["mine"]["forget"]
    np.testing.assert_array_equal(examples.ids, FORGET.index)
    np.testing.assert_array_equal(examples.targets, FORGET.targets)
    np.testing.assert_array_equal(examples.predictions[0], logits(one, FORGET).argmax(1))
    np.testing.assert_allclose(examples.losses[0], losses_in_numpy(one, FORGET), rtol=1e-4)


def test_without_others_the_table_says_what_it_cannot_say():
    text = str(run({"mine": weights(1, forgets=False)}, {"forget": FORGET, "retain": RETAIN}))
    text = " ".join(text.split())
    assert "nobody can say whether these numbers are good: there is no average gap" in text
    assert "Without original= the table does not show" in text
    assert "no test accuracy and no membership attack" in text
    assert "MIA" not in text and "test accuracy is" not in text


def test_rows_that_do_not_count_are_in_no_number():
    clean = run({"mine": weights(1, forgets=False)})
    extra = np.full((3, CLASSES), 9.0, np.float32)
    padded = mu.batches(
        np.concatenate([np.asarray(RETAIN.inputs), extra]),
        np.concatenate([np.asarray(RETAIN.targets), [0, 1, 2]]),
        batch_size=32,
        weight=np.concatenate([np.ones(RETAIN.num_examples), np.zeros(3)]),
        index=np.concatenate([np.asarray(RETAIN.index), [7, 8, 9]]),
    )
    found = run({"mine": weights(1, forgets=False)}, SETS | {"retain": padded})
    assert found.records == clean.records
    ignoring = mu.from_function(MODEL.predict, mu.losses.CrossEntropy(ignore_label=-1))
    ignored = padded.replace(
        targets=padded.targets.at[-3:].set(-1), weight=jnp.ones(padded.num_examples)
    )
    sets = SETS | {"retain": ignored}
    found = mu.evaluation.score(ignoring, {"mine": weights(1, forgets=False)}, **sets)
    assert found.records == clean.records


@pytest.mark.slow
def test_streams_and_iterables_of_batches_give_the_same_records():
    def stream(data):
        pairs = list(zip(np.asarray(data.inputs), np.asarray(data.targets)))
        return mu.stream(pairs, batch_size=16, index=np.asarray(data.index))

    retrained = weights(2, forgets=True, n=2)
    expected = run({"mine": weights(1, forgets=False)}, retrained=retrained)
    for form in (stream, list):
        sets = {name: form(data) for name, data in SETS.items()}
        found = run({"mine": weights(1, forgets=False)}, sets, retrained=retrained)
        for own, wanted in zip(found.records, expected.records):
            for name, metric in wanted.metrics.items():
                assert own.metrics[name].value == pytest.approx(metric.value, abs=1e-6)


def test_records_and_arrays_can_be_written_and_read(tmp_path):
    found = run(
        {"mine": weights(1, forgets=False)},
        retrained=[weights(2, forgets=True)],
        hyperparameters={"mine": {"alpha": 2.0}},
        selection={"mine": "fixed default"},
        costs={"mine": [reporting.Cost(wall_s=0.5)]},
        forget_set="class 3",
    )
    found.write(tmp_path / "scores.jsonl")
    records = reporting.read(tmp_path / "scores.jsonl")
    (mine,) = (record for record in records if record.method == "mine")
    assert mine.hyperparameters == {"alpha": 2.0} and mine.cost.wall_s == 0.5
    assert mine.forget_set.kind == "class 3" and mine.forget_set.size == FORGET.num_examples
    assert (
        mine.metrics["retain accuracy"].oracle.mean == records[0].metrics["retain accuracy"].value
    )
    assert mine.arrays == {"examples": "scores.npz"}
    arrays = reporting.read_run(tmp_path / "scores.jsonl").arrays["class 3"].examples["mine"]
    np.testing.assert_array_equal(arrays["forget"].ids, FORGET.index)
    np.testing.assert_array_equal(arrays["test"].margins, found.arrays["mine"]["test"].margins)
    with pytest.raises(ValueError, match=r"expected a path that ends in \.jsonl"):
        found.write(tmp_path / "scores.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.jsonl", "scores.npz"]


def test_bad_input_is_one_sentence_that_names_the_fix():
    one = weights(1, forgets=False)
    with pytest.raises(TypeError, match=r"expected a mapping from names to variables, found list"):
        run([one])
    with pytest.raises(ValueError, match=r"expected other names of versions than 'retrain'"):
        run({"retrain": one})
    with pytest.raises(ValueError, match=r"without a common example, found \d+"):
        run({"mine": one}, {"forget": FORGET, "retain": FORGET})
    with pytest.raises(ValueError, match=r"in each entry of 'mine', found stacked ones"):
        run({"mine": [weights(1, forgets=False, n=2)]})
    with pytest.raises(ValueError, match=r"expected at least one model of 'mine', found none"):
        run({"mine": iter(())})
    with pytest.raises(
        ValueError, match=r"for 'mine', or those of N models .* found what the model"
    ):
        run({"mine": mu.Variables(jnp.ones((CLASSES + 1, CLASSES)))})
    with pytest.raises(TypeError, match=r"expected mu.Variables\(params, state\)"):
        run({"mine": {"params": jnp.ones(3)}})
    with pytest.raises(
        ValueError, match=r"expected a kind among classification, .* found 'classes'"
    ):
        run({"mine": one}, kind="classes")
    with pytest.raises(ValueError, match=r"expected a function for the metric 'f'"):
        run({"mine": one}, metrics={"f": "accuracy"})
    with pytest.raises(
        ValueError, match=r"one for each example from a metric, found shape \(\d+, 4\)"
    ):
        run({"mine": one}, metrics={"f": lambda outputs, targets: outputs})
