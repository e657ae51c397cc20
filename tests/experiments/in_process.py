"""The binaries in this process: what a command line prints and with which exit code it ends."""

from __future__ import annotations

import contextlib
import importlib
import io
from typing import NamedTuple

from experiments.lib import command_line


class Ended(NamedTuple):
    """returncode, stdout and stderr as of a process."""

    returncode: int
    stdout: str
    stderr: str


def call(binary: str, *arguments: str, further: str = "") -> Ended:
    """Call `experiments.<binary>`; a bug keeps its traceback.

    Args:
      binary: such as "train". arguments: flags. further: what else there may be, as for `start`.
    """
    module = importlib.import_module(f"experiments.{binary}")
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            argv = command_line._parse_or_exit(
                module.FLAGS, [binary, *arguments], about="", arguments=further
            )
            module.main(argv)
        except SystemExit as end:
            code = end.code or 0
    return Ended(code, out.getvalue(), err.getvalue())


def refused(binary: str, *arguments: str) -> str:
    """The one line that a refused call prints."""
    ended = call(binary, *arguments)
    assert ended.returncode == 2, ended.stdout + ended.stderr
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    return line
