"""Benchmarks on disk: tiny files in every layout are read, and wrong ones refused by name."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import language_layouts as layouts
import numpy as np
import pytest

from experiments.configs import language_muse, language_rwku, language_tofu, language_wmdp
from experiments.lib.language import disk, results, study
from experiments.lib.language.making import make_task
from mu_jax.scoring.rows import NOTHING, RETRAIN

CONFIGS = {
    "tofu": language_tofu,
    "muse": language_muse,
    "wmdp": language_wmdp,
    "rwku": language_rwku,
}
COLUMNS = {
    "tofu": ("forget quality", "model utility", "forget ROUGE", "relearned probability"),
    "muse": ("VerbMem", "KnowMem forget", "PrivLeak"),
    "wmdp": ("bio accuracy", "utility accuracy", "relearned NLL"),
    "rwku": ("questions ROUGE-L", "neighbor questions ROUGE-L", "relearned NLL"),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return [str(layouts.write_model(root / str(seed), seed)) for seed in range(3)]


def configured(name, root, models):
    """The configuration of a benchmark with its files and models of a test."""
    getattr(layouts, name)(root)
    config = CONFIGS[name].get_config()
    config.data_dir, config.model.directory = str(root), models[0]
    config.model.retrained = tuple(models[1:])
    if name == "tofu":
        config.data.update(of_author=2, max_new=3)
        config.relearning.shown = 1
    if name == "wmdp":
        config.data.domains = ("bio",)
        config.relearning.shown = 1
    if name == "rwku":
        config.data.target = "1_Ada"
    if name != "tofu":
        config.data.context = 32
    config.training.batch_size = 2
    return config


@pytest.mark.quick("wmdp")
@pytest.mark.parametrize("name", CONFIGS)
def test_every_layout_is_read_and_split(name, tmp_path, models):
    task = make_task(configured(name, tmp_path, models))
    (split,) = task.splits
    forget = {i for i in np.asarray(split.forget.index).tolist()}
    assert forget and not forget & {i for i in np.asarray(split.retain.index).tolist()}
    gone = np.asarray(task.train.index)[split.weight == 0]
    assert set(gone.tolist()) == forget, "retrained models never see what is to be forgotten"
    assert len(task.retrained) == 2
    if split.relearn is not None:
        ids = [set(np.asarray(x.index).tolist()) for x in split.relearn[:2]]
        assert ids[0] and ids[1] and not ids[0] & ids[1]


def test_something_to_forget_is_never_shown(tmp_path, models):
    config = configured("rwku", tmp_path, models)
    config.relearning.shown = 99
    with pytest.raises(ValueError, match="expected fewer passages"):
        make_task(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_every_benchmark_runs_to_its_table(name, tmp_path, models):
    config = configured(name, tmp_path / "data", models)
    short = {"steps": 1, "batch_size": 2, "learning_rate": 1e-3, "retain_rows": 1, "beta": 0.1}
    with config.unlocked():
        config.methods = {"npo": short}
    config.relearning.steps = 1
    task = make_task(config)
    folder = study.Folder(tmp_path / "kept", 1, 1)
    before = study.targets(task, folder)
    (split,) = task.splits
    variables = {
        RETRAIN: study.retrained(task, split, folder),
        NOTHING: before,
        "npo": study.unlearned(task, split, folder, "npo", before),
    }
    rows = {
        row: study.measured(task, split, folder, row, found) for row, found in variables.items()
    }
    assert rows[RETRAIN].number == 2 and rows[NOTHING].number == 1
    records = results.records_of(task, split, rows)
    assert [record.method for record in records] == [NOTHING, "npo", RETRAIN]
    for record in records:
        assert set(COLUMNS[name]) <= set(record.metrics)
        for title, metric in record.metrics.items():
            assert metric.value is not None or title in ("relearned", "forget quality"), title
    moved = jax.tree.map(lambda x, y: jnp.abs(x - y).max() > 0, before, variables["npo"])
    assert any(jax.tree.leaves(moved))


@pytest.mark.parametrize(
    "text, said",
    [
        ("{", "found a damaged file"),
        ("[]", "expected at least one record"),
        ('[{"question": "x"}]', "found none of answer in record 0"),
        ("[3]", "found none of question, answer in record 0"),
    ],
)
def test_damaged_files_are_one_sentence(text, said, tmp_path):
    path = tmp_path / "forget10.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        disk.records(path, "question", "answer")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.slow
def test_missing_files_and_models_are_named(tmp_path, models):
    config = configured("tofu", tmp_path, models)
    (tmp_path / "retain_perturbed.json").unlink()
    with pytest.raises(FileNotFoundError, match="retain_perturbed"):
        make_task(config)
    config.data_dir = ""
    with pytest.raises(ValueError, match="data_dir"):
        make_task(config)
    config = configured("wmdp", tmp_path, models)
    wrong = json.loads((tmp_path / "wmdp-mcqs" / "bio_questions.json").read_text())
    wrong[1]["answer"] = 7
    layouts.write(tmp_path / "wmdp-mcqs" / "bio_questions.json", wrong)
    with pytest.raises(ValueError, match="expected four choices and an answer from 0 to 3"):
        make_task(config)
    config.model.retrained = ()
    with pytest.raises(ValueError, match="found neither"):
        make_task(config)
