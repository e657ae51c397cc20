"""Tables: CSV and Parquet files, and Hugging Face datasets that were saved to a disk."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mu_jax import _files as files
from mu_jax import _json
from mu_jax._extras import extra
from mu_jax.datasets.adapters.columns import Where
from mu_jax.datasets.adapters.rows import Rows, rows_of


class _Table:
    """Rows of an Arrow table as dictionaries of columns."""

    def __init__(self, table: Any, name: str):
        self._table, self._name = table.combine_chunks(), name
        self._read: dict[str, Any] = {}

    def __len__(self) -> int:
        return self._table.num_rows

    def __getitem__(self, position: int) -> Mapping[str, Any]:
        return _Row(self, position)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return self._table.column_names

    def column(self, where: str, what: str) -> Any:
        """A column of all rows: an array of numbers, or a list."""
        if where not in self._read:
            if where not in self.names:
                raise ValueError(
                    f"expected a column {where!r} for the {what} in {self._name}, found "
                    f"{', '.join(self.names)}: name one of these"
                )
            self._read[where] = _values(self._table.column(where), where, self._name)
        return self._read[where]


class _Row(Mapping):
    """One row, of which a column is read when it is asked for."""

    def __init__(self, table: _Table, position: int):
        self._table, self._position = table, position

    def __getitem__(self, name: str) -> Any:
        if name not in self._table.names:
            raise KeyError(name)
        return self._table.column(name, "row")[self._position]

    def __iter__(self) -> Any:
        return iter(self._table.names)

    def __len__(self) -> int:
        return len(self._table.names)


def from_table(
    path: str | os.PathLike[str],
    *,
    inputs: Where,
    target: Where,
    ids: Any,
    subjects: Mapping[str, Any] | None = None,
) -> Rows:
    """Rows of a CSV file with a header, or of a Parquet file.

    Columns of ids and subjects are read as text, so that `007` stays `007`.

    Args:
        path: the file; a name that ends in `.parquet` or `.pq` is Parquet, else CSV in UTF-8.
        inputs, target, ids, subjects: as in `from_records`, where records are dictionaries.

    Raises:
        ValueError: a file of another kind; a column that is not there or misses values.

    Cost: reads the file, and keeps the columns that are used in memory.

    Example:
        >>> import pathlib, tempfile, mu_jax as mu
        >>> folder = tempfile.TemporaryDirectory()
        >>> file = pathlib.Path(folder.name, "people.csv")
        >>> _ = file.write_text("id,age,height,sick\\n007,31,1.7,0\\n008,52,1.6,1\\n")
        >>> rows = mu.datasets.from_table(
        ...     file, inputs=["age", "height"], target="sick", ids="id")
        >>> rows.ids.ids.tolist(), rows.read().targets.tolist(), rows[0][0].shape
        (['007', '008'], [0, 1], (2,))
        >>> folder.cleanup()
    """
    path = files.absolute(path)
    texts = [w for w in (ids, *(subjects or {}).values()) if isinstance(w, str)]
    with extra("datasets"):
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet

    with files.reading(path) as file:
        data = io.BytesIO(file.read())
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = pyarrow.parquet.read_table(data)
        else:
            as_text = pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(texts, pyarrow.string()), strings_can_be_null=True
            )
            table = pyarrow.csv.read_csv(data, convert_options=as_text)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(
            f"expected a CSV file with a header or a Parquet file at {path}, found another or a "
            f"damaged file ({' '.join(str(error).split())[:120]}): write it again"
        ) from error
    records = _Table(table, str(path))
    return rows_of(records, inputs=inputs, target=target, ids=ids, subjects=subjects)


def from_hugging_face(
    folder: str | os.PathLike[str],
    *,
    inputs: Where,
    target: Where,
    ids: Any,
    split: str | None = None,
    subjects: Mapping[str, Any] | None = None,
) -> Rows:
    """Rows of a dataset that `datasets.Dataset.save_to_disk` wrote, without that package.

    Args:
        folder: that of the dataset, or of a `DatasetDict` together with `split`.
        inputs, target, ids, subjects: as in `from_records`, where records are dictionaries; columns
            of images are decoded.
        split: of a `DatasetDict`.

    Raises:
        FileNotFoundError: no such dataset or split.
        ValueError: a damaged file; a column that is not there or misses values.

    Cost: the files are mapped into memory, and columns that are used read whole.
    """
    root = files.absolute(folder)
    root = root if split is None else root / split
    if not (root / "state.json").is_file():
        inside = sorted(path.parent.name for path in root.glob("*/state.json"))
        raise FileNotFoundError(
            f"expected a dataset that save_to_disk wrote in {root}, found "
            f"{'the splits ' + ', '.join(inside) if inside else 'no state.json'}: "
            f"{'give split= one of these' if inside else 'correct the path'}"
        )
    records = _Table(_arrow(root), str(root))
    return rows_of(records, inputs=inputs, target=target, ids=ids, subjects=subjects)


def _arrow(root: Path) -> Any:
    with extra("datasets"):
        import pyarrow

    try:
        state = _json.parse((root / "state.json").read_text("utf-8"))
        if state.get("_indices_files"):
            raise ValueError("a selection of rows that was not flattened (flatten_indices)")
        parts = [
            pyarrow.ipc.open_stream(pyarrow.memory_map(str(root / file["filename"]))).read_all()
            for file in state["_data_files"]
        ]
        return pyarrow.concat_tables(parts)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"expected a dataset that save_to_disk wrote in {root}, found another or a damaged one "
            f"({' '.join(str(error).split())[:120]}): save it again"
        ) from error


def _values(column: Any, name: str, where: str) -> Any:
    """A column as an array of numbers, else as a list; encoded images are decoded."""
    import pyarrow

    if column.null_count:
        raise ValueError(
            f"expected a value in every row of the column {name!r} of {where}, found "
            f"{column.null_count} missing: fill them, or drop these rows"
        )
    kind = column.type
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
        return column.to_numpy()
    if pyarrow.types.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}:
        return _ImageColumn(column, name, where)
    return column.to_pylist()


class _ImageColumn:
    """Encoded images, each decoded when it is asked for."""

    def __init__(self, column: Any, name: str, where: str):
        self._column, self._name, self._where = column, name, where

    def __getitem__(self, position: int) -> np.ndarray:
        return _image(self._column[position].as_py(), self._name, self._where)


def _image(value: Mapping[str, Any], name: str, where: str) -> np.ndarray:
    with extra("datasets"):
        from PIL import Image

    try:
        with Image.open(io.BytesIO(value["bytes"]) if value["bytes"] else value["path"]) as opened:
            return np.asarray(opened)
    except (OSError, SyntaxError) as error:
        raise ValueError(
            f"expected images in the column {name!r} of {where}, found one that cannot be decoded: "
            "save the dataset again"
        ) from error
