"""Watching the loops of a run: progress on a terminal, and resuming after a stop."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from mu_jax import durable
from mu_jax.folding import observe
from mu_jax.run_state import clear, config_digest, latest_state, save_state

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
    journal = _Journal(durable.absolute(directory), config_digest(config), min_seconds)
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
        wait = durable.agree(min(max(left, 0), self._advances))
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


@contextlib.contextmanager
def progress(label: str) -> Iterator[None]:
    """Show on stderr how far the loops in this block are: a bar on a terminal, else lines.

    Lines come every ten seconds, from process 0 only. Loops inside `jit` cannot be watched.
    """
    if jax.process_index() != 0:
        yield
        return
    watch = _Bar(label) if sys.stderr.isatty() else _Lines(label)
    with watch, observe(watch):
        yield


class _Lines:
    """One line every ten seconds."""

    def __init__(self, label: str):
        self._label, self._printed_at = label, time.monotonic()
        self._total: int | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass

    def begin(self, total: int | None, carry: PyTree, position: int) -> tuple[PyTree, int]:
        self._total = total
        return carry, position

    def advance(self, carry: PyTree, position: int) -> None:
        if time.monotonic() - self._printed_at < 10:
            return
        # The loop runs ahead of its results: wait for them, or the line says what is not yet done.
        jax.block_until_ready(carry)
        self._printed_at = time.monotonic()
        of = "" if self._total is None else f" of {self._total}"
        print(f"{self._label}: {position}{of} batches", file=sys.stderr, flush=True)

    def end(self, carry: PyTree, position: int) -> None:
        pass


class _Bar:
    """A bar that is drawn anew for each loop and vanishes at the end."""

    def __init__(self, label: str):
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(stderr=True), transient=True)
        self._task = self._progress.add_task(label, total=None)

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def begin(self, total: int | None, carry: PyTree, position: int) -> tuple[PyTree, int]:
        self._progress.reset(self._task, total=total, completed=position)
        return carry, position

    def advance(self, carry: PyTree, position: int) -> None:
        jax.block_until_ready(carry)
        self._progress.update(self._task, completed=position)

    def end(self, carry: PyTree, position: int) -> None:
        pass
