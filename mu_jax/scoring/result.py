"""What `score` returns: a table to read, records and arrays to keep."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

from mu_jax.reporting.arrays import Arrays, Examples, Run
from mu_jax.reporting.records import Record
from mu_jax.reporting.runs import write_run
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

    @property
    def run(self) -> Run:
        """Records and arrays, as the figures and `reporting.write_run` take them."""
        return Run(self.records, {self.records[0].forget_set.kind: Arrays(self.arrays)})

    def __repr__(self) -> str:
        return self.render()

    def write(self, path: str | os.PathLike) -> None:
        """Writes the records as JSON lines to `path`, and the arrays to an `.npz` file beside it.

        See `reporting.write_run`; `reporting.read_run` reads both again.

        Args:
            path: a file that ends in `.jsonl`.

        Raises:
            ValueError: another ending, or hyper-parameters that JSON cannot hold; nothing is then
                written.
        """
        write_run(path, self.run)
