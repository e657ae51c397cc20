"""Ensembles on disk: computed block by block, found again by the digest of their recipe."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import _files as files
from mu_jax import _json, _progress
from mu_jax.store import commits
from mu_jax.store.leaves import pack
from mu_jax.store.run_state import config_digest

PyTree = Any
_RECORD = "ensemble.json"


def stored(
    directory: str | os.PathLike[str],
    recipe: Mapping[str, Any],
    compute: Callable[..., PyTree],
    models: int,
    *frozen: PyTree,
    block: int = 16,
    pick: Callable[[PyTree], PyTree] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PyTree:
    """Results of models 0 to `models - 1`, stacked: read where stored, else computed and stored.

    A block of models is one call of the compiled `compute`, and is on stable storage before the
    next one starts: a stopped run goes on with the first block that is missing, a larger `models`
    adds blocks to those that are there, and another call with the same recipe computes nothing.

    Args:
      directory: holds any number of ensembles; each has a folder named by its digest, with the
        recipe in `ensemble.json` and a numbered checkpoint for every block.
      recipe: what JSON can hold and tells one ensemble from another: dataset, architecture,
        training, the digest of the forget set, seeds. The bytes of `frozen` count as well, so that
        other data never meet a stored result.
      compute: pure and traceable, `(numbers, *frozen) -> tree` with a leading axis of one entry
        for each of `numbers`, i32[block]. What it says of model j must depend on j and `frozen`
        only (derive keys by `jax.random.fold_in(key, j)`).
      models: how many; the last block is computed whole and trimmed.
      *frozen: pytrees of arrays, handed to `compute` as arguments.
      block: models in one program. An ensemble keeps the size with which it was begun.
      pick: which part of each block's tree to return (only the outputs of large models, say).
      progress: called as `progress(done, models)` after every block that had to be computed;
        `mu.progress` shows the same on a terminal or in a log.

    Returns:
      A tree of numpy arrays `[models, ...]`.

    Raises:
      ValueError: fewer than one model, a recipe that JSON cannot hold, or results without a
        leading axis of models; nothing is then written. A block or a record that is damaged.

    Cost: `compute` for what is missing; memory of one block and of what is returned.

    Note: one process at a time computes; another one with the same recipe waits, and reads. In a
      bucket, which has no locks, both compute, and one of them stores.

    Example:
      >>> import tempfile
      >>> folder = tempfile.mkdtemp()
      >>> draw = lambda numbers, x: jax.vmap(lambda j: j * x)(numbers)
      >>> stored(folder, {"what": "multiples"}, draw, 3, jnp.ones(()), block=2)
      array([0., 1., 2.], dtype=float32)
    """
    if models < 1 or block < 1:
        raise ValueError(
            f"expected at least one model in blocks of at least one, found models={models} and "
            f"block={block}: give positive numbers"
        )
    folder, record = _identify(directory, recipe, frozen)
    with commits.exclusive(folder):
        block = _begin(folder, record, block)
        numbers = jax.ShapeDtypeStruct((block,), jnp.int32)
        shapes = jax.eval_shape(compute, numbers, *frozen)
        _check_shapes(shapes, block)
        blocks = folder / "blocks"
        wanted = range(-(-models // block))
        missing = sorted(set(wanted) - set(commits.numbers(blocks)))
        program = jax.jit(compute).lower(numbers, *frozen).compile() if missing else None
        there = models - sum(min(block, models - number * block) for number in missing)
        with _progress.work("", models, "model", there) as computing:
            for number in missing:
                first, start = number * block, time.monotonic()
                members = jnp.arange(block, dtype=jnp.int32) + first
                result = jax.block_until_ready(program(members, *frozen))  # type: ignore[misc]
                seconds = time.monotonic() - start
                # In a bucket another process may have stored the same block meanwhile.
                with contextlib.suppress(FileExistsError):
                    about = {"first": first, "seconds": seconds}
                    commits.write(blocks, number, pack(result), about)
                computing.step(min(block, models - first))
                if progress is not None:
                    progress(min(models, first + block), models)
    like = jax.tree.map(lambda s: np.empty(s.shape, s.dtype), shapes)
    pick = pick or (lambda tree: tree)
    parts = [pick(_read(blocks, number, like)) for number in wanted]
    return jax.tree.map(lambda *xs: np.concatenate(xs)[:models], *parts)


def seconds_per_model(
    directory: str | os.PathLike[str], recipe: Mapping[str, Any], *frozen: PyTree
) -> float | None:
    """What a model of a stored ensemble has cost when it was computed, in seconds.

    The mean over the blocks, each one program of several models, without its compilation. It is a
    time of that machine in that hour.

    Args:
      directory, recipe, frozen: as for `stored`.

    Returns:
      Seconds; None where nothing is stored, or by a version that kept no time.

    Example:
      >>> import tempfile
      >>> folder = tempfile.mkdtemp()
      >>> seconds_per_model(folder, {"what": "multiples"}) is None
      True
      >>> _ = stored(folder, {"what": "multiples"}, lambda numbers: 2 * numbers, 3)
      >>> seconds_per_model(folder, {"what": "multiples"}) > 0
      True
    """
    folder, _ = _identify(directory, recipe, frozen)
    if not files.is_file(folder / _RECORD):
        return None
    blocks, size = folder / "blocks", _block_size(folder / _RECORD)
    kept = [commits.read_metadata(blocks, number) for number in commits.numbers(blocks)]
    seconds = [float(each["seconds"]) for each in kept if "seconds" in each]
    return sum(seconds) / len(seconds) / size if seconds else None


def _identify(directory: Any, recipe: Mapping[str, Any], frozen: tuple) -> tuple[Path, dict]:
    """The ensemble's folder, and the record that is kept in it."""
    record = {
        "recipe": commits.as_json(dict(recipe), "a recipe"),
        "arrays": _digest(frozen),
    }
    return commits.absolute(directory) / config_digest(record)[:16], record


def _digest(tree: PyTree) -> str:
    """SHA-256 of the leaves of a tree, with their paths, shapes and dtypes."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def _begin(folder: Path, record: dict, block: int) -> int:
    """The block size of the ensemble in `folder`, which is begun if it is new."""
    path = folder / _RECORD
    return block if files.create_json(path, record | {"block": block}) else _block_size(path)


def _block_size(path: Path) -> int:
    """How many models are in a block, as the record of the ensemble says."""
    try:
        found = _json.parse(files.read_text(path))["block"]
    except (ValueError, KeyError, TypeError):
        found = None
    if type(found) is not int or found < 1:
        raise ValueError(
            f"expected the record of an ensemble in {path}, found a damaged or another file: "
            f"delete the folder {path.parent}, and the ensemble is computed again"
        )
    return found


def _read(blocks: Path, number: int, like: PyTree) -> PyTree:
    """A block that is complete by its name, or one sentence that it is not."""
    try:
        return commits.read(blocks, number, like)
    except Exception as error:  # whatever the reader of the arrays meets in a damaged file
        if str(error).startswith("expected "):
            raise
        folder = commits.path_of(blocks, number)
        raise ValueError(
            f"expected the arrays of {len(jax.tree.leaves(like))} leaves in {folder}, found them "
            f"damaged ({type(error).__name__}): delete this folder, and its models are computed "
            "again"
        ) from error


def _check_shapes(shapes: PyTree, block: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        if leaf.shape[:1] != (block,):
            raise ValueError(
                f"expected results with a leading axis of {block} models, found shape "
                f"{leaf.shape} at {jax.tree_util.keystr(path) or 'the root'}: map over the numbers"
            )
