"""Source code to train small byte models on: that of the interpreter, or generated from a seed."""

from __future__ import annotations

import pathlib
import sysconfig

import numpy as np

SHORTEST = 4_000  # bytes of a file of the standard library that is taken
_NOUNS = [
    "index",
    "table",
    "record",
    "buffer",
    "token",
    "value",
    "stream",
    "cursor",
    "window",
    "packet",
    "header",
    "result",
]
_VERBS = [
    "read",
    "write",
    "parse",
    "load",
    "store",
    "merge",
    "split",
    "check",
    "count",
    "find",
    "reset",
    "encode",
]
_LINES = (
    "    if {a} is None:\n        raise ValueError('expected {a}')\n",
    "    {a} = self.{b}({c})\n",
    "    for {a} in {b}:\n        {c}.append({a})\n",
    "    return {a} + {b}\n",
    "    while {a} < len({b}):\n        {a} += 1\n",
    "    {a}, {b} = {b}, {a}\n",
    "    with self.{b}_lock:\n        self.{a} = {c}\n",
)


def standard_library() -> list[bytes]:
    """The top-level source files of the running interpreter's library, in the order of their names.

    Files of more than 4,000 bytes; a byte that is not ASCII becomes `?`. They differ between
    versions of Python, so results are compared within one version only.
    """
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    files = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    return [plain(text) for text in files if len(text) > SHORTEST]


def generated(seed: int, *, files: int = 40, functions: int = 40) -> list[bytes]:
    """Files of made-up functions, the same on every machine and version.

    Args:
      seed: of the generator. files: how many. functions: in each file.
    """
    rng = np.random.default_rng(seed)
    return [b"".join(_function(rng) for _ in range(functions)) for _ in range(files)]


def _function(rng: np.random.Generator) -> bytes:
    verb, noun = rng.choice(_VERBS), rng.choice(_NOUNS)
    text = f"def {verb}_{noun}(self, {', '.join(rng.choice(_NOUNS, 2, replace=False))}):\n"
    for line in rng.choice(len(_LINES), rng.integers(2, 5)):
        names = dict(zip("abc", rng.choice(_NOUNS, 3, replace=False)))
        text += _LINES[line].format(**names)
    return f"{text}\n\n".encode()


def plain(text: bytes) -> bytes:
    """The bytes, those that are not ASCII replaced by `?`."""
    return bytes(np.where(np.frombuffer(text, np.uint8) > 127, ord("?"), list(text)).astype("u1"))


def windows(files: list[bytes], count: int, length: int, rng: np.random.Generator) -> list[str]:
    """Pieces of `length` bytes, each byte of all files as likely to be in one as another."""
    sizes = np.array([max(len(file) - length, 0) for file in files], float)
    chosen = rng.choice(len(files), count, p=sizes / sizes.sum())
    starts = [int(rng.integers(len(files[k]) - length + 1)) for k in chosen]
    return [files[k][at : at + length].decode("ascii") for k, at in zip(chosen, starts)]
