"""What every binary shares: exit codes, stages, and the files of a working directory."""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from absl import logging
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib import configurations
from experiments.lib.sentences import refuse
from mu_jax import _files as files
from mu_jax import _progress, ensembles, reporting
from mu_jax._paths import absolute


@contextlib.contextmanager
def exit_with_sentence() -> Iterator[None]:
    """Turn bad input into one line on stderr and exit code 2; a bug keeps its traceback."""
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    except (ValueError, OSError) as error:
        refuse(error)


@contextlib.contextmanager
def stage(label: str) -> Iterator[None]:
    """Show progress of one stage, and one line with its time when it is done."""
    start = time.monotonic()
    with mu.progress(label):
        yield
        _progress.say(f"  {label}: {time.monotonic() - start:.1f} s")


def stored(label: str, *arguments: Any, **options: Any) -> Any:
    """`mu_jax.ensembles.stored` with its progress, and a line with its time if it has computed."""
    start, computed = time.monotonic(), False

    def note(done: int, total: int) -> None:
        nonlocal computed
        computed = True

    with mu.progress(label):
        found = ensembles.stored(*arguments, progress=note, **options)
        if computed:
            _progress.say(f"  {label}: {time.monotonic() - start:.1f} s")
    return found


def keep_programs(folder: pathlib.Path) -> None:
    """Keep compiled programs, unless the environment says where: cases share most of them."""
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", os.fspath(absolute(folder)))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def write_records(path: pathlib.Path, records: Iterable[reporting.Record]) -> pathlib.Path:
    """Write records as JSON lines in place of what was there, all or nothing."""
    _replace(path, "".join(reporting.to_json(record) + "\n" for record in records))
    return path


def write_config(workdir: pathlib.Path, config: ConfigDict) -> None:
    """Keep the configuration of a run beside its results."""
    _replace(workdir / "config.json", config.to_json_best_effort(indent=2) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text in place of what was there, all or nothing."""
    _replace(path, text)


def _replace(path: pathlib.Path, text: str) -> None:
    """Process 0 writes for all: a bucket takes one write a second of one object."""
    if jax.process_index() == 0:
        files.replace_text(path, text)


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The configuration with which the model in `workdir` was trained."""
    try:
        return configurations.read(workdir / "config.json")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"expected a trained model in {workdir}, found no config.json there; train one with "
            f"python -m experiments.train --workdir={workdir}"
        ) from None
