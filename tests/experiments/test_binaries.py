"""The binaries as a user runs them: exit codes, what they print, and what they leave behind."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from in_process import call, refused
from recomputed import assert_equal, of_model

from experiments.configs import digits
from mu_jax import reporting
from mu_jax.store.versions import Store

ROOT = pathlib.Path(__file__).parents[2]
FAST = ["--config.training.epochs=8", "--config.limit=600"]


def run(binary: str, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{binary}", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "COLUMNS": "110"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def fails(binary: str, *arguments: str) -> str:
    """The one line that a refused call prints."""
    result = run(binary, *arguments)
    assert result.returncode == 2, result.stdout + result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


CONFIG = """
from experiments.configs import digits
def get_config():
    config = digits.get_config()
    config.methods = {name: config.methods[name] for name in ("ssd", "iau", "finetune")}
    return config
"""


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """A short run: three methods, no ensembles. `test_the_whole_quickstart` has the others."""
    workdir = tmp_path_factory.mktemp("quickstart")
    (workdir / "few.py").write_text(CONFIG)
    flags = [f"--config={workdir}/few.py", "--seeds=2", "--models=0"]
    result = run("quickstart", f"--workdir={workdir}", *flags, *FAST)
    assert result.returncode == 0, result.stderr
    return workdir, result


def check_table(result, methods):
    """The table has a row for each method and says how to read it."""
    lines = result.stdout.splitlines()
    rows = [line.split()[0] for line in lines if "±" in line]
    assert rows[:2] == ["retrain", "do"]
    for method in (*methods, "constant"):
        assert method in rows
    for text in ("closer to", "retrain", "lower is", "ms, ", "* ", "average gap", "Serving"):
        assert text in result.stdout
    assert "seed 1: ssd" in result.stderr


def test_quickstart_prints_a_table_that_says_how_to_read_it(quickstart):
    check_table(quickstart[1], ["ssd", "iau", "finetune"])


@pytest.mark.slow
def test_the_whole_quickstart(tmp_path):
    few = ["--models=8", "--config.methods.dmm.attribution.checkpoints=2"]
    few += ["--config.methods.dmm.attribution.calibration_models=2"]
    few += ["--config.methods.dmm.attribution.calibration=('random:0.1:seed=99',)"]
    result = run("quickstart", f"--workdir={tmp_path}", "--seeds=2", *few, *FAST)
    assert result.returncode == 0, result.stderr
    check_table(result, ["ssd", "iau", "dmm", "finetune", "gradient_ascent"])
    assert "95th percentile of KLoM on the forget set, 8 models" in result.stdout
    constants = [line for line in result.stdout.splitlines() if line.split()[:1] == ["constant"]]
    assert len(constants) >= 3  # and a sentence


def test_quickstart_writes_records_and_serves_the_best_version(quickstart):
    workdir, _ = quickstart
    records = list(reporting.read(workdir / "results.jsonl"))
    assert {record.seed for record in records} == {0, 1}
    forgotten = {(r.method, r.seed): r.metrics["forget accuracy"].value for r in records}
    assert forgotten["retrain", 0] == 0.0
    assert forgotten["do nothing", 0] > 0.8
    store = Store(workdir / "store")
    (serving,) = [version for version in store.history() if version.serving]
    assert serving.parent == 1
    assert serving.forget_digest == records[0].forget_set.hash
    (table,) = reporting.summarize(records)
    assert serving.method in [row.label for row in table.rows if row.best]


def test_the_numbers_of_the_quickstart_are_functions_of_the_arrays(quickstart):
    run = reporting.read_run(quickstart[0] / "results.jsonl")
    (arrays,) = run.arrays.values()
    assert {record.config_hash for record in run.records} == {run.digest} and run.digest
    for record in run.records:
        sets = arrays.examples[record.method]
        place = record.seed if len(sets["test"].losses) > 1 else 0
        assert_equal(record, of_model(sets, place, record.seed))


def test_the_quickstart_looks_into_its_models(quickstart):
    (arrays,) = reporting.read_run(quickstart[0] / "results.jsonl").arrays.values()
    rows = {"do nothing", "retrain", "ssd", "iau", "finetune"}
    assert set(arrays.similarity) == rows and set(arrays.edits) == {"ssd", "iau", "finetune"}
    untouched = arrays.similarity["do nothing"]["forget"]
    assert untouched.layers == ("features", "outputs")
    np.testing.assert_allclose(untouched.to_original, 1, atol=1e-4)
    retrained = arrays.similarity["retrain"]["retain"]  # two models: the band is their similarity
    np.testing.assert_allclose(retrained.to_oracle[0], retrained.low, atol=1e-5)
    (threshold,) = (found.threshold for found in arrays.ratios.values())
    assert threshold == digits.get_config().methods.ssd.alpha
    chosen = arrays.ratios["ssd"]
    above = chosen.counts[chosen.edges[:-1] >= threshold].sum()
    sizes, changed = arrays.edits["ssd"].sizes, arrays.edits["ssd"].changed[0]
    assert 0 < round(np.dot(sizes, changed)) <= above, "a weight of 0 is dampened and stays"
    assert arrays.shown.kind == "image" and arrays.shown.content.shape[1:] == (8, 8, 1)
    forget = arrays.examples["ssd"]["forget"].ids
    assert np.isin(forget, arrays.shown.ids).all() and arrays.shown.ids.size > forget.size
    size = (quickstart[0] / "results.npz").stat().st_size
    assert size < 1_000_000


@pytest.mark.slow
def test_quickstart_publishes_what_forgot_nothing_and_serves_it_not(tmp_path):
    # On a random request doing nothing is close to retraining, so that it has the smallest gap.
    (tmp_path / "idle.py").write_text(
        "from experiments.configs import digits\n"
        "def get_config():\n"
        "    config = digits.get_config()\n"
        "    config.methods = dict(ssd=dict(alpha=1e9, dampening=1.0))\n"
        "    return config\n"
    )
    flags = ["--seeds=1", "--models=0", "--request=random:10:seed=1", *FAST]
    result = run("quickstart", f"--config={tmp_path}/idle.py", f"--workdir={tmp_path}/w", *flags)
    assert result.returncode == 0, result.stderr
    assert "Version 2 (ssd) is published for inspection and does not serve, since it has" in (
        result.stdout
    )
    assert "No method is fit to serve: the original keeps serving." in result.stdout
    first, second = Store(tmp_path / "w/store").history()
    assert first.serving and not second.serving
    assert second.withheld.startswith("it has forgotten nothing: no weight changed")


def test_report_prints_the_same_table_again(quickstart):
    workdir, result = quickstart
    again = call("report", str(workdir / "results.jsonl"), further="files of records")
    assert again.returncode == 0, again.stderr
    assert again.stdout.strip() in result.stdout


def test_quickstart_ends_with_its_page_and_report_draws_it_again(quickstart, tmp_path):
    workdir, result = quickstart
    assert f"Report, for a browser: {workdir / 'report.html'}" in result.stdout
    first = (workdir / "report.html").read_text()
    flags = [f"--html={tmp_path}/again.html", "--title=Class <3>"]
    again = call("report", *flags, str(workdir / "results.jsonl"), further="files of records")
    assert again.returncode == 0, again.stderr
    assert f"Page: {tmp_path}/again.html" in again.stdout
    second = (tmp_path / "again.html").read_text()
    assert "<h1>Class &lt;3&gt;</h1>" in second and "<h1>Forgetting class:3</h1>" in first
    for method in ("retrain", "ssd", "iau", "finetune", "constant"):
        assert method in first and method in second
    assert "No relearning: " in second
    assert "not measured which parameters &#39;ssd&#39; changed" not in second  # arrays were read


def test_a_page_that_cannot_be_written_is_refused_before_it_is_drawn(quickstart, tmp_path):
    records = str(quickstart[0] / "results.jsonl")
    flags = {"further": "files of records"}
    wrong = call("report", f"--html={tmp_path}/page.pdf", records, **flags)
    assert wrong.returncode == 2 and "ends in .html" in wrong.stderr
    nowhere = call("report", f"--html={tmp_path}/page.html", f"{tmp_path}/none.jsonl", **flags)
    assert nowhere.returncode == 2 and "none.jsonl" in nowhere.stderr
    assert not list(tmp_path.iterdir())


def test_quickstart_refuses_bad_requests_in_one_line(tmp_path):
    assert "class" in refused("quickstart", f"--workdir={tmp_path}/a", "--request=class:12", *FAST)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--request=ids:99999"], "99999"),
        (["--request=missing.csv"], "missing.csv"),
        (["--request=nonsense:1"], "class"),
        (["--config.dataset=cifar10", "--config.data_dir=/nowhere"], "/nowhere"),
        (["--config.dataset=diabetes"], "regression"),
        (["--config.model.name=gpt"], "mlp"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, said):
    assert said in fails("quickstart", f"--workdir={tmp_path}/a", *FAST, *arguments)
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_from_training_to_a_swapped_version_and_back(tmp_path):
    workdir = f"--workdir={tmp_path}/run"
    assert "no config.json" in fails("unlearn", workdir, "--request=class:3")
    assert run("train", workdir, *FAST).returncode == 0
    assert "serving" in fails("train", workdir, *FAST)
    store = Store(tmp_path / "run/store")
    assert store.serving() == 1

    ids = tmp_path / "ids.csv"
    request = [f"--request={ids}"]
    assert str(ids) in fails("unlearn", workdir, *request)
    chosen = np.asarray(_training_ids()[:30])
    ids.write_text("id\n" + "\n".join(map(str, chosen)) + "\n")

    dry = run("unlearn", workdir, *request, "--method=ssd", "--dry_run")
    assert dry.returncode == 0 and len(store.history()) == 1
    result = run("unlearn", workdir, *request, "--method=ssd")
    assert result.returncode == 0, result.stderr
    assert store.serving() == 2
    (version,) = store.history()[1:]
    assert version.parent == 1
    assert version.hyperparameters == digits.get_config().methods.ssd.to_dict()

    kept = tmp_path / "run/unlearned/version-2.jsonl"
    written = reporting.read_run(kept)
    (record,), (behind,) = written.records, written.arrays.values()
    assert written.digest and record.hyperparameters == version.hyperparameters
    assert {name: part.ids.size for name, part in behind.examples["ssd"].items()}["forget"] == 30
    assert_equal(record, of_model(behind.examples["ssd"], 0, record.seed))

    evaluated = run("evaluate", workdir, *request, "--retrain=2")
    assert evaluated.returncode == 0, evaluated.stderr
    assert all(row in evaluated.stdout for row in ("2: ssd", "do nothing", "constant"))
    found = reporting.read_run(tmp_path / "run/evaluation.jsonl")
    (arrays,) = found.arrays.values()
    assert set(arrays.edits) == set(arrays.ratios) == {"2: ssd"} and found.digest
    assert set(arrays.similarity) == {"retrain", "do nothing", "2: ssd"}
    for record in found.records:
        sets = arrays.examples[record.method]
        first = 1 if record.method == "retrain" else 0  # seeds of retrained models come after
        assert_equal(record, of_model(sets, record.seed - first, record.seed))
    assert run("unlearn", workdir, "--roll_back").returncode == 0
    assert store.serving() == 1
    bytes_before = kept.read_bytes()
    kept.unlink()  # as if the run had been stopped after it had published
    assert "is the result of this request" in run("unlearn", workdir, *request).stdout
    assert kept.read_bytes() == bytes_before and len(store.history()) == 2


@pytest.mark.slow
def test_a_collapsed_model_is_published_and_never_served(tmp_path):
    workdir = f"--workdir={tmp_path}/run"
    assert run("train", workdir, *FAST).returncode == 0
    destroy = ["--method=gradient_ascent", "--set=learning_rate=5.0", "--set=epochs=3"]
    result = run("unlearn", workdir, "--request=class:3", *destroy)
    assert result.returncode == 3, result.stdout + result.stderr
    assert "has collapsed" in result.stdout or "is not finite" in result.stdout
    assert Store(tmp_path / "run/store").serving() == 1


def _training_ids() -> list[int]:
    from mu_jax import datasets

    return datasets.load("digits", limit=600).index.tolist()


def test_every_configuration_is_json(quickstart):
    workdir, _ = quickstart
    assert json.loads((workdir / "config.json").read_text())["dataset"] == "digits"
