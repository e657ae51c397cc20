"""What `score` returns: a table to read, records and arrays to keep."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import jax
import numpy as np

from mu_jax import _files as files
from mu_jax.reporting.arrays import Examples
from mu_jax.reporting.json_lines import to_json
from mu_jax.reporting.records import Record
from mu_jax.reporting.summary import Row, Table, summarize
from mu_jax.reporting.tables import render


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Score:
    """The result of `mu.evaluation.score`; printed, it is the table. Equal to itself only.

    Attributes:
        records: one for each row and model, or for each row where KLoM is in the table.
        arrays: `Examples` by row and set ("forget", "retain", "test"), of all models of the row.
        notes: what the table cannot say, sentences beneath it.
    """

    records: tuple[Record, ...]
    arrays: Mapping[str, Mapping[str, Examples]]
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> Table:
        """The table, as `reporting.render` and `reporting.to_rich` take it."""
        (found,) = summarize(self.records)
        return found._replace(notes=(*found.notes, *self.notes))

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the table in printing order; cells stand in the order of `table.columns`."""
        return self.table.rows

    def render(self, *, width: int = 100, markdown: bool = False) -> str:
        """The table as text, `width` characters a line, or as Markdown."""
        return render([self.table], width=width, markdown=markdown)

    def __repr__(self) -> str:
        return self.render()

    def write(self, path: str | os.PathLike) -> None:
        """Writes the records as JSON lines to `path`, and the arrays to an `.npz` file beside it.

        The arrays of `scores.jsonl` lie in `scores.npz` under `row/set/field`, such as
        `ssd/forget/losses`, and every record names that file. Each file is written whole or not at
        all, the arrays first, in place of what was there.

        Args:
            path: a file that ends in `.jsonl`.

        Raises:
            ValueError: another ending, or hyper-parameters that JSON cannot hold; nothing is then
                written.
        """
        target = files.absolute(path)
        if target.suffix != ".jsonl":
            raise ValueError(
                f"expected a path that ends in .jsonl, found {target}: the arrays go to an .npz "
                "file of the same name"
            )
        beside = target.with_suffix(".npz")
        named = [dataclasses.replace(r, arrays={"examples": beside.name}) for r in self.records]
        lines = "".join(to_json(record) + "\n" for record in named)
        with files.replacing(beside) as file:
            np.savez(file, **self._flat())  # type: ignore[arg-type]
        files.replace_text(target, lines)

    def _flat(self) -> dict[str, np.ndarray]:
        found = {}
        for row, sets in self.arrays.items():
            for name, examples in sets.items():
                for field, value in examples._asdict().items():
                    leaves = jax.tree_util.tree_leaves_with_path(value)
                    for path, leaf in leaves:
                        tail = jax.tree_util.keystr(path, simple=True, separator="/")
                        key = "/".join([row, name, field, *([tail] if tail else [])])
                        found[key] = np.asarray(leaf)
        return found
