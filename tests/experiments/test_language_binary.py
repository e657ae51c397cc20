"""The language binary: secrets are learned and forgotten, runs resume, wrong input is one line."""

from __future__ import annotations

import functools
import pathlib
import shutil

import jax
import numpy as np
import optax
import pytest
from in_process import call, refused

from experiments import language
from experiments.configs import language_secrets
from experiments.lib.language import corpus, methods, results, study
from experiments.lib.language.making import make_task
from mu_jax import evaluation, reporting
from mu_jax.ensembles import storing
from mu_jax.models import decoder as decoders

ROOT = pathlib.Path(__file__).parents[2]
TINY = [
    *("--seeds=1", "--methods=npo", "--config.model.width=16", "--config.model.mlp_width=16"),
    *("--config.model.num_heads=2", "--config.training.epochs=1", "--config.data.secrets=4"),
    *("--config.data.forget=2", "--config.data.code=64", "--config.data.planted=4"),
    *("--config.data.heldout=8", "--config.data.references=7", "--config.methods.npo.steps=2"),
    *("--config.relearning.steps=2", "--config.data.measured=32"),
]


def small(**data):
    config = language_secrets.get_config()
    config.data.update(secrets=4, forget=2, code=64, planted=4, heldout=8, references=7, **data)
    config.model.update(width=16, mlp_width=16, num_heads=2)
    return config


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a tiny run, and what it printed."""
    folder = tmp_path_factory.mktemp("language") / "run"
    ended = call("language", f"--workdir={folder}", "--write", *TINY)
    assert ended.returncode == 0, ended.stderr
    return folder, ended.stdout


@pytest.mark.slow
def test_a_run_ends_with_a_table_records_arrays_and_a_picture(ran):
    folder, said = ran
    records = reporting.read(folder / "results.jsonl")
    assert [record.method for record in records] == ["do nothing", "npo", "retrain"]
    for record in records:
        assert record.forget_set.size == 2 and record.arrays == {"examples": "results.npz"}
        exposure = record.metrics["relearned exposure"]
        assert exposure.n == 1 and exposure.oracle is not None
        assert exposure.null == pytest.approx(1.09, abs=0.01), "the floor of 8 candidates"
    (arrays,) = reporting.read_run(folder / "results.jsonl").arrays.values()
    curve = arrays.relearning["npo"].values
    assert curve.shape == (1, 3) and np.isfinite(curve).all()
    assert arrays.others["retrain/before/candidates"].shape == (1, 2, 8)
    for record in records:
        found = arrays.others[f"{record.method}/before/nll"]
        sets = arrays.examples[record.method]
        np.testing.assert_array_equal(
            np.sort(np.concatenate([sets[name].losses for name in ("forget", "retain")], axis=1)),
            np.sort(found),
        )
        bits = arrays.others[f"{record.method}/before/bits"].mean()
        assert record.metrics["held-out bits a byte"].value == pytest.approx(float(bits))
    for text in ("relearned exposure", "Means over runs", "Differences to retrain", "Records: "):
        assert text in said
    assert (folder / "relearning.svg").read_text().count("<svg") == 1


@pytest.mark.slow
def test_the_report_shows_all_runs_and_draws_the_picture_again(ran, tmp_path):
    results_file, picture = str(ran[0] / "results.jsonl"), tmp_path / "again.svg"
    flags = ["--over_runs", f"--picture={picture}", results_file]
    ended = call("report", *flags, further="files")
    assert ended.returncode == 0 and "Means over runs: 1 forget sets, 1 runs" in ended.stdout
    assert picture.read_bytes() == (ran[0] / "relearning.svg").read_bytes()


def test_models_are_written_as_directories(ran):
    written = {path.name for path in (ran[0] / "models" / "split_0").iterdir()}
    assert written == {"do_nothing", "npo", "retrain"}
    found = [decoders.read_decoder(ran[0] / "models" / "split_0" / name) for name in written]
    assert len({decoder.config.width for decoder, _ in found}) == 1
    norms = {float(optax.tree.norm(variables.params)) for _, variables in found}
    assert len(norms) == 3


def test_intervals_over_runs_are_of_all_forget_sets_and_seeds():
    random = np.random.default_rng(0)

    def record(method, part, seed, value):
        metric = reporting.Metric(value, unit="fraction")
        return reporting.Record(method, reporting.ForgetSet(part, 2), seed, {"rate": metric})

    values = {name: random.uniform(0.8, 1, size=(2, 5)) for name in ("retrain", "npo", "sam")}
    values["sam"] = values["npo"] - 0.1  # paired: the difference has no spread
    records = [
        record(name, f"split {k}", seed, found[k, seed])
        for name, found in values.items()
        for k in range(2)
        for seed in range(5)
    ]
    means, to_retrain, between = results.overview(records, ["rate", "absent"])
    cells = {row.label: row.cells[0] for row in means.rows}
    wanted = evaluation.t_interval(values["npo"].ravel())
    assert cells["npo"].n == 10 and cells["npo"].mean == pytest.approx(wanted.estimate)
    assert cells["npo"].low == pytest.approx(wanted.low) and cells["npo"].high <= 1
    difference = {row.label: row.cells[0].mean for row in to_retrain.rows}
    assert difference["npo"] == pytest.approx((values["npo"] - values["retrain"]).mean())
    assert "retrain" not in difference
    sam = {row.label: row.cells[0] for row in between.rows}["sam"]
    assert sam.mean == pytest.approx(-0.1) and sam.low is None, "equal values have no interval"


def test_a_second_run_trains_nothing_and_says_the_same(ran, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(ran[0], folder)
    (folder / "results.jsonl").unlink()

    def computing(*args, **kwargs):
        raise AssertionError("something is computed again")

    monkeypatch.setattr(storing.commits, "write", computing)
    ended = call("language", f"--workdir={folder}", *TINY)
    assert ended.returncode == 0, ended.stderr
    for name in ("results.jsonl", "relearning.svg"):
        assert (folder / name).read_bytes() == (ran[0] / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 3, 5])
def test_a_run_killed_behind_any_block_goes_on_to_the_same_bytes(
    ran, number, tmp_path, monkeypatch
):
    calls, write = [], storing.commits.write

    def killed(*args):
        calls.append(args)
        if len(calls) > number:
            raise KeyboardInterrupt
        return write(*args)

    monkeypatch.setattr(storing.commits, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        call("language", f"--workdir={tmp_path}/run", *TINY)
    monkeypatch.setattr(storing.commits, "write", write)
    kept = sorted((tmp_path / "run" / "ensembles").rglob("blocks/*"))
    times = [path.stat().st_mtime_ns for path in kept]
    ended = call("language", f"--workdir={tmp_path}/run", *TINY)
    assert ended.returncode == 0, ended.stderr
    assert len(kept) >= number and times == [path.stat().st_mtime_ns for path in kept]
    for name in ("results.jsonl", "relearning.svg"):
        assert (tmp_path / "run" / name).read_bytes() == (ran[0] / name).read_bytes()


def test_rows_are_what_they_say():
    task = make_task(small())
    (split,) = task.splits
    secret = np.asarray(split.forget.targets.secret) > 0
    assert (np.asarray(split.forget.targets.mask) == secret).all(), "secrets alone are scored"
    kept = np.asarray(split.retain.targets.mask)[np.asarray(split.retain.targets.secret) > 0]
    assert (kept == 10).all() and kept.size
    assert set(np.unique(np.asarray(split.retain.targets.mask))) == {0.0, 1.0, 10.0}
    assert split.weight.sum() == task.train.num_examples - split.forget.num_examples
    candidates = np.asarray(split.arrays["candidates"].inputs.tokens)
    first = candidates.reshape(2, 8, -1)[:, 0]
    rows = np.asarray(split.arrays["secrets"].inputs.tokens)
    assert all((row == rows).all(axis=1).any() for row in first), "the secret is the first one"
    shown, unseen = (np.asarray(x.inputs.tokens) for x in split.relearn[:2])
    assert len(unseen) == 1
    text = bytes(unseen[0][1:].astype(np.uint8)).decode()
    assert text[-10:] not in "".join(map(str, shown)), "what is measured is not shown"
    for row in shown:
        assert text[-10:].encode() not in bytes(row[row < 256].astype(np.uint8).tolist())


SETTINGS = {
    "rmu": {"layer": "block_0"},
    "pdu": {"tolerance": 0.1, "warmup_epochs": 1},
    "npo": {"sam": 0.1, "retain_term": "kl"},
    "ssd": {"alpha": 2.0},
    "code_eraser": {"epochs": 1},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(methods.METHODS))
def test_every_method_of_the_table_changes_models_of_secrets(name, tmp_path):
    config = small()
    arguments = dict(SETTINGS.get(name, {}))
    if name != "ssd":
        arguments["learning_rate"] = 1e-3
    with config.unlocked():
        config.methods = {name: arguments}
    task = make_task(config)
    (split,), folder = task.splits, study.Folder(tmp_path, 1, 1)
    before = jax.tree.map(lambda x: x[None], task.start(jax.random.key(0)))
    after = study.unlearned(task, split, folder, name, before)
    moved = [np.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, (before, after)))]
    assert np.isfinite(moved).all() and max(moved) > 0


def test_what_a_setting_does_not_name_is_the_default_of_its_method(monkeypatch):
    config = small()
    with config.unlocked():
        config.methods = {"mine": {"method": "simnpo", "learning_rate": 1e-3, "alpha": 2.0}}
    seen = {}
    real = methods.METHODS["simnpo"]

    @functools.wraps(real)
    def watching(model, **arguments):
        seen.update(arguments)
        return real(model, **arguments)

    monkeypatch.setitem(methods.METHODS, "simnpo", watching)
    methods.make_method(make_task(config), "mine")
    assert seen["recipe"].gamma == 0.125 and seen["recipe"].alpha == 2.0


def test_generated_code_follows_its_seed_alone():
    first, second = corpus.generated(0, files=2), corpus.generated(0, files=2)
    assert first == second != corpus.generated(1, files=2)
    assert first[0].startswith(b"def ") and max(first[0]) < 128
    assert corpus.plain("aß".encode()) == b"a??"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--methods=nosuch"], "expected a method of the configuration among npo, npo_sam"),
        (["--config.task=nosuch"], "expected a task of language models among secrets, authors"),
        (["--config", f"{ROOT}/experiments/configs/digits.py"], "found none; begin with"),
        (["--config.methods.npo.steps=0.5"], "steps"),
        (["--config.methods.npo_sam.sam=-1"], "from 0 to 1e6 as sam of 'npo_sam'"),
        (["--config.data.corpus=nosuch"], "corpus among generated, standard library"),
        (["--config.model.width=50"], "multiple of model.num_heads"),
        (["--config.data.secrets=3"], "at least 4 secrets"),
        (["--config.relearning.shown=4"], "fewer secrets in relearning.shown"),
        (["--config", f"{ROOT}/experiments/configs/language_tofu.py"], "model.directory"),
        (["--config.data.context=30"], "context"),
        (["--config.data.measured=20"], "measured"),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, said):
    assert said in refused("language", f"--workdir={tmp_path}/a", *arguments)
    assert not (tmp_path / "a").exists()


def test_help_teaches():
    ended = call("language", "--help")
    assert ended.returncode == 0
    for word in ("--methods", "--config.field.of.it=value", "picture: "):
        assert word in ended.stdout
    assert "relearn" in language.__doc__


@pytest.mark.slow
def test_secrets_are_memorized_forgotten_and_half_remembered(tmp_path):
    """The default run in small: what memorizes, what does not, what comes back."""
    ended = call("language", f"--workdir={tmp_path}", "--seeds=1")
    assert ended.returncode == 0, ended.stderr
    found = {r.method: r.metrics for r in reporting.read(tmp_path / "results.jsonl")}
    exposure = {name: metrics["exposure"].value for name, metrics in found.items()}
    assert exposure["do nothing"] == 7 and exposure["retrain"] < 3
    assert max(exposure["npo"], exposure["npo_sam"]) < 3.5
    after = {name: metrics["relearned NLL"].value for name, metrics in found.items()}
    assert after["do nothing"] < after["npo"] < min(after["npo_sam"], after["retrain"])
    back = {name: metrics["relearned exposure"].value for name, metrics in found.items()}
    assert back["npo"] > back["npo_sam"] + 1 and back["npo"] > back["retrain"] + 1
    assert found["npo"]["retained extraction"].value >= 0.75
