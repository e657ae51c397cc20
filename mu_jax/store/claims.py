"""Claims: one process at a time does a piece of work, and a dead one is in nobody's way.

    with claims.claimed(folder, "training in runs/digits") as claim:
        ...  # compute
        claim.require_held()
        ...  # commit

On a file system a claim is the lock of the folder, which the kernel frees when its holder dies. In
a bucket it is the object `CLAIM` in the folder: written only if there is none, renewed every `BEAT`
seconds by a thread, deleted at the end. A claim that was not renewed for `LEASE` seconds belongs to
a process that died; the next process takes it over, on condition that nobody else has meanwhile.

A claim saves work and tells a second process at once; it does not guard data, since a process that
stood still for longer than the lease, or two machines whose clocks differ by more, work at once.
What they then commit are conditional writes (`commits`), and they ask `require_held` before.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from mu_jax import _files as files
from mu_jax import _json
from mu_jax import _objects as objects
from mu_jax.store import commits

LEASE = 60.0  # seconds without a renewal after which a claim in a bucket is a dead process's
BEAT = 10.0  # seconds between two renewals
_CLAIM = "CLAIM"
_LOCK = ".lock"


class Claim:
    """What the holder of a claim may ask and do; on a file system its lock is always held."""

    def __init__(self, folder: Path, what: str = "") -> None:
        self.folder, self._what = folder, what

    def held(self) -> bool:
        """Whether no other process has taken the claim over; asks the bucket."""
        return True

    def require_held(self) -> None:
        """Refuse to go on after another process took the claim over; all processes call it.

        Raises:
            BlockingIOError: another process has it.
        """
        mine = jax.process_index() != 0 or self.held()
        if not commits.agree(int(mine)):
            raise BlockingIOError(
                f"expected to be the only process at {self._what}, found that another one took it "
                "over while this one stood still; wait until that one has ended"
            )

    def names(self) -> list[str]:
        """Names of what lies in the folder beside the claim."""
        return [name for name in files.names(self.folder) if name not in (_CLAIM, _LOCK)]

    def clear(self) -> None:
        """Delete what lies in the folder; on a file system the folder too. Process 0 does it."""
        if jax.process_index() != 0:
            return
        if not files.in_bucket(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
        elif self.held():
            for name in self.names():
                objects.delete(self.folder / name)


@contextlib.contextmanager
def claimed(
    folder: Path, what: str, *, report: Callable[[str], object] = lambda sentence: None
) -> Iterator[Claim]:
    """Hold the claim of a folder for the time of the block; all processes call it together.

    In a bucket a claim that is there may be a dead process's: this waits until the claim is renewed
    (refused then, after `BEAT` seconds at most) or its lease is over (taken over then).

    Args:
        folder: of the work; made on a file system.
        what: the work in words, for the sentences.
        report: called with a sentence before it waits.

    Raises:
        BlockingIOError: another process has it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as root:
        ...     with claimed(Path(root, "run"), "a run"), free(Path(root, "run")) as second:
        ...         print(second)
        None
    """
    with contextlib.ExitStack() as stack:
        found: Claim | None = Claim(folder, what)
        if jax.process_index() == 0:
            found = stack.enter_context(_attempt(folder, what, report))
        if not commits.agree(int(found is not None)):
            raise BlockingIOError(
                f"expected one process at a time for {what}, found that another one is at it; "
                "wait until it has ended"
            )
        assert found is not None
        yield found


@contextlib.contextmanager
def free(folder: Path) -> Iterator[Claim | None]:
    """The claim of a folder, or None if another process has or had it a moment ago; never waits."""
    with _attempt(folder, "", None) as claim:
        yield claim


@contextlib.contextmanager
def _attempt(
    folder: Path, what: str, report: Callable[[str], object] | None
) -> Iterator[Claim | None]:
    if files.in_bucket(folder):
        lease = _Lease(folder, what)
        if not (lease.take() or (report is not None and lease.take_from_dead(report))):
            yield None
            return
        with lease.kept():
            yield lease
        return
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(files.exclusive(folder, wait=False))
        except BlockingIOError:
            yield None
            return
        yield Claim(folder, what)


class _Lease(Claim):
    """A claim in a bucket: an object with a token of its holder, and the thread that renews it."""

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(folder, what)
        self._path, self._token = folder / _CLAIM, secrets.token_hex(8)
        self._beats, self._ended = 0, threading.Event()

    def held(self) -> bool:
        return self._mine()[0]

    def take(self) -> bool:
        """Take a claim that nobody has, or that a dead process had; whether that worked."""
        data, generation = objects.read(self._path)
        if data is not None and objects.age(self._path) < LEASE:
            return False
        return self._write(generation)

    def take_from_dead(self, report: Callable[[str], object]) -> bool:
        """Watch a claim until it is renewed or its lease is over; whether it was taken then."""
        seen = objects.read(self._path)[1]
        report(
            f"Another process is or was at {self._what}; if it was stopped, this one goes on in "
            f"{LEASE:.0f} seconds"
        )
        while not self.take():
            if objects.read(self._path)[1] not in (0, seen):
                return False
            time.sleep(min(1.0, BEAT / 4))
        return True

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Renew the claim for the time of the block, and give it up at its end."""
        thread = threading.Thread(target=self._renew, name="mu_jax claim", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            mine, generation = self._mine()
            if mine:
                objects.remove(self._path, generation=generation)

    def _renew(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(Exception):  # the network's; the next beat tries again
                mine, generation = self._mine()
                if not (mine and self._write(generation)):
                    return

    def _mine(self) -> tuple[bool, int]:
        """Whether the claim is this process's, and its generation."""
        data, generation = objects.read(self._path)
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return _json.parse(data or b"")["holder"] == self._token, generation
        return False, generation

    def _write(self, generation: int) -> bool:
        self._beats += 1
        text = files.as_text({"holder": self._token, "beat": self._beats, "what": self._what})
        return objects.write(self._path, text.encode(), generation=generation)
