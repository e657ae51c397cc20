"""Running a plan so that nothing half-launched remains."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from launch_tpu.hosts.commands import Argv, Command, File, Listing, join

_NOT_FOUND = re.compile(r"not.?found", re.IGNORECASE)
_LONGEST_PAUSE = 30.0
_PATIENCE = 5  # looks in a row that may fail: a queue is longer than a network without faults


class Result(NamedTuple):
    """How a command ended, and what it printed if that was asked for."""

    code: int
    output: str = ""
    errors: str = ""


Run = Callable[[Argv, bool], Result]


class LaunchError(Exception):
    """A command failed; `code` is its exit code."""

    def __init__(self, message: str, code: int = 1):
        super().__init__(message)
        self.code = code


def in_shell(argv: Argv, quiet: bool) -> Result:
    """Run a command; quietly, with its output caught, or in full view."""
    pipe = subprocess.PIPE if quiet else None
    try:
        process = subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True)
    except OSError as error:
        raise _not_started(argv[0], error) from None
    try:
        output, errors = process.communicate()
    except BaseException:
        _end(process)
        raise
    code = process.returncode
    return Result(code if code >= 0 else 128 - code, output or "", errors or "")


def _not_started(program: str, error: OSError) -> LaunchError:
    """Why a program did not start, with the exit code that a shell has for it."""
    if isinstance(error, FileNotFoundError) and shutil.which(program) is None:
        return LaunchError(f"expected the program {program} on PATH, found none; install it", 127)
    return LaunchError(
        f"expected to run the program {program}, found that the system refuses it "
        f"({error.strerror}); see `ls -l` of it and its first line",
        126,
    )


def _end(process: subprocess.Popen) -> None:
    """End a command, and give it some seconds to end its own."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def up(
    steps: Sequence[Command],
    *,
    run: Run = in_shell,
    say: Callable[[str], None] = print,
    first_pause: float = 1.0,
) -> None:
    """Run commands in order; if one fails, undo what this call has made, the last first.

    What is there already is left as it is, and is not undone either.

    Args:
      steps: the plan. run: runs one command. say: takes lines for the user.
      first_pause: seconds between the first two looks at something that is awaited; the pauses
        grow to half a minute.

    Raises:
      LaunchError: a command failed; the message says what remains, if anything.
      KeyboardInterrupt: after undoing.
    """
    made: list[Command] = []
    try:
        for number, step in enumerate(steps, start=1):
            if step.probe and _presence(step, run) is True:
                say(f"[{number}/{len(steps)}] is there already: {step.purpose}")
                continue
            say(f"[{number}/{len(steps)}] {step.purpose}")
            if step.undo:
                made.append(step)
            try:
                _perform(step, run, say, first_pause)
            except BaseException:
                # A creation that failed, or was interrupted, may have made something all the same.
                if step.undo and _presence(step, run) is False:
                    made.pop()
                raise
    except BaseException as error:
        remains = undo(reversed(made), run=run, say=say)
        if not remains:
            raise
        sentence = f"{error or 'interrupted'}; these could not be undone and may cost money"
        raise LaunchError(sentence + told(remains), _code(error)) from error


def undo(
    steps: Iterable[Command], *, run: Run = in_shell, say: Callable[[str], None] = print
) -> list[Argv]:
    """Undo commands in the given order; returns the undoing commands that failed."""
    failed: list[Argv] = []
    done: set[Argv] = set()
    for step in steps:
        if step.undo is None or step.undo in done:
            continue
        done.add(step.undo)
        say(f"undo: {step.purpose}")
        if not _undone(step, step.undo, run):
            failed.append(step.undo)
    return failed


def _undone(step: Command, argv: Argv, run: Run) -> bool:
    try:
        return run(argv, False).code == 0 or _presence(step, run) is False
    except (LaunchError, KeyboardInterrupt):
        return False  # go on, and say in the end what is left to do


def reap(
    steps: Sequence[Command | Listing],
    *,
    agree: Callable[[str], bool],
    run: Run = in_shell,
    say: Callable[[str], None] = print,
) -> list[Argv]:
    """Delete what is listed if `agree(names)`; returns the commands that failed."""
    failed: list[Argv] = []
    for step in steps:
        say(step.purpose)
        deletions, listed = _deletions(step, run, say)
        if not listed:
            failed.append(step.argv)
        elif deletions and agree("; ".join(map(join, deletions))):
            failed += [argv for argv in deletions if run(argv, False).code]
    return failed


def _deletions(
    step: Command | Listing, run: Run, say: Callable[[str], None]
) -> tuple[list[Argv], bool]:
    """The commands that delete what a step finds, and whether it could look."""
    if isinstance(step, Command):
        return [step.argv], True
    result = run(step.argv, True)
    if result.code:
        say(result.errors.strip())
        return [], False
    names = result.output.split()
    say(f"  found {', '.join(names) or 'none'}")
    return [step.deletion(name) for name in names], True


def told(failed: Sequence[Argv]) -> str:
    """What to do by hand about commands that failed; empty if none did."""
    return "".join(f"\n  run by hand: {join(argv)}" for argv in failed)


def _code(error: BaseException) -> int:
    if isinstance(error, LaunchError):
        return error.code
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _presence(step: Command, run: Run) -> bool | None:
    """Whether what the command makes is there; None if that cannot be known."""
    if step.probe is None:
        return None
    result = run(step.probe, True)
    if result.code == 0:
        return True
    return False if _NOT_FOUND.search(result.errors) else None


def _perform(step: Command, run: Run, say: Callable[[str], None], pause: float) -> None:
    if step.file:
        _write(step.file)
    if step.until:
        _await(step, run, say, pause)
        return
    if code := run(step.argv, False).code:
        raise LaunchError(
            f"expected success of {_short(step.argv)} ({step.purpose}), found exit code {code}; "
            "see what it printed",
            code,
        )


def _await(step: Command, run: Run, say: Callable[[str], None], pause: float) -> None:
    until = step.until
    assert until is not None
    wanted = " or ".join(sorted(until.done)).strip()
    deadline = time.monotonic() + until.seconds
    seen = ""
    failures = 0
    while True:
        result = run(step.argv, True)
        failures = failures + 1 if result.code else 0
        if failures == _PATIENCE or (failures and _NOT_FOUND.search(result.errors)):
            raise LaunchError(
                f"expected {wanted} of {_short(step.argv)}, found exit code {result.code}: "
                f"{result.errors.strip()}",
                result.code,
            )
        words = (
            frozenset(result.output.split() or [""]) if not failures else frozenset({"no answer"})
        )
        if (now := " ".join(sorted(words))) != seen:
            say(f"  {now}")
            seen = now
        if bad := words & until.failed:
            raise LaunchError(
                f"expected {wanted}, found {' '.join(sorted(bad))}; take it down and launch it "
                "again, or ask for less"
            )
        if words <= until.done:
            return
        if time.monotonic() > deadline:
            raise LaunchError(
                f"expected {wanted} within {until.seconds} s, found {now}; raise queue_hours or "
                "ask for less"
            )
        time.sleep(pause)
        pause = min(_LONGEST_PAUSE, 1.5 * pause)


def _write(file: File) -> None:
    path = Path(file.path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".writing-", dir=path.parent) as scratch:
            whole = Path(scratch, path.name)  # in a folder that no other launch writes to
            whole.write_text(file.text)
            os.replace(whole, path)
    except OSError as error:
        raise LaunchError(
            f"expected to write {path} in {Path.cwd()}, found that the system refuses it "
            f"({error.strerror}); launch from a directory of your own"
        ) from None


def _short(argv: Argv) -> str:
    """The words of a command before its first flag."""
    words = [word for word in argv if not word.startswith("-")]
    flag = next((index for index, word in enumerate(argv) if word.startswith("-")), len(argv))
    return join(words[:flag])
