"""Tables of language models: every number beside target, retrained row, n, interval, direction."""

from __future__ import annotations

import numpy as np
import pytest

from mu_jax.evaluation import language
from mu_jax.reporting import ForgetSet, Record
from mu_jax.reporting.json_lines import from_json, to_json

SETS = {"forget": 0.0, "retain": 1.0, "real authors": 1.0, "world facts": 1.0}


def tofu_log(seed, *, shift=0.0, n=60):
    """Questions of a set share their ids and difficulty between models."""
    random, log = np.random.default_rng(seed), {}
    for i, (name, known) in enumerate(SETS.items()):
        hard = np.random.default_rng(100 + i).exponential(size=n)
        right = hard + 0.1 * random.exponential(size=n) - (shift if name == "forget" else 0) + 2
        wrong = 2 + known + random.exponential(size=(n, 3)) + hard[:, None]
        rouge = random.uniform(size=n)
        log[name] = language.TofuSet(right, wrong, rouge, right + 0.1, np.arange(n))
    return log


def test_tofu_beside_target_and_two_retrained_models():
    retrained = [tofu_log(0), tofu_log(1)]
    target = tofu_log(2, shift=1.5)
    table = language.tofu_table({"target": target, "mine": tofu_log(3)}, retrained=retrained)
    assert list(table) == ["target", "mine", "retrain"]
    quality = {row: metrics["forget quality"].value for row, metrics in table.items()}
    assert quality["target"] < -5 < np.log10(0.05) < min(quality["mine"], quality["retrain"])
    names = ("probability", "ROUGE", "truth ratio")
    for row, log in (("target", target), ("retrain", retrained[0])):
        for name, part in log.items():
            for title, values in language.utility_numbers(part, name).items():
                metric = table[row][f"{name} {title}"]
                assert metric.value == pytest.approx(values.mean()) and metric.n == 60
                assert metric.low < metric.value < metric.high
                closer = metric.direction == "closer to retrain"
                assert closer == (name == "forget") and title in names
    utility = table["target"]["model utility"]
    assert utility.value == pytest.approx(language.model_utility(target)) and utility.n == 180
    values = [language.model_utility(log) for log in retrained]
    assert utility.oracle.mean == pytest.approx(np.mean(values))
    assert (utility.oracle.low, utility.oracle.high) == (min(values), max(values))
    record = Record("target", ForgetSet("authors", 60), seed=0, metrics=table["target"])
    assert from_json(to_json(record)) == record


def test_one_retrained_model_has_no_forget_quality_of_its_own():
    table = language.tofu_table({"mine": tofu_log(3)}, retrained=tofu_log(0))
    own = table["retrain"]["forget quality"]
    assert own.status == "missing" and "second retrained model" in own.reason
    assert table["mine"]["forget quality"].oracle is None


def test_a_retrained_log_is_required_and_of_the_same_questions():
    with pytest.raises(TypeError, match="retrained"):
        language.tofu_table({"mine": tofu_log(3)})
    with pytest.raises(ValueError, match="expected the log of at least one retrained model"):
        language.tofu_table({"mine": tofu_log(3)}, retrained=[])
    with pytest.raises(ValueError, match="expected the questions of the retrained model's log"):
        language.tofu_table({"mine": tofu_log(3)}, retrained=tofu_log(0, n=40))
    other = tofu_log(0)
    other["forget"] = other["forget"]._replace(ids=np.arange(60)[::-1])
    with pytest.raises(ValueError, match="in 'forget' of 'mine', found others"):
        language.tofu_table({"mine": tofu_log(3)}, retrained=other)
    with pytest.raises(ValueError, match="expected 'retain' in the log of 'mine'"):
        language.tofu_table({"mine": {"forget": tofu_log(3)["forget"]}}, retrained=tofu_log(0))


def muse_log(seed, *, memory=0.0):
    random = np.random.default_rng(seed)
    f1 = random.uniform(size=(3, 50)) * [[0.3 + 0.7 * memory], [0.5 + 0.5 * memory], [0.9]]
    scores = 5 - 2 * memory + random.normal(size=50), 5 + random.normal(size=50)
    return language.MuseLog(*f1, *scores)


def test_muse_and_its_changes_over_requests():
    retrained = [muse_log(0), muse_log(1)]
    tables = [
        language.muse_table(
            {"target": muse_log(2, memory=1.0), "mine": muse_log(3 + i, memory=0.2 * i)},
            retrained=retrained,
        )
        for i in range(4)
    ]
    target, mine, retrain = (tables[0][row] for row in ("target", "mine", "retrain"))
    assert target["VerbMem"].low > mine["VerbMem"].high
    assert target["PrivLeak"].value < -80 and retrain["PrivLeak"].value == 0
    assert target["AUC"].value < 0.3 < mine["AUC"].value
    assert target["PrivLeak"].oracle.mean != 0  # of two retrained models: what chance gives
    assert "retrained models differ by up to" in target["PrivLeak"].note
    assert target["PrivLeak"].low is None and target["PrivLeak"].no_interval
    found = language.muse_changes(tables, "sustainability")
    first, last = (table["mine"]["VerbMem"].value for table in (tables[0], tables[-1]))
    change = found["mine"]["sustainability VerbMem"]
    assert change.value == pytest.approx(last - first) and change.n == 4
    assert found["retrain"]["sustainability VerbMem"].value == 0 == change.oracle.mean
    with pytest.raises(ValueError, match="expected at least two tables of the same rows"):
        language.muse_changes(tables[:1], "scalability")


def test_a_collapsed_model_has_a_reason_in_place_of_privleak():
    flat = muse_log(0)._replace(forget_scores=np.ones(50), holdout_scores=np.ones(50))
    row = language.muse_table({"mine": flat}, retrained=muse_log(1))["mine"]
    assert row["PrivLeak"].status == "missing" and "collapsed" in row["PrivLeak"].reason


def test_secrets_state_their_cap():
    def log(nll):
        exposure = language.exposure(nll, np.linspace(1, 9, 255))
        hits = (np.asarray(nll) < 2).astype(float)
        return language.SecretLog(hits, hits, nll, exposure, 255)

    table = language.secret_table({"target": log(np.zeros(8))}, retrained=log(np.linspace(2, 8, 8)))
    exposure = table["target"]["exposure"]
    assert exposure.value == 8 and exposure.null == pytest.approx(1.422, abs=1e-3)
    assert exposure.note.startswith("8 of 8 at the cap of 8.00 bits")
    assert table["retrain"]["exposure"].value < 3
    assert table["target"]["extraction"].low == pytest.approx(0.631, abs=1e-3)
    assert exposure.no_interval and exposure.low is None  # eight equal values


def test_what_comes_back_beside_the_retrained_model():
    random = np.random.default_rng(0)
    before, whole = random.uniform(0, 0.2, 40), random.uniform(0.8, 1, 40)
    half = (before + whole) / 2 + 0.05 * random.normal(size=40)
    mine = language.relearned(half, before, whole)
    own = language.relearned(before + 0.1, before, whole)
    table = language.recovery_table({"mine": mine}, retrained=own, title="relearned")
    metric = table["mine"]["relearned"]
    assert metric.value == pytest.approx(0.5, abs=0.05) and metric.low < 0.5 < metric.high
    assert metric.oracle.mean == own.value < 0.2
    options = {"title": "restoration", "direction": "higher is better"}
    (row,) = language.recovery_table({"mine": mine}, retrained=None, **options)
    assert row == "mine"


def test_concepts():
    columns = np.random.default_rng(0).normal(size=(5, 4))
    same = language.concept_changes(columns, columns, np.eye(4), top=2)
    turned = language.concept_changes(columns, -columns, np.eye(4), top=2)
    table = language.concept_table({"mine": same}, retrained=turned)
    assert table["mine"]["mean overlap"].value == 1
    assert table["mine"]["least cosine"].value == pytest.approx(1)
    assert table["retrain"]["mean cosine"].value == pytest.approx(-1)
    assert table["mine"]["mean cosine"].n == 5


def relearned_log(nll, exposure, after_exposure, shown=(True, False, False)):
    def exposed(values):
        return language.Exposure(np.array(values), np.ones(3, int), 8.0)

    after = language.Relearning(np.array(shown), np.full(3, 50.0), exposed(after_exposure), 30)
    zeros = np.zeros(3)
    return language.SecretLog(zeros, zeros, np.full(3, nll), exposed(exposure), 255, after)


def test_relearning_columns_are_of_the_secrets_never_shown():
    target = relearned_log(2.0, [8.0, 8.0, 8.0], [8.0, 8.0, 8.0])
    mine = relearned_log(60.0, [9.0, 2.0, 4.0], [0.0, 5.0, 7.0])
    others = [relearned_log(65.0, [0.0, 1.0, 1.0], [8.0, 1.0, 2.0]), mine]
    table = language.secret_table(
        {"do nothing": target, "npo": mine}, retrained=others, target=target
    )
    row = table["npo"]
    assert row["unseen exposure"].value == 3.0 and row["relearned exposure"].value == 6.0
    assert row["relearned exposure"].n == 2 and row["relearned NLL"].value == 50.0
    assert row["relearned"].value == pytest.approx((6 - 3) / (8 - 3))
    assert row["relearned exposure"].null == pytest.approx(language.exposure_floor(255))
    assert (row["relearned exposure"].oracle.low, row["relearned exposure"].oracle.high) == (1.5, 6)
    assert table["do nothing"]["relearned"].status == "missing"
    assert "nothing was lost" in table["do nothing"]["relearned"].reason
    assert row["relearned"].unit != "fraction", "it is in no average gap"
    assert "relearned" not in language.secret_table({"npo": mine}, retrained=others)["npo"]


@pytest.mark.parametrize("shown", [(True, True, True), (False, False, False)])
def test_relearning_needs_secrets_on_both_sides(shown):
    log = relearned_log(2.0, [8.0] * 3, [8.0] * 3, shown)
    with pytest.raises(ValueError, match="expected some secrets in the fine-tuning"):
        language.secret_table({"npo": log}, retrained=log)
