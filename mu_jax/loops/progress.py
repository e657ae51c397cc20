"""Progress of the loops on stderr: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax

from mu_jax._extras import extra
from mu_jax.loops.scan import observe

PyTree = Any


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
        with extra("tables"):
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
