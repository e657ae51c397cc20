"""Promises of the library that were once broken, each with the text that breaks it again.

`make mutations` puts the texts in, one after another, and runs the test that must fail.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """A text of a file that is replaced, and where the tests are that should notice.

    name: what is broken. tests: folders, files or single tests.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
