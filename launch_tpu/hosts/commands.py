"""A command to run, and how to show it so that a shell takes it as it is."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

LABEL = "launched-by=mu-jax"
Argv = tuple[str, ...]


class Until(NamedTuple):
    """Repeat a command until every word that it prints is among `done`.

    Attributes:
      done: words that end the wait; the empty word stands for no output.
      failed: words that end the launch.
      seconds: how long to go on.
    """

    done: frozenset[str]
    failed: frozenset[str]
    seconds: int


class File(NamedTuple):
    """A file that a command reads, written before it runs."""

    path: str
    text: str


class Command(NamedTuple):
    """One step of a plan.

    Attributes:
      argv: program and arguments.
      purpose: one line.
      undo: takes away what this command makes; None if it makes nothing.
      probe: succeeds if what this command makes is there.
      until: repeat the command and read its output.
      file: what the command reads.
    """

    argv: Argv
    purpose: str
    undo: Argv | None = None
    probe: Argv | None = None
    until: Until | None = None
    file: File | None = None


class Listing(NamedTuple):
    """Prints names, one a line; `delete` with a name appended deletes it.

    Attributes:
      argv: the command that lists.
      purpose: one line.
      delete: program and first arguments; `after` the arguments behind the name.
      after: see `delete`.
    """

    argv: Argv
    purpose: str
    delete: Argv
    after: Argv = ()

    def deletion(self, name: str) -> Argv:
        """The command that deletes one of the names."""
        return (*self.delete, name, *self.after)


def labels(name: str) -> str:
    """What marks all that is made for the job `name`."""
    return f"{LABEL},run={name}"


def quote(word: str) -> str:
    r"""One word for bash, on one line.

    Example:
      >>> print(quote("it's"), quote("two\nlines"))
      'it'"'"'s' $'two\nlines'
    """
    if "\n" not in word:
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"$'{escaped}'"


def join(argv: Iterable[str]) -> str:
    """A command for bash, on one line."""
    return " ".join(map(quote, argv))


def render(steps: Sequence[Command | Listing]) -> str:
    """Commands as a bash script that does the same; comments say why, and how to undo.

    Every word of a command is quoted, whatever it holds, and a file ends at a line that is none of
    its own: what is piped to a shell runs these commands and nothing else.
    """
    return "\n".join(_render(number, step) for number, step in enumerate(steps, start=1))


def _render(number: int, step: Command | Listing) -> str:
    lines = [f"# {number}. {step.purpose}"]
    if isinstance(step, Listing):
        lines += [f"#    each is deleted by: {join(step.deletion('NAME'))}"]
        return "\n".join([*lines, _folded(step.argv)]) + "\n"
    if step.probe:
        lines += [f"#    left out if this succeeds: {join(step.probe)}"]
    if step.undo:
        lines += [f"#    undone by: {join(step.undo)}"]
    if step.until:
        lines += [f"#    repeated until {_words(step.until)}"]
    if step.file:
        path, text = step.file
        folder, end = path.rpartition("/")[0], _end_of(text)
        lines += [f"mkdir -p {quote(folder)} && cat > {quote(path)} <<'{end}'"]
        lines += [f"{text}{end}"]
    return "\n".join([*lines, _folded(step.argv)]) + "\n"


def _end_of(text: str) -> str:
    """A line that ends a file and is none of its lines."""
    end = "END_OF_FILE"
    while end in text.splitlines():
        end += "_"
    return end


def _words(until: Until) -> str:
    done = " or ".join(sorted(word or "nothing" for word in until.done))
    stop = f"; {' or '.join(sorted(until.failed))} ends the launch" if until.failed else ""
    return f"it prints {done}, at most {until.seconds} s{stop}"


def _folded(argv: Argv) -> str:
    """A command with one flag a line."""
    lines = [[quote(argv[0])]]
    for word in argv[1:]:
        if word.startswith("--") and word != "--" and len(argv) > 6:
            lines.append([])
        lines[-1].append(quote(word))
    return " \\\n  ".join(" ".join(line) for line in lines)
