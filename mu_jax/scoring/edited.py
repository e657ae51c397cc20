"""Where a method has touched the parameters, leaf by leaf, and by what SSD chooses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np

from mu_jax import edits
from mu_jax.data.batches import Batches, concatenate
from mu_jax.model import Model, path_name
from mu_jax.reporting.arrays import Edits, Histogram
from mu_jax.statistics import collect, importance
from mu_jax.statistics.importance import Definition

PyTree = Any
BINS = 40


def leaf_edits(before: PyTree, after: PyTree, oracle: PyTree | None = None) -> Edits:
    """What has changed in every leaf of one model.

    The share of entries that differ, the relative move `|theta' - theta| / |theta|` (infinite where
    the leaf was 0 and is no longer), and the cosine between the move and the way to a retrained
    model, NaN where either is 0.

    Args:
        before, after: parameters. oracle: those of a retrained model.

    Returns:
        `Edits` of N = 1 model; `stacked_edits` makes one of several.

    Example:
        >>> before, after = {"w": np.array([3.0, 4.0])}, {"w": np.array([3.0, 1.5])}
        >>> found = leaf_edits(before, after, {"w": np.array([3.0, 0.0])})
        >>> found.leaves, found.changed.tolist(), found.moved.tolist(), found.toward_oracle.tolist()
        (('w',), [[0.5]], [[0.5]], [[1.0]])
    """
    named = jax.tree_util.tree_leaves_with_path(before)
    old, new = ([np.asarray(x, np.float64) for x in jax.tree.leaves(t)] for t in (before, after))
    moves = [y - x for x, y in zip(old, new, strict=True)]
    changed = [float(np.mean(x != y)) for x, y in zip(old, new)]
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = [
            np.linalg.norm(m) / np.linalg.norm(x) if m.any() else 0 for m, x in zip(moves, old)
        ]
        toward = None
        if oracle is not None:
            ways = [np.asarray(z, np.float64) - x for z, x in zip(jax.tree.leaves(oracle), old)]
            cosines = [
                np.vdot(m, w) / (np.linalg.norm(m) * np.linalg.norm(w)) for m, w in zip(moves, ways)
            ]
            toward = np.array([cosines], np.float32)
    sizes = np.array([x.size for x in old], np.int32)
    leaves = tuple(path_name(path) for path, _ in named)
    return Edits(
        leaves, sizes, np.array([changed], np.float32), np.array([moved], np.float32), toward
    )


def stacked_edits(found: Sequence[Edits]) -> Edits:
    """The edits of several models of a row as one."""
    toward = [one.toward_oracle for one in found if one.toward_oracle is not None]
    return found[0]._replace(
        changed=np.concatenate([one.changed for one in found]),
        moved=np.concatenate([one.moved for one in found]),
        toward_oracle=np.concatenate(toward) if len(toward) == len(found) else None,
    )


def importance_ratios(
    model: Model,
    variables: PyTree,
    forget: Batches,
    retain: Batches,
    *,
    alpha: float | Literal["adaptive"],
    definition: Definition = "per_example",
    group_size: int | None = None,
) -> Histogram:
    """How often forget importance over full importance takes which value, and the alpha of SSD.

    Bins have equal width in logarithms, from below alpha and the thousandth of the positive ratios
    to just above alpha and the largest ratio; what lies outside, ratios of 0 and infinite ones,
    counts in the first and in the last bin. An edge is the threshold; what lies above it is what
    `mu.ssd` dampens.

    Args:
        model, variables: as `mu.ssd` is given them. forget, retain: the sets.
        alpha, definition, group_size: of `mu.ssd`; with "adaptive" the retain set stands for all
            data, and the threshold is the one that is found.

    Cost: one forward and backward pass over both sets.
    """
    statistic = importance(model, definition, group_size)
    part, rest = (collect(statistic, variables, each) for each in (forget, retain))
    if alpha == "adaptive":
        full = rest
        share = part.weight / (part.weight + rest.weight)
        alpha = float(edits.adaptive_alpha(part.value, full.value, share))
    elif statistic.group_size == 1:
        full = rest.merge(part)
    else:
        full = collect(statistic, variables, concatenate(retain, forget))
    found = edits.ratios(*(jax.tree.map(np.asarray, x.value) for x in (part, full)), xp=np)
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(found)])
    return histogram(values, float(alpha))


def histogram(values: np.ndarray, alpha: float) -> Histogram:
    """The histogram of `importance_ratios`.

    Example:
        >>> found = histogram(np.array([0.0, 0.5, 1.0, 3.0, np.inf]), 2.0)
        >>> found.counts.sum().item(), found.counts[found.edges[:-1] >= 2.0].sum().item()
        (5.0, 2.0)
    """
    known = values[np.isfinite(values) & (values > 0)]
    ends = [float(x) for x in np.quantile(known, [1e-3, 1])] if known.size else [0.1, 1.0]
    line = [alpha] if alpha > 0 else []
    low, high = min(*ends, *(0.7 * x for x in line)), 1.01 * max(*ends, *line)
    edges = np.geomspace(low, high, BINS + 1)
    if line:  # an edge is the threshold, so that whole bins lie on either side
        edges[1 + np.abs(np.log(edges[1:-1] / alpha)).argmin()] = alpha
    counts, _ = np.histogram(np.clip(np.nan_to_num(values, nan=0), low, high), edges)
    title = "forget importance over full importance"
    return Histogram(edges.astype(np.float32), counts.astype(np.float32), alpha, title)
