"""What stands in the charts is what slow NumPy says of the arrays."""

from __future__ import annotations

import numpy as np
import pytest
from plot_cases import (
    CLASSES,
    FEW,
    arrays,
    ensemble_records,
    make_requests,
    make_sweep,
    records,
    rows_of,
    spec,
)

from mu_jax import evaluation, plots
from mu_jax.plots.edits import _beyond
from mu_jax.plots.examples import _thin
from mu_jax.plots.klom import divide
from mu_jax.plots.membership import roc
from mu_jax.reporting import Histogram, gap_to_oracles


def close(found, wanted):
    return np.testing.assert_allclose(found, wanted, rtol=6e-5, atol=1e-9)


def one(rows, **fields):
    found = [row for row in rows if all(row.get(k) == v for k, v in fields.items())]
    assert len(found) == 1, found
    return found[0]


def test_tradeoff_has_means_ranges_seeds_and_the_band():
    rows = rows_of(spec("tradeoff"))
    for name in FEW:
        own = [r for r in records() if r.method == name]
        values = [100 * r.metrics["test accuracy"].value for r in own]
        mean = one(rows, row=name, seeds=3)
        close([mean["x"], mean["x0"], mean["x1"]], [np.mean(values), min(values), max(values)])
        assert mean["x_what"] == "range of 3 seeds"
        close([one(rows, row=name, seed=r.seed)["x"] for r in own], values)
    right = (arrays().examples["retrain"]["test"].predictions == np.arange(100) % CLASSES).mean(1)
    band = next(row for row in rows if "x0" in row and "row" not in row)
    close(
        [band["x"], band["x0"], band["x1"]], 100 * np.array([right.mean(), min(right), max(right)])
    )


def test_tradeoff_has_a_point_for_every_model_behind_one_record():
    chart = plots.tradeoff(ensemble_records(arrays()), arrays()).to_dict(validate=False)
    part = arrays().examples["ssd"]
    points = [r for r in rows_of(chart) if r.get("row") == "ssd" and "seed" in r]
    assert len(points) == 20
    for axis, name in zip("xy", ("test", "forget")):
        right = part[name].predictions == part[name].targets
        close([r[axis] for r in points], 100 * right.mean(1))


def test_klom_has_the_percentiles_over_examples_and_the_floor():
    rows = rows_of(spec("klom"))
    margins = {row: arrays().examples[row]["forget"].margins for row in FEW}
    oracle, floor = margins["retrain"][:20], margins["retrain"][20:]
    for row, own in {**margins, "retrain": floor}.items():
        values = np.asarray(evaluation.klom(oracle, own), float)
        found = one(rows, row=row, set="forget", n=60)
        close([found[f"p{q}"] for q in (50, 95, 99)], np.percentile(values, [50, 95, 99]))
        strip = [
            r["share"]
            for r in rows
            if r.get("set") == "forget" and r.get("row") == row and "share" in r
        ]
        assert sum(strip) == pytest.approx(1, abs=1e-4)
    assert one(rows, row="ssd", set="forget", n=60)["interval"] == "1.50 to 2.50"
    line = one(rows, x=one(rows, row="retrain", set="forget", n=60)["p95"])
    assert set(line) == {"x"}


def test_klom_divides_the_retrained_models_as_the_score_does():
    sides, _ = divide(arrays(), ["forget"])
    whole = arrays().examples["retrain"]["forget"].margins
    assert (sides.oracles["forget"] == whole[:20]).all()
    assert (sides.rows["retrain"]["forget"] == whole[20:]).all()


def test_roc_is_the_rate_that_an_attacker_reaches_with_its_exact_band():
    rng = np.random.default_rng(0)
    forget, test = rng.normal(size=(3, 40)).round(1), rng.normal(size=(3, 50)).round(1)
    rates = np.array([0.02, 0.1, 0.5])
    found = roc(forget, test, rates)
    slow = [
        np.mean([evaluation.tpr_at_fpr(-f, -t, rate) for f, t in zip(forget, test)])
        for rate in rates
    ]
    close(found.tpr, slow)
    single = roc(forget[:1], test[:1], rates)
    for k, share in enumerate(single.tpr):
        exact = evaluation.clopper_pearson(round(share * 40), 40)
        close([single.low[k], single.high[k]], exact[1:3])
    assert (found.low <= found.tpr).all() and (found.tpr <= found.high).all()


def test_membership_embeds_these_rates():
    part = arrays().examples["do nothing"]
    slow = np.mean(
        [
            evaluation.tpr_at_fpr(-f, -t, 0.01)
            for f, t in zip(part["forget"].losses, part["test"].losses)
        ]
    )
    rows = [r for r in rows_of(spec("membership")) if r.get("row") == "do nothing"]
    close([r["tpr"] for r in rows if "fpr" not in r], [100 * slow])
    close(min((r for r in rows if "fpr" in r), key=lambda r: r["fpr"])["tpr"], 100 * slow)


def test_histograms_count_every_example():
    rows = rows_of(spec("losses"))
    bars = [r for r in rows if "base" in r and r["count"] > 0]
    assert sum(r["count"] for r in bars) == pytest.approx(60 * len(FEW), rel=0.01)
    edges = sorted({r["from"] for r in bars} | {r["to"] for r in bars})
    losses = np.concatenate([arrays().examples[row]["forget"].losses.ravel() for row in FEW])
    assert edges[0] <= losses.min() and edges[-1] >= losses.max() * (1 - 1e-4)
    one_bar = max(bars, key=lambda r: r["count"])
    counts = [
        ((part["forget"].losses >= one_bar["from"]) & (part["forget"].losses < one_bar["to"])).sum()
        / len(part["forget"].losses)
        for part in arrays().examples.values()
    ]
    assert min(abs(c - one_bar["count"]) for c in counts) < 0.2


def test_classes_are_differences_to_the_retrained_mean_sorted_by_change():
    rows = rows_of(spec("classes"))
    for name in range(CLASSES):
        own, target = (arrays().examples[row]["test"] for row in ("gradient_ascent", "retrain"))
        here = own.targets == name
        right, aim = ((part.predictions[:, here] == name).mean(1) for part in (own, target))
        found = one(rows, row="gradient_ascent", **{"class": name})
        close(found["x"], 100 * (right.mean() - aim.mean()))
        interval = evaluation.t_interval(right)
        close(found["low"], 100 * (interval.low - aim.mean()))
        band = next(r for r in rows if r.get("class") == name and "row" not in r)
        close([band["low"], band["high"]], 100 * (np.array([min(aim), max(aim)]) - aim.mean()))


def test_confusion_has_shares_that_sum_to_one_and_probabilities():
    rows = [r for r in rows_of(spec("confusion")) if r["row"] == "ssd"]
    part = arrays().examples["ssd"]["forget"]
    close(sum(r["share"] for r in rows), 100)
    taken = part.predictions == 1
    found = one(rows, said=1)
    close([found["share"], found["sure"]], [100 * taken.mean(), np.exp(-part.losses)[taken].mean()])


@pytest.mark.parametrize("name", ["similarity", "edits", "relearning"])
def test_means_over_models_with_their_intervals(name):
    rows = rows_of(spec(name))
    if name == "similarity":
        values = arrays().similarity["ssd"]["forget"].to_oracle[:, 2]
        found = [r for r in rows if r.get("layer") == "dense1" and r.get("to", "").endswith("els")]
        found = next(r for r in found if abs(r["y"] - values.mean()) < 1e-4)
    elif name == "edits":
        values = 100 * arrays().edits["ssd"].moved[:, 3]
        found = one(rows, leaf="conv2/b", what="moved") | {}
        found["y"] = found["x"]
    else:
        values = arrays().relearning["ssd"].values[:, 0]
        found = one(rows, row="ssd", x=0)
        assert max(r["x"] for r in rows) == arrays().relearning["ssd"].steps[-1]
        assert sum(r["row"] == "ssd" for r in rows) == 64
    interval = evaluation.t_interval(values) if np.ptp(values) > 0 else None
    close(found["y"], values.mean())
    if interval:
        close([found["low"], found["high"]], interval[1:3])


def test_the_share_beyond_a_threshold():
    assert _beyond(Histogram(np.array([0.0, 1, 2, 4]), np.array([5.0, 6, 8]), 1.5, "r")) == 11
    counts = arrays().ratios["ssd"].counts
    assert f"{counts.sum():,.0f}" in spec("ratios")["description"]


def test_run_times_are_shares_of_retraining_with_precomputation_apart():
    rows = rows_of(spec("run_time"))
    run = one(rows, row="ssd", part="the run")
    before = next(r for r in rows if r["row"] == "ssd" and r.get("part", "").startswith("pre"))
    close([run["a"], run["b"], before["a"], before["b"]], [0, 100 / 3, 100 / 3, 100 / 3 + 18.75])
    assert one(rows, row="retrain", part="the run")["b"] == 100


def test_the_landscape_has_the_gap_of_every_setting_and_its_share():
    rows = rows_of(spec("landscape"))
    sweep = [r for r in make_sweep(arrays(), methods=("ssd",)) if r.method == "ssd"]
    gaps = {r.hyperparameters["alpha"]: gap_to_oracles(r) for r in sweep}
    strip = [r for r in rows if isinstance(r.get("value"), float)]
    for row in strip:
        wanted = next(g for alpha, g in gaps.items() if abs(alpha - row["value"]) < 1e-3 * alpha)
        if row["sign"] == "ok":
            close(row["gap"], wanted)
        else:
            assert wanted is None and "constant predictions" in row["why"]
    profile = [r for r in rows if "share" in r]
    known = sorted(gap for gap in gaps.values() if gap is not None)
    close([r["gap"] for r in profile], known)
    close([r["share"] for r in profile], 100 * np.arange(1, len(known) + 1) / len(sweep))


def test_drift_is_the_difference_to_the_retrained_of_the_same_request():
    rows = [r for r in rows_of(spec("drift")) if r.get("row") == "ssd" and r["request"] == 2]
    own = [r for r in make_requests(arrays()) if r.forget_set.size == 20 and r.method == "ssd"]
    for name in ("forget accuracy", "test accuracy"):
        wanted = [100 * (r.metrics[name].value - r.metrics[name].oracle.mean) for r in own]
        assert any(abs(r["y"] - np.mean(wanted)) < 1e-3 for r in rows)


def test_the_cloud_has_mean_margins_and_verdicts():
    rows = [r for r in rows_of(spec("examples")) if "id" in r]
    parts = {name: arrays().examples[name]["forget"] for name in ("do nothing", "ssd", "retrain")}
    close([r["x"] for r in rows], parts["do nothing"].margins.mean(0))
    close([r["y"] for r in rows], parts["ssd"].margins.mean(0))
    assert [r["id"] for r in rows] == parts["ssd"].ids.tolist()
    low, high = np.percentile(parts["retrain"].margins, [2.5, 97.5], axis=0)
    for k, row in enumerate(rows):
        mean = parts["do nothing"].margins[:, k].mean()
        wanted = "under-forgotten" if mean > high[k] else "as retrained"
        assert low[k] <= mean and row["other"] == wanted
    assert any(r["other"] == "under-forgotten" for r in rows)


def test_verdicts_hold_at_the_ends_of_the_spread():
    oracle = np.linspace(0, 1, 41)[:, None]
    low, high = np.percentile(oracle, [2.5, 97.5])
    for value, verdict in (
        (low, "as retrained"),
        (high, "as retrained"),
        (high + 1e-6, "under-f"),
        (low - 1e-6, "over-f"),
    ):
        assert plots.verdicts([[value]], oracle)[0].startswith(verdict)


def test_a_large_cloud_keeps_what_is_apart():
    apart = np.zeros(5000, bool)
    apart[::10] = True
    kept = _thin(apart)
    assert len(kept) == len(set(kept)) == 1500 and set(np.flatnonzero(apart)) <= set(kept)
    assert (kept == _thin(apart)).all()
