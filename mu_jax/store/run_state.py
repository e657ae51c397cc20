"""The state of a run on disk, so that a stopped statistic or fit resumes bit-identically."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mu_jax.store import commits
from mu_jax.store.leaves import PyTree, pack


class RunState(NamedTuple):
    """What `save_state` saved: the step, the state itself, and its metadata."""

    step: int
    tree: PyTree
    metadata: dict[str, Any]


def config_digest(config: Any) -> str:
    """SHA-256 of a configuration that JSON can hold; the order of its keys does not matter.

    Example:
        >>> config_digest({"alpha": 2, "seed": 0}) == config_digest({"seed": 0, "alpha": 2})
        True
    """
    canonical = json.dumps(commits.as_json(config, "a configuration"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def save_state(
    directory: str | os.PathLike[str],
    step: int,
    tree: PyTree,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Save the state of a run after `step` steps; the state saved before is then deleted.

    When it returns, the state is on stable storage. A process killed or a power loss in the middle
    leaves the state before, or the new one, whole: it is written and fsynced under another name
    (`directory/steps/00000100`), renamed, the folder fsynced, and only then the old one is deleted.
    The disk holds two states for that time. Non-finite values are saved like any other. On several
    hosts every process calls it, on a shared file system.

    Args:
        directory: one run's own; made when missing.
        step: more than at the last save.
        tree: pytree of arrays, keys and numbers: an accumulator, a fit's state, iterator positions.
        metadata: what JSON can hold; its `"config_digest"` guards against resuming with another
            configuration (`config_digest`, and the `config_digest` argument of `latest_state`).

    Raises:
        ValueError: the step is not after the last one, the last one is of another configuration,
            or tree or metadata cannot be stored; nothing was written.
    """
    packed = pack(tree)
    record = {"metadata": commits.as_json(dict(metadata or {}), "metadata")}
    root = commits.absolute(directory)
    if step < 0:
        raise ValueError(f"expected a step of 0 or more, found {step}; count the steps done")
    _require_successor(root, step, record["metadata"])
    steps = _steps(root)
    with commits.exclusive(root):
        old = commits.numbers(steps)
        commits.write(steps, step, packed, record)
        if jax.process_index() == 0:
            for number in old:
                commits.discard(steps, number)
    commits.synchronize(f"mu_jax.store.run_state.saved.{step}")


def latest_state(
    directory: str | os.PathLike[str], like: PyTree, *, config_digest: str | None = None
) -> RunState | None:
    """The state to resume from, or None for a run that has not saved one.

    Args:
        directory: as given to `save_state`.
        like: the state at the start of the run, or `jax.ShapeDtypeStruct`s; gives the structure,
            dtypes and shardings, on any mesh.
        config_digest: of the configuration about to resume; None skips the comparison.

    Raises:
        ValueError: the saved state is of another configuration, or of another structure; the
            sentence names the first differing leaf.
    """
    root = commits.absolute(directory)
    saved = commits.numbers(_steps(root))
    if not saved:
        return None
    step = saved[-1]
    metadata = _metadata(root, step)
    if config_digest is not None:
        _require_same_config(root, found=metadata.get("config_digest"), expected=config_digest)
    return RunState(step, commits.read(_steps(root), step, like), metadata)


def clear(directory: str | os.PathLike[str]) -> None:
    """Delete the saved state, so that the next run starts from the beginning.

    A missing directory or state is no error. A process killed in the middle leaves the latest
    state or none.
    """
    root = commits.absolute(directory)
    steps = _steps(root)
    commits.synchronize("mu_jax.store.run_state.clear.begin")
    if jax.process_index() == 0 and commits.exists(steps):
        with commits.exclusive(root):
            for number in commits.numbers(steps):
                commits.discard(steps, number)
    commits.synchronize("mu_jax.store.run_state.clear.end")


def _steps(root: Path) -> Path:
    return root / "steps"


def _metadata(root: Path, step: int) -> dict[str, Any]:
    return commits.read_metadata(_steps(root), step)["metadata"]


def _require_successor(root: Path, step: int, metadata: Mapping[str, Any]) -> None:
    saved = commits.numbers(_steps(root))
    if not saved:
        return
    if step <= saved[-1]:
        raise ValueError(
            f"expected a step after {saved[-1]}, the last one saved in {root}, found {step}; "
            "resume from latest_state, or call clear to start again"
        )
    found = _metadata(root, saved[-1]).get("config_digest")
    _require_same_config(root, found=found, expected=metadata.get("config_digest"))


def _require_same_config(root: Path, *, found: str | None, expected: str | None) -> None:
    if found != expected:
        raise ValueError(
            f"expected a state of configuration {expected} in {root}, found one of {found}; "
            "resume with the configuration that saved it, or call clear to start again"
        )
