"""Runs that were stopped: what decides their result, a folder of state for each, and its claim.

    run = describe(states, "unlearn --request=class:3", task, seed=0, parent=1)
    with alone(run, restart=False) as claim, mu.resumable(run.folder, config=run.decides):
        ...  # compute
        claim.require_held()
        ...  # publish, with identity=run.identity

The state of a run lies in a folder of its own, so that a stopped run is in the way of no other, and
it is deleted when the block ends: after the publish, not before. A run that was killed between the
two finds its version by `store.find(run.identity)`. All of it may lie in a bucket.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

import mu_jax as mu
from experiments.lib.tasks import Task
from mu_jax import _files as files
from mu_jax import _json
from mu_jax.store import claims
from mu_jax.store.claims import Claim

_RECORD = "RUN.json"  # what, since, decides
_ELSEWHERE = ("data_dir", "methods")  # the data and the arguments of the method are told by value


class Run(NamedTuple):
    """What a binary is asked for.

    what: in words. decides: all that decides the result. identity: its digest.
    folder: where its state lies.
    """

    what: str
    decides: dict[str, Any]
    identity: str
    folder: pathlib.Path


def describe(states: pathlib.Path, what: str, task: Task, **further: Any) -> Run:
    """A run with everything that decides its result.

    That is the configuration, the training examples by value, the table of their ids, the versions
    of the library and of JAX, and what the binary adds: the seed, the parent and its digest,
    method, arguments, ids.

    Args:
      states: folder of the states of all runs. what: the run in words.
    """
    config = json.loads(task.config.to_json_best_effort())
    table = task.sources["train"].ids if "train" in task.sources else None
    decides = {
        "config": {name: value for name, value in config.items() if name not in _ELSEWHERE},
        "data": fingerprint((task.train.inputs, task.train.targets, task.train.index)),
        "mu_jax": mu.__version__,
        "jax": jax.__version__,
        **({} if table is None else {"ids": table.digest}),
        **further,
    }
    decides = json.loads(json.dumps(decides))
    identity = mu.store.config_digest(decides)
    return Run(what, decides, identity, states / identity[:16])


def fingerprint(tree: Any) -> str:
    """SHA-256 of the arrays of a tree, their shapes and dtypes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(array.data if array.dtype.isbuiltin else array.tobytes())
    return found.hexdigest()


@contextlib.contextmanager
def alone(run: Run, *, restart: bool) -> Iterator[Claim]:
    """No other process does the same run; stopped runs are named; the state goes at the end.

    After an error the state stays, if there is any.

    Args:
      restart: delete the states of this and of all stopped runs first.

    Raises:
      BlockingIOError: another process is at this run.
    """
    with locked(run.folder, run.what) as claim:
        if jax.process_index() == 0:
            _begin(run, claim, restart)
        yield claim
        claim.clear()


@contextlib.contextmanager
def locked(folder: pathlib.Path, what: str) -> Iterator[Claim]:
    """One process at a time; another one is told at once. No folder without a state is left.

    Raises:
      BlockingIOError: another process is there.
    """
    report = functools.partial(print, flush=True)
    with claims.claimed(folder, what, report=report) as claim:
        try:
            yield claim
        finally:
            if not _has_state(claim):
                claim.clear()


def _begin(run: Run, claim: Claim, restart: bool) -> None:
    for name in files.names(run.folder.parent):
        if name != run.folder.name:
            _look_at(run, run.folder.parent / name, restart)
    if restart:
        for name in claim.names():
            files.discard(run.folder / name)
    if (old := _read(run.folder)) is not None and _has_state(claim):
        print(f"Going on with the run that was stopped, begun {old['since']}", flush=True)
        return
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    record = {"what": run.what, "since": since, "decides": run.decides}
    files.replace_json(run.folder / _RECORD, record)


def _look_at(run: Run, folder: pathlib.Path, restart: bool) -> None:
    """Name another run if it is a stopped one, or delete its state."""
    # A claim that is not free: it goes on, and is not stopped. Other errors: it is no folder.
    with contextlib.suppress(NotADirectoryError, FileExistsError), claims.free(folder) as claim:
        if claim is None:
            return
        if restart or not claim.names():
            claim.clear()
        elif (found := _read(folder)) is not None:
            print(_sentence(run, found), flush=True)


def _has_state(claim: Claim) -> bool:
    return any(name.startswith("loop-") for name in claim.names())


def _sentence(run: Run, found: dict[str, Any]) -> str:
    """On a stopped run, and why this one does not go on with it."""
    same = all(run.decides.get(name) == found["decides"].get(name) for name in ("forget", "method"))
    differing = _differences(run.decides, found["decides"])
    new = f"; this is a new run, since {', '.join(differing)} changed" if same else ""
    return (
        f"A stopped run is pending since {found['since']}: {found['what']}; give its command again "
        f"to go on with it, or add --restart to delete its state{new}"
    )


def _differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Names of the settings that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            text
            for key in sorted({*one, *other})
            for text in _differences(one.get(key), other.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if one == other else [name]


def _read(folder: pathlib.Path) -> dict[str, Any] | None:
    try:
        found = _json.parse(files.read_text(folder / _RECORD))
        return found if {"what", "since", "decides"} <= set(found) else None
    except (OSError, ValueError, TypeError):
        return None
