"""The arrays behind the numbers of a run: what every metric and every figure is computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from mu_jax.reporting.records import Record


class Examples(NamedTuple):
    """What N models of a row say of n examples.

    ids: i32[n]. targets: [n, ...]. losses: f32[N, n], by which the row is scored. margins:
    f32[N, n] of a classification (`evaluation.margins`), else None. predictions: [N, n, ...] the
    class, yes or no, or the number; None where outputs are none of these.
    """

    ids: np.ndarray
    targets: Any
    losses: np.ndarray
    margins: np.ndarray | None
    predictions: np.ndarray | None


class Similarity(NamedTuple):
    """Linear CKA of the layers of a row on one set of examples, over N models.

    layers: names, L. to_original, to_oracle: f32[N, L]. low, high: f32[L], the band that retrained
    models span among themselves.
    """

    layers: tuple[str, ...]
    to_original: np.ndarray
    to_oracle: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Edits(NamedTuple):
    """Where a method has touched the parameters, leaf by leaf, over N models.

    leaves: names, L. sizes: i32[L], entries of a leaf. changed: f32[N, L], the share of entries
    that differ. moved: f32[N, L], `|theta' - theta| / |theta|`. toward_oracle: f32[N, L], the
    cosine between the move and the way to a retrained model, or None without one.
    """

    leaves: tuple[str, ...]
    sizes: np.ndarray
    changed: np.ndarray
    moved: np.ndarray
    toward_oracle: np.ndarray | None


class Histogram(NamedTuple):
    """Counts of a quantity, and where a method draws its line.

    edges: f32[B + 1]. counts: f32[B]. threshold: the line (the alpha of SSD). title: the quantity.
    """

    edges: np.ndarray
    counts: np.ndarray
    threshold: float
    title: str


class Curve(NamedTuple):
    """A number over steps, of N models. steps: f32[S]. values: f32[N, S]. title: the number."""

    steps: np.ndarray
    values: np.ndarray
    title: str


class Shown(NamedTuple):
    """Examples for the eye. ids: i32[n]. content: images u8[n, H, W, C], else texts str[n]."""

    ids: np.ndarray
    kind: Literal["image", "text", "row"]
    content: np.ndarray


@dataclass(frozen=True, eq=False)
class Arrays:
    """The arrays of one forget set.

    Attributes:
      examples: by row and set ("forget", "retain", "test").
      similarity: by row and set. edits, ratios, relearning: by row. None of them has to be there.
      shown: the examples themselves, as many as fit a page.
      others: arrays by name that further metrics are computed from, as of language models.
    """

    examples: Mapping[str, Mapping[str, Examples]]
    similarity: Mapping[str, Mapping[str, Similarity]] = field(default_factory=dict)
    edits: Mapping[str, Edits] = field(default_factory=dict)
    ratios: Mapping[str, Histogram] = field(default_factory=dict)
    relearning: Mapping[str, Curve] = field(default_factory=dict)
    shown: Shown | None = None
    others: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Run:
    """What a binary has found: records, and the arrays of every forget set by `ForgetSet.kind`.

    digest: of the configuration, or "".
    """

    records: tuple[Record, ...]
    arrays: Mapping[str, Arrays] = field(default_factory=dict)
    digest: str = ""
