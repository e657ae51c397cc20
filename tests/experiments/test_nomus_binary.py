"""The NoMUS binary: on digits as a user runs it, and on a small copy of MUFAC."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from recomputed import assert_equal

from experiments import nomus
from experiments.configs import mufac, nomus_digits
from experiments.lib.tasks import make_task
from mu_jax import evaluation, reporting


def fast():
    config = nomus_digits.get_config()
    config.training.epochs = 3
    config.methods = {"finetune": dict(config.methods.finetune, epochs=1)}
    return config


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("nomus")
    nomus.run(fast(), "random:0.4:seed=1", 2, workdir)
    return reporting.read_run(workdir / "results.jsonl")


@pytest.mark.slow
def test_the_three_numbers_are_functions_of_the_arrays(digits):
    (arrays,) = digits.arrays.values()
    for record in digits.records:
        sets, seed = arrays.examples[record.method], record.seed
        utility = (sets["test"].predictions[seed] == sets["test"].targets).mean()
        losses = (sets[name].losses[seed] for name in ("forget", "unseen"))
        found = evaluation.nomus(float(utility), *losses, seed=seed)
        assert_equal(
            record,
            {
                "utility": found.utility,
                "forgetting score": found.forgetting_score,
                "NoMUS": found.value,
            },
        )


@pytest.mark.slow
def test_every_row_has_the_three_numbers_for_every_seed(digits):
    records = digits.records
    found = {(record.method, record.seed) for record in records}
    rows = ("retrain", "do nothing", "constant", "finetune")
    assert found == {(m, s) for m in rows for s in (0, 1)}
    assert {r.method for r in records if r.status == "collapsed"} == {"constant"}
    for record in records:
        utility, forgetting, value = (
            record.metrics[name].value for name in ("utility", "forgetting score", "NoMUS")
        )
        assert value == pytest.approx(0.5 * utility + 0.5 * (1 - 2 * forgetting))
        assert record.metrics["forgetting score"].n == 80
        assert record.forget_set.size == 80


@pytest.mark.slow
def test_the_floor_stands_beside_the_numbers_and_the_gap_is_that_of_the_score(digits):
    records = digits.records
    assert len({record.metrics["NoMUS"].null for record in records}) == 1
    assert 0.01 < records[0].metrics["forgetting score"].null < 0.1
    (table,) = reporting.summarize(records)
    assert [row.label for row in table.rows[:2]] == ["retrain", "do nothing"]
    gaps = []
    for seed in (0, 1):
        pair = [
            evaluation.Nomus(
                *(r.metrics[k].value for k in ("NoMUS", "utility", "forgetting score")), 0.5, 80
            )
            for r in records
            if r.seed == seed and r.method in ("retrain", "do nothing")
        ]
        gaps.append(100 * evaluation.nomus_gap(pair[1], pair[0]) / 2)
    cell = table.rows[1].cells[[column.name for column in table.columns].index("average gap")]
    assert cell.mean == pytest.approx(np.mean(gaps), rel=1e-4)


def test_utility_and_attack_use_different_examples():
    task = make_task(nomus_digits.get_config())
    ids = np.asarray(task.train.index)[:10]
    changed, splits = nomus.with_unseen(task, ids)
    index = np.concatenate([changed.train.index, changed.test.index])
    parts = [set(index[rows].tolist()) for rows in splits.positions.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == index.size
    where = splits.positions
    assert set(index[where["forget"]].tolist()) == set(ids.tolist())
    assert set(index[where["test"]]) | set(index[where["unseen"]]) == set(
        np.asarray(task.test.index)
    )
    assert abs(where["test"].size - where["unseen"].size) <= 1


def test_a_model_that_knows_nothing_has_no_score():
    task = make_task(nomus_digits.get_config())
    task, splits = nomus.with_unseen(task, np.asarray(task.train.index)[:50])
    outputs = np.zeros((splits.targets.size, 10), np.float32)
    floor = evaluation.Nomus(0.9, 0.9, 0.03, 0.5, 50)
    found = nomus.score(outputs, splits, 0, floor)
    assert found["utility"].value == pytest.approx(
        (splits.targets[splits.positions["test"]] == 0).mean()
    )
    assert found["NoMUS"].value is None and "collapsed" in found["NoMUS"].reason


def write_mufac(folder, rows):
    """A copy in the published layout; the level of the images follows their class."""
    for stem, families in rows.items():
        random = np.random.default_rng(len(families))
        (folder / f"{stem}_images").mkdir(parents=True)
        lines = ["image_path,age_class"]
        for number, family in enumerate(families):
            letter = "abcdefgh"[number % 2]
            name = f"F{family:04d}_AGE_D_18_{letter}{number}.jpg"
            lines.append(f"{name},{letter}")
            level = int(80 + 60 * (number % 2) + random.integers(0, 40))
            Image.new("RGB", (128, 128), (level, level, level)).save(
                folder / f"{stem}_images" / name
            )
        (folder / f"custom_{stem}_dataset.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:expected [0-9,]+ examples in")
def test_mufac_forgets_its_own_split_and_attacks_with_the_unseen_one(tmp_path, monkeypatch):
    monkeypatch.setattr("mu_jax.datasets.faces._MUFAC_FORGET_ROWS", 15)
    families = {"train": np.arange(40) // 10, "val": [800] * 16, "test": [851] * 14}
    copy = write_mufac(tmp_path / "mufac", families)
    config = mufac.get_config()
    config.data_dir = str(copy.parent)
    config.model = {"name": "mlp", "features": (4,)}
    config.training.epochs = 2
    nomus.run(config, None, 1, tmp_path / "run")
    records = reporting.read(tmp_path / "run/results.jsonl")
    assert records[0].forget_set.size == 20  # whole families
    assert {record.method for record in records} == {
        "retrain",
        "do nothing",
        "constant",
        *config.methods,
    }
    utility, forgetting = (records[1].metrics[k] for k in ("utility", "forgetting score"))
    assert utility.n == 16
    assert forgetting.n in (14, None)


@pytest.mark.parametrize(
    "changes, wanted, said",
    [
        ({"dataset": "diabetes"}, None, "classification"),
        ({}, "class:12", "12"),
        ({"dataset": "mufac", "data_dir": "/nowhere"}, None, "mufac"),
    ],
)
def test_bad_input_leaves_nothing_behind(tmp_path, changes, wanted, said):
    config = fast()
    config.update(changes)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        nomus.run(config, wanted, 1, tmp_path / "run")
    assert not (tmp_path / "run").exists()
