"""Claims on trials by many processes on many machines, through nothing but a shared folder.

Every trial has a folder of its own. `claim.3` in it is the third attempt: who makes it, with a
heartbeat in its modification time. `error.3` says how that attempt failed, `result` is what came of
the trial. Each is written under another name and then linked to its own, which succeeds for one
process alone and never replaces anything; no file is changed or deleted afterwards.

What is promised, on a local disk, NFS and other file systems with atomic hard links:

* A trial has at most one result, whole and on stable storage, whatever is killed and whenever. This
  rests on the link alone: a second finisher's result is discarded.
* A claim outlives its process. On the same machine the kernel then frees its lock, and the trial is
  free at once; on another machine, when the heartbeat has stood still for a lease as measured by
  the watcher's own clock (clocks need not agree). A process that was only asleep may go on and
  finish; then the first result counts.

A folder without hard links (an object store that is mounted, such as GCS through FUSE) is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

State = Literal["open", "running", "done", "failed"]
BEATS = 10  # heartbeats in a lease


class Limits(NamedTuple):
    """How many attempts at a trial may end in an error, and how many in the death of the process.

    Deaths are mostly preemptions, which are nobody's fault; their limit is there for a trial that
    takes its machine down.
    """

    errors: int = 2
    deaths: int = 50


class Claim(NamedTuple):
    """One attempt at a trial: its folder and number."""

    folder: Path
    number: int

    def finish(self, result: str) -> bool:
        """Publish the result; False if another process has done so before."""
        written = _publish(self.folder / "result", result)
        for scrap in self.folder.glob(".*"):  # of killed processes, or of one that comes too late
            scrap.unlink(missing_ok=True)
        return written

    def fail(self, error: str) -> None:
        """Say how this attempt failed."""
        _publish(self.folder / f"error.{self.number}", error)


class Claims:
    """The claims, errors and results in a folder, as one process sees them.

    Args:
      folder: shared by all; made when missing.
      lease_s: seconds without a heartbeat after which others may take over what this process has
        claimed. Above a minute on NFS, whose clients see changes that late.
      limits: see `Limits`.

    Raises:
      ValueError: the file system has no hard links or no locks.
    """

    def __init__(self, folder: Path, *, lease_s: float = 300.0, limits: Limits | None = None):
        self.folder = Path(folder)
        self.lease_s = lease_s
        self.limits = Limits() if limits is None else limits
        self._beats: dict[Path, tuple[int, float]] = {}
        _check_links(self.folder)

    def state(self, name: str) -> State:
        """Whether a trial can be claimed, is claimed by a living process, or has ended."""
        return self._look(self.folder / name)[0]

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[Claim | None]:
        """The next attempt at a trial for as long as the block runs; None if there is none to make.

        A claim that is left without a result or an error counts as a death.
        """
        folder = self.folder / name
        state, number = self._look(folder)
        if state != "open":
            yield None
            return
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"claim.{number + 1}"
        holder = {"machine": machine(), "host": socket.gethostname(), "pid": os.getpid()}
        with _written(path, json.dumps({**holder, "lease_s": self.lease_s})) as file:
            # Locked before it has its name: nobody ever sees a living claim without the lock.
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever held the claim before has published before it let go.
            if not _link(Path(file.name), path) or (folder / "result").exists():
                yield None
                return
            with _heartbeat(file.fileno(), self.lease_s / BEATS):
                yield Claim(folder, number + 1)

    def result(self, name: str) -> str | None:
        """What came of a trial; None if it has not ended well."""
        with contextlib.suppress(FileNotFoundError):
            return (self.folder / name / "result").read_text("utf-8")
        return None

    def errors(self, name: str) -> list[str]:
        """How the attempts at a trial failed, in order."""
        numbers = _numbers(self.folder / name, "error")
        return [(self.folder / name / f"error.{i}").read_text("utf-8") for i in numbers]

    def deaths(self, name: str) -> int:
        """How many attempts ended without a word."""
        folder = self.folder / name
        last = self._look(folder)[0] in ("running", "done")
        return len(_numbers(folder, "claim")) - len(_numbers(folder, "error")) - last

    def _look(self, folder: Path) -> tuple[State, int]:
        """The state of a trial, and the number of its last attempt."""
        attempts, errors = _numbers(folder, "claim"), _numbers(folder, "error")
        last = attempts[-1] if attempts else 0
        if (folder / "result").exists():
            return "done", last
        if last and last not in errors and self._alive(folder / f"claim.{last}"):
            return "running", last
        over = len(errors) >= self.limits.errors
        over |= len(attempts) - len(errors) >= self.limits.deaths
        if not over:
            return "open", last
        # The attempt that was running a moment ago may have published just now.
        return ("done" if (folder / "result").exists() else "failed"), last

    def _alive(self, path: Path) -> bool:
        holder = json.loads(path.read_text())
        if holder["machine"] == machine():
            return _is_locked(path)
        beat, now = path.stat().st_mtime_ns, time.monotonic()
        seen = self._beats.setdefault(path, (beat, now))
        if seen[0] != beat:
            self._beats[path] = (beat, now)
            return True
        return now - seen[1] < holder["lease_s"]


def machine() -> str:
    """Tells kernels apart: file locks of processes on one of them are exact."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def replace(path: Path, text: str) -> None:
    """Put a whole file in place of what was there; any number of processes may do it at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _written(path, text) as file:
        os.replace(file.name, path)


def _numbers(folder: Path, kind: str) -> list[int]:
    """The numbers of the files of one kind, ascending."""
    return sorted(int(path.name.split(".")[1]) for path in folder.glob(f"{kind}.*"))


def _publish(path: Path, text: str) -> bool:
    """Give a new file its name if nobody has; whole, and on stable storage on return."""
    with _written(path, text) as file:
        linked = _link(Path(file.name), path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return linked


@contextlib.contextmanager
def _written(path: Path, text: str) -> Iterator:
    """A file beside `path` with this text, on stable storage; its own name goes in the end."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(scratch, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            yield file
    finally:
        scratch.unlink(missing_ok=True)


def _link(scratch: Path, path: Path) -> bool:
    """Link a file to its name; False if the name is taken, or the trial over and tidied up."""
    try:
        os.link(scratch, path)
    except FileNotFoundError:
        return False
    except FileExistsError:
        # Over a network an answer may be lost and the call repeated: then the name is ours.
        return scratch.exists() and os.path.samefile(scratch, path)
    return True


def _is_locked(path: Path) -> bool:
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextlib.contextmanager
def _heartbeat(descriptor: int, interval_s: float) -> Iterator[None]:
    """Touch a file in a thread."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(interval_s):
            with contextlib.suppress(OSError):  # a full disk or a lost server must not end a trial
                os.utime(descriptor)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _check_links(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / f".links.{secrets.token_hex(8)}"
    try:
        with _written(name, "") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            os.link(file.name, name)
    except OSError as error:
        raise ValueError(
            f"expected a file system with hard links and locks at {folder}, found one that says "
            f"{error.strerror!r}; put the working directory on a local disk or NFS, not in an "
            "object store"
        ) from error
    finally:
        name.unlink(missing_ok=True)
