"""What is wrong with an input, in one line on stderr, and exit code 2.

Nothing here loads JAX, so that the binaries that start others begin at once.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

_FULL = (errno.ENOSPC, errno.EDQUOT)


def sentence(error: BaseException) -> str:
    """What an error says, in one line; of the operating system's errors with what to do.

    Example:
      >>> sentence(PermissionError(errno.EACCES, "Permission denied", "runs/digits"))
      'expected to be allowed to use runs/digits, found permission denied; choose another path'
    """
    text = " ".join(str(error).split())
    if not isinstance(error, OSError) or error.errno is None or text.startswith("expected "):
        return text or type(error).__name__
    where = error.filename2 or error.filename or "a file"
    if isinstance(where, bytes):
        where = os.fsdecode(where)
    if error.errno in _FULL:
        return f"expected room for {where}, found the disk full; free some, and run this again"
    if isinstance(error, FileNotFoundError):
        return f"expected a file or folder at {where}, found none; check the path"
    if isinstance(error, NotADirectoryError):
        return f"expected folders above {where}, found a file among them; choose another path"
    if isinstance(error, IsADirectoryError):
        return f"expected a file at {where}, found a folder; choose another path, or move it away"
    what = (error.strerror or type(error).__name__).lower()
    return f"expected to be allowed to use {where}, found {what}; choose another path"


def refuse(error: BaseException | str, code: int = 2) -> NoReturn:
    """Say on stderr what is wrong, in one line, and leave with an exit code: 2 is bad input."""
    print(f"error: {error if isinstance(error, str) else sentence(error)}", file=sys.stderr)
    sys.exit(code)
