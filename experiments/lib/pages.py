"""The page of results as a file."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from experiments.lib.paths import check_file
from mu_jax import _files as files
from mu_jax import page
from mu_jax.reporting import Run

ENDING = ".html"


def check_page(path: str) -> pathlib.Path:
    """The path of a page, refused before anything is drawn.

    Raises:
      ValueError: another ending than .html. OSError: a file that cannot be written.
    """
    if pathlib.PurePath(path).suffix != ENDING:
        raise ValueError(f"expected a path that ends in {ENDING}, found {path!r}; name such a file")
    return check_file(pathlib.Path(path))


def write_page(path: pathlib.Path, runs: Sequence[Run], title: str = "") -> pathlib.Path:
    """Write the page of the runs, whole or not at all, see `page.render`.

    Args:
      path: from `check_page`. runs: at least one with records.
      title: of the page; "" names the forget sets.
    """
    kinds = dict.fromkeys(record.forget_set.kind for run in runs for record in run.records)
    files.replace_text(path, page.render(runs, title=title or f"Forgetting {_listed(list(kinds))}"))
    return path


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
