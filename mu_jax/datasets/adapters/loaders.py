"""Datasets of torch, Hugging Face and grain by position; `tf.data` and generators in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.datasets.adapters.columns import Where, by_position, plain_tree
from mu_jax.datasets.adapters.rows import Rows, rows_of


def from_records(
    records: Any,
    *,
    ids: Any,
    inputs: Where = 0,
    target: Where = 1,
    subjects: Mapping[str, Any] | None = None,
) -> Rows:
    """Rows of data that are read by position: a torch `Dataset`, a Hugging Face `Dataset`, a grain
    `MapDataset` or data source, a list.

    Nothing is copied: a record is read when it is asked for. Reading must not be random, so give
    the data without augmentation and without shuffling.

    Args:
        records: `len(records)` and `records[i]`, a dictionary or tuple of columns.
        ids: how the id of a row is found: a column, a function `(position, record) -> id`, one id
            for each row, or `mu.datasets.by_position`, whose docstring says what that costs.
        inputs, target: a column; a list of columns of numbers, for one vector; a dictionary of
            columns, for structured inputs and several heads; or a function of the record.
        subjects: columns, or one value for each row, by the word that requests use.

    Returns:
        `Rows`: `mu.stream(rows, batch_size=...)` reads them batch by batch, `rows.read()` brings
        them into memory, `rows.ids` is the table for `mu.split(..., ids=rows.ids)`.

    Raises:
        TypeError: data that are not read by position.
        ValueError: a column that is not there, or ids that are missing or not unique.

    Cost: one pass over the records where ids or subjects are columns of them; else nothing.

    Example:
        >>> import numpy as np, mu_jax as mu
        >>> records = [
        ...     {"x": np.ones(2), "y": k, "id": f"r{k}", "who": "ab"[k % 2]} for k in range(4)]
        >>> rows = mu.datasets.from_records(
        ...     records, inputs="x", target="y", ids="id", subjects={"user": "who"})
        >>> forget, retain = mu.split(mu.stream(rows, batch_size=2), "user:a", ids=rows.ids)
        >>> rows.ids.names(forget.index).tolist()
        ['r0', 'r2']
    """
    return rows_of(records, inputs=inputs, target=target, ids=ids, subjects=subjects)


def from_loader(loader: Any, **columns: Any) -> Rows:
    """Rows of the dataset behind a torch `DataLoader`, see `from_records`.

    The loader's own order, batches and collation are not used: the library shuffles by a key.

    Raises:
        TypeError: no loader, or one of a dataset that is not read by position.
    """
    dataset = getattr(loader, "dataset", None)
    if dataset is None:
        raise TypeError(
            f"expected a loader with a dataset, found {type(loader).__name__}: give its dataset "
            "to mu.datasets.from_records"
        )
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"expected a loader of a dataset that is read by position, found one of "
            f"{type(dataset).__name__}: read it once by mu.datasets.from_iterable(loader, "
            "batched=True, ...)"
        )
    return from_records(dataset, **columns)


def from_iterable(records: Iterable[Any], *, batched: bool = False, **columns: Any) -> Rows:
    """Rows of data that are only iterated over, read once into memory: `tf.data`, a generator.

    Args:
        records: gives dictionaries or tuples of columns; `as_numpy_iterator` of it is used if there
            is one. The order must be the same every time if ids are positions.
        batched: every element is a batch of records.
        **columns: as in `from_records`.

    Raises:
        ValueError: nothing to read; positions as ids of a loader that shuffles; or as in
            `from_records`.

    Cost: one pass; memory of all records.

    Example:
        >>> import mu_jax as mu
        >>> pairs = (({"a": [k]}, k) for k in range(3))
        >>> rows = mu.datasets.from_iterable(pairs, ids=mu.datasets.by_position)
        >>> rows.read().inputs["a"].tolist()
        [[0], [1], [2]]
    """
    _check_order(records, columns.get("ids"))
    iterator = getattr(records, "as_numpy_iterator", records.__iter__)()
    found: list[Any] = []
    for element in iterator:
        element = plain_tree(tuple(element) if isinstance(element, list) else element)
        found.extend(_unbatched(element) if batched else [element])
    if not found:
        raise ValueError("expected at least one record, found an empty iterable: give data")
    return from_records(found, **columns)


def _check_order(records: Any, ids: Any) -> None:
    """Refuse positions as ids of what a torch `DataLoader` draws in an order of its own."""
    found = [type(getattr(records, name, None)).__name__ for name in ("sampler", "batch_sampler")]
    ordered = {"NoneType", "SequentialSampler", "BatchSampler", "_InfiniteConstantSampler"}
    drawn = [name for name in found if name not in ordered]
    if ids is by_position and drawn:
        raise ValueError(
            f"expected data in the same order every time, as ids are positions, found a loader "
            f"that reads by {drawn[0]}: give it to mu.datasets.from_loader, or a column of ids"
        )


def _unbatched(element: Any) -> list[Any]:
    leaves = jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else np.asarray(x), element)
    sizes = {len(leaf) if leaf.ndim else 0 for leaf in jax.tree.leaves(leaves)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"expected batches with one common leading axis, found leading sizes {sorted(sizes)}: "
            "leave out batched=True for single records"
        )
    return [jax.tree.map(lambda x, i=i: x[i], leaves) for i in range(sizes.pop())]
