"""Watching the loops of a run: progress on a terminal, and resuming after a stop."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mu_jax.loops.scan import observe
from mu_jax.store import commits
from mu_jax.store.run_state import clear, config_digest, latest_state, save_state

PyTree = Any


@contextlib.contextmanager
def resumable(
    directory: str | os.PathLike[str], *, config: Any, min_seconds: float = 10.0
) -> Iterator[None]:
    """Make every loop in this block resume where a stopped run left it, bit-identically.

    A transform or a training run called in the block, outside `jit`, is a fixed sequence of loops
    over batches. Each loop's carry (sums, parameters, optimizer state, keys) is saved as the loop
    goes, at most every `min_seconds`, and at its end. A second run of the same block takes finished
    loops from the disk and enters the unfinished one in its middle. The states are deleted when
    the block ends without an error.

    Args:
      directory: the run's own; made when missing.
      config: what JSON can hold and what determines the run (flags, digest of the forget ids);
        resuming with another one is refused.
      min_seconds: shortest time between two saves within a loop.

    Raises:
      ValueError: the directory holds the state of another configuration.

    Cost: one copy of the carry on disk for each loop of the block.

    Example:
      >>> import tempfile, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> data = mu.batches(jnp.eye(2), jnp.array([1.0, 3.0]), batch_size=1)
      >>> with tempfile.TemporaryDirectory() as d, mu.resumable(d, config={"seed": 0}):
      ...     acc = mu.collect(mu.statistics.mean_gradient(model), mu.Variables(jnp.ones(2)), data)
      >>> acc.value
      Array([ 0., -2.], dtype=float32)
    """
    journal = _Journal(commits.absolute(directory), config_digest(config), min_seconds)
    with observe(journal):
        yield
    journal.clear()


class _Journal:
    """Saves the carry of every loop, under the loop's number in the run."""

    def __init__(self, directory: Path, digest: str, min_seconds: float):
        self._directory, self._digest, self._min_seconds = directory, digest, min_seconds
        self._loop = -1
        self._restart(0)

    def _restart(self, position: int) -> None:
        self._saved_at, self._saved_position = time.monotonic(), position
        self._advances, self._next_look = 0, 1

    def _place(self) -> Path:
        return self._directory / f"loop-{self._loop:04d}"

    def begin(self, total: int | None, carry: PyTree, position: int) -> tuple[PyTree, int]:
        self._loop += 1
        found = latest_state(self._place(), carry, config_digest=self._digest)
        if found is not None:
            carry, position = found.tree, found.step
        self._restart(position)
        return carry, position

    def advance(self, carry: PyTree, position: int) -> None:
        """Save if it is time. All processes save or none: the first says when to look again."""
        self._advances += 1
        if self._advances < self._next_look:
            return
        passed = time.monotonic() - self._saved_at
        each = passed / self._advances
        left = math.ceil((self._min_seconds - passed) / max(each, 1e-9))
        wait = commits.agree(min(max(left, 0), self._advances))
        self._next_look = self._advances + wait
        if wait == 0:
            self._save(carry, position)

    def end(self, carry: PyTree, position: int) -> None:
        if position > self._saved_position:
            self._save(carry, position)

    def _save(self, carry: PyTree, position: int) -> None:
        save_state(self._place(), position, carry, {"config_digest": self._digest})
        self._restart(position)

    def clear(self) -> None:
        for loop in range(self._loop + 1):
            self._loop = loop
            clear(self._place())
