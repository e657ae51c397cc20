"""Forget requests: which training examples are to be forgotten, as sorted example ids."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mu_jax import _files as files
from mu_jax.data.id_table import IdTable
from mu_jax.data.ids import sorted_unique
from mu_jax.datasets.id_files import read_ids
from mu_jax.datasets.selectors import SELECTORS, join, select


def read_request(
    request: str | os.PathLike[str],
    *,
    index: np.ndarray,
    targets: np.ndarray | None = None,
    inputs: np.ndarray | None = None,
    attributes: Mapping[str, np.ndarray] | None = None,
    ids: IdTable | None = None,
) -> np.ndarray:
    """The example ids that a forget request names.

    A request is a file or a selector. A file is CSV (the column named `id` or `index`, else,
    without a header, the first column; lines of several ids then are refused), JSON lines
    (`{"id": 3}` or a bare id) or Parquet (a column `id` or `index`); or it is `sets.npz:name`, an
    array of ids in a numpy archive, such as the public forget sets of the data-unlearning
    benchmark. Ids named twice count once. With the table `ids` of people's ids, `id` holds those,
    `index` the numbers of the table, and a column of one of its kinds of subjects, such as `user`,
    names all examples that these own. The selectors:

    - `class:3` or `class:3,5`: every example of these classes;
    - `random:0.05:seed=0` or `random:75:seed=0`: a fraction in (0, 1), rounded to a whole count,
      or a count, drawn without replacement; the seed is 0 unless given. The draw is the beginning
      of one permutation of the sorted ids, so it does not depend on the order of the data, and a
      smaller request of the same seed is part of a larger one;
    - `ids:1,5,9` or `ids:1,10-20`: these ids; a range holds both its ends;
    - `nearest:50:id=6` or `nearest:0.05:seed=1`: a coherent group, the examples whose inputs are
      nearest to those of example 6 in Euclidean distance, or of one drawn at random; it belongs to
      the group, and of equally near ones the smaller id comes first;
    - `below:3.5` or `above:60`: every example whose target is below or above a number;
    - `client:12`, `identity:190-1249` or `family:F0001,F0007`: every example whose attribute of
      that name, see `Source`, has one of these values, or lies in a range that holds both its ends;
    - `id:img_3,img_7` or `user:u_8123`, with the table `ids`: examples by people's ids, or all of a
      subject's.

    Args:
        request: path of a file, or a selector.
        index: integer [n], the ids of the training set.
        targets: [n], integer classes of these examples or float numbers; only `class:`, `below:`
            and `above:` need them.
        inputs: [n, ...], their inputs; only `nearest:` needs them.
        attributes: arrays [n] by name, as `Source` has them.
        ids: the table of people's ids, see `mu.id_table`; `index` holds its numbers.

    Returns:
        int32 [m], 1 <= m < n: sorted unique ids, all of them in `index`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown selector, a malformed line or selector, a class or id that the
            training set lacks, or a request for no example or for all of them.

    Cost: O(n log n) on the host.

    Example:
        >>> import numpy as np
        >>> from mu_jax.datasets import read_request
        >>> index, labels = np.array([7, 3, 5, 1]), np.array([0, 1, 1, 0])
        >>> read_request("class:1", index=index, targets=labels)
        array([3, 5], dtype=int32)
        >>> read_request("ids:1,3-3", index=index)
        array([1, 3], dtype=int32)
        >>> read_request("client:12", index=index, attributes={"client": np.array([2, 12, 2, 2])})
        array([3], dtype=int32)
    """
    request = os.fspath(request)
    index = np.asarray(index)
    ids = None if ids is None else ids.only(index)
    kind, colon, argument = request.partition(":")
    attributes = attributes or {}
    own = ("id", *ids.subjects) if ids is not None else ()
    forms = join([*SELECTORS, *(f"{name}:..." for name in (*attributes, *own))])
    selected = None
    if colon and ids is not None and kind in own:
        selected = ids.select(kind, argument).tolist()
    elif colon:
        selected = select(
            kind, argument, index, targets=targets, inputs=inputs, attributes=attributes
        )
    if selected is not None:
        named = selected
    elif archive := re.fullmatch(r"(.+\.npz):(\w+)", request):
        named = _archived(files.absolute(archive[1]), archive[2])
    elif _is_file(request):
        named = read_ids(files.absolute(request), ids)
    elif colon and re.fullmatch(r"\w+", kind) and not argument.startswith("//"):
        raise ValueError(
            f"expected a selector such as {forms} or the path of a file, "
            f"found {request!r}; use one of these forms"
        )
    else:
        raise FileNotFoundError(
            f"expected a CSV, JSON-lines or Parquet file of ids or a selector such as {forms}, "
            f"found no file {request!r}; check the path"
        )
    return _checked(named, index, request)


def write_request(path: str | os.PathLike[str], ids: Any, *, table: IdTable | None = None) -> None:
    """Writes example ids as a CSV file with the header `id`, whole or not at all.

    Args:
        path: where to; missing folders are made, a file already there is replaced.
        ids: integer [m], m >= 1; written sorted, each once.
        table: of people's ids, which are then written in place of the integers.

    Raises:
        ValueError: no ids, or ids that are not integers, or that the table lacks.

    Cost: O(m log m); the file is first written beside `path` and then renamed.

    Example:
        >>> import pathlib, tempfile
        >>> from mu_jax.datasets import write_request
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_request(f"{folder}/forget.csv", [9, 4, 4])
        ...     pathlib.Path(folder, "forget.csv").read_text()
        'id\\n4\\n9\\n'
    """
    unique = sorted_unique(ids)
    if not unique.size:
        raise ValueError("expected at least one id to write, found none; pass the ids to forget")
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(
        [("id",), *((name,) for name in (unique if table is None else table.names(unique)))]
    )
    files.replace_text(path, text.getvalue())


def _is_file(request: str) -> bool:
    """Whether a request names a file; a selector such as `class:/3` is none."""
    try:
        return files.is_file(files.absolute(request))
    except ValueError:
        if "://" in request:
            raise
        return False


def _archived(path: Path, name: str) -> list[int]:
    if not files.is_file(path):
        raise FileNotFoundError(
            f"expected an archive of forget sets at {str(path)!r}, found none; check the path"
        )
    with _opened(path) as archive:
        if name not in archive:
            raise ValueError(
                f"expected a name among {join(archive.files)} in {str(path)!r}, found {name!r}; "
                "choose one of these"
            )
        if not isinstance(archive[name], np.ndarray):
            raise EOFError(f"{name} is no array")
        return sorted_unique(archive[name]).tolist()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An archive of arrays; one sentence for a file that is damaged or something else."""
    try:
        with files.reading(path) as file, np.load(file, allow_pickle=False) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, TypeError, ValueError) as error:
        if str(error).startswith("expected "):
            raise
        raise ValueError(
            f"expected an archive of forget sets, as numpy.savez writes it, in {str(path)!r}, "
            f"found a damaged or another file ({type(error).__name__}); write it again"
        ) from error


def _checked(ids: list[int], index: np.ndarray, request: str) -> np.ndarray:
    """Sorted unique ids; a request for nothing, for everything or for unknown ids is an error."""
    known = set(index.tolist())
    wanted = set(ids)
    if not wanted:
        raise ValueError(
            f"expected at least one id to forget, found none in {request!r}; name some examples"
        )
    if unknown := sorted(wanted - known):
        raise ValueError(
            f"expected ids of the training set only, found {len(unknown)} others in {request!r} "
            f"({join(unknown, 5)}); remove them"
        )
    if len(wanted) == len(known):
        raise ValueError(
            f"expected a request that leaves examples to retain, found all {len(known)} examples "
            f"of the training set in {request!r}; select fewer"
        )
    return np.array(sorted(wanted), np.int32)
