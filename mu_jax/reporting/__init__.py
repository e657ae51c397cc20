"""Reporting: result records on disk, and tables made from them."""

from mu_jax.reporting.arrays import (
    Arrays,
    Curve,
    Edits,
    Examples,
    Histogram,
    Run,
    Shown,
    Similarity,
)
from mu_jax.reporting.floors import at_floor, gap_to_oracles
from mu_jax.reporting.json_lines import append, from_json, read, to_json
from mu_jax.reporting.records import Cost, ForgetSet, Metric, Oracle, Record, missing
from mu_jax.reporting.runs import read_run, write_run
from mu_jax.reporting.summary import Cell, Column, Row, Table, summarize
from mu_jax.reporting.tables import render, to_rich

__all__ = [
    "Arrays",
    "Cell",
    "Column",
    "Cost",
    "Curve",
    "Edits",
    "Examples",
    "ForgetSet",
    "Histogram",
    "Metric",
    "Oracle",
    "Record",
    "Row",
    "Run",
    "Shown",
    "Similarity",
    "Table",
    "append",
    "at_floor",
    "from_json",
    "gap_to_oracles",
    "missing",
    "read",
    "read_run",
    "render",
    "summarize",
    "to_json",
    "to_rich",
    "write_run",
]
