"""A model that a few epochs have trained, for tests of the binaries that unlearn."""

from __future__ import annotations

import shutil

import pytest
from in_process import call


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The working directory of `experiments.train` on 600 digits; tests that write take a copy."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    short = ["--config.limit=600", "--config.training.epochs=8"]
    ended = call("train", f"--workdir={workdir}", *short)
    assert ended.returncode == 0, ended
    return workdir


@pytest.fixture
def workdir(trained, tmp_path):
    """A copy of `trained` of the test's own."""
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"
