"""Margins of an ensemble as an artifact: for oracles that somebody else has retrained."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mu_jax import _files as files

_FIELDS = ("values", "index", "forget")


class Margins(NamedTuple):
    """What models say on examples: see `mu.evaluation.margins`.

    Attributes:
      values: f32[models, n], finite. index: i64[n], stable ids of the examples.
      forget: digest of the ids that the models never saw (`mu_jax.datasets.digest`), "" for models
        trained on everything.
    """

    values: np.ndarray
    index: np.ndarray  # type: ignore[assignment]
    forget: str


def save_margins(path: str | os.PathLike[str], margins: Margins) -> None:
    """Write margins as an `.npz` file, whole or not at all.

    Raises:
      ValueError: shapes that do not fit, ids named twice, or margins that are not finite.
    """
    margins = _checked(margins, str(path))
    with files.replacing(path) as file:
        np.savez(file, **margins._asdict())


def load_margins(
    path: str | os.PathLike[str],
    *,
    index: ArrayLike | None = None,
    forget: str | None = None,
) -> Margins:
    """Read margins, for the examples and the forget set of this experiment.

    Args:
      path: an `.npz` file with `values` [models, n], `index` [n] and `forget`; or an `.npy` file
        with the values alone, which are then taken to be in the order of `index`, and whose forget
        set cannot be checked.
      index: ids of the examples wanted, in this order; default all in the order of the file.
      forget: digest of the forget set that the models must not have seen; default any.

    Raises:
      FileNotFoundError: no such file.
      ValueError: another forget set, examples that the file lacks, missing fields, shapes that do
        not fit, margins that are not finite.

    Example:
      >>> import tempfile
      >>> path = tempfile.mkdtemp() + "/oracles.npz"
      >>> save_margins(path, Margins(np.eye(2, 3), np.array([7, 8, 9]), forget=""))
      >>> load_margins(path, index=[9, 7]).values
      array([[0., 1.],
             [0., 0.]], dtype=float32)
    """
    path = files.absolute(path)
    if not files.is_file(path):
        raise FileNotFoundError(
            f"expected a file of margins at {path}, found none: check the path, or retrain oracles"
        )
    margins = _checked(_read(path, index, forget), str(path))
    if forget is not None and margins.forget != forget:
        raise ValueError(
            f"expected models retrained without the forget set {forget[:8] or '(none)'}, found "
            f"{path} to be those of {margins.forget[:8] or '(none)'}: load or retrain the oracles "
            "of this forget set"
        )
    return margins if index is None else _take(margins, np.asarray(index), path)


def _read(path: Path, index: ArrayLike | None, forget: str | None) -> Margins:
    found = _arrays(path)
    if isinstance(found, np.ndarray):
        if index is None:
            raise ValueError(
                f"expected ids for the examples of {path}, found an array alone: give index"
            )
        return Margins(found, np.asarray(index), forget or "")
    absent = [name for name in _FIELDS if name not in found]
    if absent:
        raise ValueError(
            f"expected the fields {', '.join(_FIELDS)} in {path}, found "
            f"{', '.join(found) or 'none'}: write the file with save_margins"
        )
    return Margins(found["values"], found["index"], str(found["forget"]))


def _arrays(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an `.npy` file, or the arrays of an `.npz` file by name."""
    try:
        with files.reading(path) as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            arrays = {name: found[name] for name in found.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise ValueError("an entry is no array")
        return arrays
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"expected arrays in {path}, found a damaged or another file ({type(error).__name__}): "
            "write it with save_margins"
        ) from error


def _checked(margins: Margins, where: str) -> Margins:
    values, index = np.asarray(margins.values), np.asarray(margins.index)
    if values.ndim != 2 or index.shape != values.shape[1:] or not values.size:
        raise ValueError(
            f"expected margins [models, n] with n ids, found shapes {values.shape} and "
            f"{index.shape} in {where}: stack the models on the first axis"
        )
    if not np.issubdtype(values.dtype, np.floating) or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(
            f"expected margins of floats and ids of integers, found {values.dtype} and "
            f"{index.dtype} in {where}: write the file with save_margins"
        )
    if np.unique(index).size != index.size:
        raise ValueError(
            f"expected every example once, found {index.size - np.unique(index).size} ids named "
            f"again in {where}: keep one column of each"
        )
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        raise ValueError(
            f"expected finite margins, found NaN or infinity in those of {broken.sum()} of "
            f"{len(values)} models in {where}: leave these models out and report how many there "
            "were"
        )
    return Margins(values.astype(np.float32), index.astype(np.int64), margins.forget)


def _take(margins: Margins, wanted: np.ndarray, path: Path) -> Margins:
    order = np.argsort(margins.index)
    place = np.searchsorted(margins.index, wanted, sorter=order)
    column = order[np.minimum(place, margins.index.size - 1)]
    absent = margins.index[column] != wanted
    if absent.any():
        raise ValueError(
            f"expected margins of all {wanted.size} examples in {path}, found {absent.sum()} "
            f"missing (first: id {wanted[absent][0]}): score the models on the same examples"
        )
    return Margins(margins.values[:, column], wanted.astype(np.int64), margins.forget)
