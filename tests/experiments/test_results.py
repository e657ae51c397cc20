"""What binaries leave: every number is that of the arrays beside it, and runs say what they are."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from recomputed import assert_equal, of_ensemble

from experiments.configs import digits
from experiments.lib import tables
from experiments.lib.populations import everything, positions
from experiments.lib.results import beside, digest_of, earlier, study_arrays, write_results
from experiments.lib.rows import Row, Study
from experiments.lib.tasks import make_task, read_ids
from mu_jax import evaluation, reporting
from mu_jax.reporting import Arrays, ForgetSet, Record, Run
from mu_jax.scoring.ensembles import Yardstick

MODELS = 22


@pytest.fixture(scope="module")
def task():
    config = digits.get_config()
    config.limit = 300
    return make_task(config)


def some_study(task, *, loaded: bool) -> Study:
    """A study whose outputs are drawn, better where a row knows the labels."""
    targets = np.asarray(everything(task).targets)
    random = np.random.default_rng(0)

    def outputs(knowledge):
        noise = random.normal(size=(MODELS, targets.size, 10))
        return (noise + knowledge * np.eye(10)[targets]).astype(np.float32)

    others, retrained = outputs(2), outputs(2)
    oracles = outputs(2)[:-1] if loaded else others
    where = positions(task, read_ids(task, "class:3"))
    found = Yardstick(
        targets, where, np.asarray(evaluation.margins(oracles, targets)), retrained, others
    )
    constant = np.broadcast_to(outputs(0)[0, 0], (MODELS, targets.size, 10))
    rows = [
        Row("retrain", retrained),
        Row("do nothing", outputs(4)),
        Row("constant", constant),
        Row("ssd", outputs(1)),
    ]
    return Study(task, found, rows)


@pytest.mark.parametrize("loaded", [False, True])
def test_records_of_a_study_are_functions_of_the_arrays_beside_them(task, tmp_path, loaded):
    study, forget_set = some_study(task, loaded=loaded), ForgetSet("class 3", 15)
    records = tuple(tables.records(study, forget_set))
    path = tmp_path / "results.jsonl"
    write_results(path, Run(records, {"class 3": study_arrays(study)}, "1f"))
    run = reporting.read_run(path)
    rows = run.arrays["class 3"].examples
    assert ("oracles" in rows) == loaded and len(rows["constant"]["test"].losses) == 1
    assert len(rows["retrain"]["test"].losses) == 2 * MODELS
    for record in run.records:
        assert_equal(record, of_ensemble(rows, record.method, MODELS))
    if loaded:  # of margins alone, the losses are those of the models
        where = study.yardstick.positions["forget"]
        again = study_arrays(
            dataclasses.replace(study, rows=[*study.rows, Row("same", study.yardstick.others)])
        ).examples["same"]["forget"]
        margins = evaluation.margins(
            study.yardstick.others[:, where], study.yardstick.targets[where]
        )
        np.testing.assert_allclose(np.logaddexp(0, -margins), again.losses, rtol=2e-4, atol=2e-6)


def test_a_digest_is_of_what_decides_the_numbers():
    config, same, other = (digits.get_config() for _ in range(3))
    same.data_dir = "/elsewhere"
    other.methods.ssd.alpha = 3.0
    digest = digest_of(config, seeds=3, request="class:3")
    assert digest == digest_of(same, request="class:3", seeds=3) and len(digest) == 16
    assert digest != digest_of(other, seeds=3, request="class:3")
    assert digest != digest_of(config, seeds=4, request="class:3")


def test_a_run_goes_on_beside_what_a_stopped_one_of_its_configuration_left(tmp_path):
    def run(*kinds, digest="1f"):
        records = tuple(
            Record("ssd", ForgetSet(kind, 2), seed) for kind in kinds for seed in (0, 1)
        )
        arrays = {kind: Arrays({}, others={kind: np.arange(2)}) for kind in kinds}
        return Run(records, arrays, digest)

    path = tmp_path / "results.jsonl"
    assert earlier(path, "1f").records == ()
    write_results(path, run("one", "two"))
    assert earlier(path, "2e").records == ()
    write_results(path, beside(earlier(path, "1f"), run("one")))
    found = reporting.read_run(path)
    assert [r.forget_set.kind for r in found.records] == ["one", "one", "two", "two"]
    assert list(found.arrays) == ["one", "two"]
    (tmp_path / "results.npz").write_bytes(b"damaged")
    assert earlier(path, "1f").records == ()
