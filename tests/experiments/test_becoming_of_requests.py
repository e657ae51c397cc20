"""What becomes of a request: served, withheld for inspection, overtaken; the binary in process."""

from __future__ import annotations

import pathlib
import shutil

import pytest

from experiments import train, unlearn
from experiments.lib.command_line import parse
from mu_jax.store.versions import Store


SLOW = pytest.mark.slow
pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")


def call(module, workdir: pathlib.Path, *arguments: str) -> int:
    """The exit code of a binary."""
    parse(module.FLAGS, ["binary", f"--workdir={workdir}", *arguments])
    try:
        module.main(["binary"])
    except SystemExit as end:
        return end.code or 0
    return 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("trained") / "run"
    assert call(train, workdir, "--config.limit=600", "--config.training.epochs=8") == 0
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize(
    "request_, arguments, reason",
    [
        ("class:3", ["--method=ssd"], None),
        pytest.param("random:0.05:seed=0", ["--method=ssd"], None, marks=SLOW),
        ("class:3", ["--method=iau"], "it has forgotten nothing: accuracy"),
        ("class:3", ["--method=ssd", "--set=alpha=1000"], "nothing: no weight changed"),
        pytest.param(
            "class:3",
            ["--method=finetune", "--set=epochs=0"],
            "nothing: no weight changed",
            marks=SLOW,
        ),
        pytest.param(
            "random:0.05",
            ["--method=finetune", "--set=learning_rate=0"],
            "no weight changed",
            marks=SLOW,
        ),
    ],
)
def test_a_request_that_did_nothing_is_not_served(workdir, capsys, request_, arguments, reason):
    code = call(unlearn, workdir, f"--request={request_}", *arguments)
    store = Store(workdir / "store")
    record = store.history()[-1]
    assert (code, store.serving()) == ((0, 2) if reason is None else (3, 1)), record
    assert record.parent == 1 and (reason or "") in record.withheld
    assert {"forget loss before", "forget loss"} <= set(record.metrics)
    if reason is None:
        assert record.withheld == ""
    else:
        assert reason in capsys.readouterr().out


def test_a_request_that_did_nothing_serves_where_it_is_wished(workdir):
    request = ["--request=class:3", "--set=alpha=1000", "--serve_anyway"]
    assert call(unlearn, workdir, *request) == 0
    store = Store(workdir / "store")
    assert store.serving() == 2 and "nothing" in store.history()[1].withheld
