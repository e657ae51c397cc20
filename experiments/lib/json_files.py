"""Files of JSON that people write: read strictly, and what is wrong said in one sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def read_json(path: str | os.PathLike[str], what: str) -> Any:
    """What a file of JSON holds.

    Args:
      path: the file. what: what it should be, in words, for the sentences: "a sweep file".

    Raises:
      FileNotFoundError: there is no file.
      ValueError: it cannot be read, is not JSON in UTF-8, or has a name twice in one object.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
        return json.loads(text, object_pairs_hook=_unique)
    except FileNotFoundError:
        raise FileNotFoundError(f"expected {what} at {path}, found none; check the path") from None
    except OSError as error:
        raise ValueError(
            f"expected {what} at {path}, found what cannot be read ({error.strerror}); check the "
            "path"
        ) from None
    except _Repeated as error:
        raise ValueError(
            f"expected every name once in an object of {path}, found {error} again; remove one"
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"expected JSON in {path}, found text that breaks at line {error.lineno}, column "
            f"{error.colno} ({error.msg}); correct it there"
        ) from None
    except (ValueError, RecursionError) as error:  # no UTF-8, a path or a number without end
        raise ValueError(f"expected JSON in {path}, found {error}; correct it") from None


class _Repeated(ValueError):
    """A name that an object of JSON has twice, which would silently drop the first value."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise _Repeated(", ".join(sorted({name for name in names if names.count(name) > 1})))
    return dict(pairs)
