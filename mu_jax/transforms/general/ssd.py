"""Selective Synaptic Dampening (SSD), its loss-free form and its adaptive threshold."""

from __future__ import annotations

import warnings
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import edits
from mu_jax.data.batches import Batches, concatenate, is_concrete
from mu_jax.data.checks import check_range
from mu_jax.loops.labels import check_labels
from mu_jax.mesh.shards import reduction
from mu_jax.model import Model
from mu_jax.statistics import Accumulator, collect, importance
from mu_jax.statistics.accumulator import check_fingerprint, mean_of
from mu_jax.statistics.importance import Definition
from mu_jax.transforms._shared.transform import Unlearn, UnlearningWarning, method, passes, report

PyTree = Any


class SSDInfo(NamedTuple):
    """What SSD selected.

    Attributes:
      selected: fraction of parameters with `F_f > alpha F`. selected_by_leaf: of each leaf.
      largest_ratio: the largest `F_f / F`; with an alpha above it nothing is selected.
      alpha: the threshold used.
      ratio_bound: `n / n_forget`, which no ratio to the full data can exceed under per-example
        importance.
      predicted_forget_change, predicted_full_change: `sum_j F_j delta_j^2 / 2`, the change of the
        mean loss that the importance predicts, taken as the diagonal of the curvature ("adaptive"
        has the retain set in place of the full data).
      stale: whether a given full importance belongs to other variables.
    """

    selected: jax.Array
    selected_by_leaf: PyTree
    largest_ratio: jax.Array
    alpha: jax.Array
    ratio_bound: jax.Array
    predicted_forget_change: jax.Array
    predicted_full_change: jax.Array
    stale: jax.Array

    def messages(self) -> list[str]:
        """Sentences on a selection of nothing or of too much."""
        found = []
        chosen = np.asarray(self.selected)
        if np.any(chosen == 0):
            found.append(
                f"SSD selected nothing: alpha is {np.max(self.alpha):.4g}, the largest ratio of "
                f"importances {np.max(self.largest_ratio):.4g}; lower alpha below it."
            )
        if np.any(chosen > 0.3):
            found.append(
                f"SSD selected {np.max(chosen):.0%} of all parameters: expect a collapsed model "
                "and raise alpha."
            )
        if np.any(np.asarray(self.stale)):
            found.append("The full importance belongs to other variables: compute it again.")
        return found


@method
def ssd(
    model: Model,
    alpha: jax.Array | float | Literal["adaptive"],
    dampening: jax.Array | float = 1.0,
    *,
    definition: Definition = "per_example",
    group_size: int | None = None,
    full_importance: Accumulator | None = None,
) -> Unlearn:
    """Selective synaptic dampening: shrink the weights that matter more for the forget set.

    With importances `F_f` over the forget set and `F` over all training data,
    `theta_j <- min(lambda F_j / F_f,j, 1) theta_j` where `F_f,j > alpha F_j`. No training.

    It fails on random sets, whose importances are like those of all data, so that few weights stand
    out; on what resembles retained examples, whose weights are dampened too; and over many
    requests, each of which multiplies weights again.

    Args:
      model: the model.
      alpha: selection threshold; its scale belongs to the definition of importance. The published
        10 belongs to `grouped` by 64 on class-sorted data; under `per_example` no ratio exceeds
        `n / n_forget`, and values of 1.5 to 5 are where to look. May be traced: a grid is one
        program. "adaptive" takes the percentile of ASSD (`mu.edits.adaptive_alpha`) and, as its
        authors do, the retain set in place of the full data.
      dampening: lambda, 1 as published; may be traced.
      definition, group_size: see `mu.statistics.importance`. "grouped" reads all data in the order
        retain, then forget; "loss_free" uses no labels.
      full_importance: a stored importance over the full training data at these variables; the
        retain set is then not read.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key is not used, and
      `info.details` is an `SSDInfo`.

    Raises:
      ValueError: alpha or dampening negative or NaN, where they can be seen; sets that overlap or
        are empty; a full importance of another definition or of other variables.

    Cost: one forward and backward pass over retain and forget (forget only with a stored full
    importance); memory of two trees of importances beside the parameters.

    Differences from the reference program (`if-loops/selective-synaptic-dampening`):
      1. Importance is per example by default; its own form is `definition="grouped",
         group_size=64`, and agrees to rounding.
      2. A weight whose importance is 0 on the full data and positive on the forget set becomes
         exactly 0, and unselected entries never divide 0 by 0.

    References:
      J. Foster, S. Schoepf, A. Brintrup. Fast Machine Unlearning Without Retraining Through
      Selective Synaptic Dampening. AAAI 2024.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> data = mu.batches(jnp.eye(4), jnp.array([2.0, 3.0, 4.0, 5.0]), batch_size=4)
      >>> forget, retain = mu.split(data, [3])
      >>> variables = mu.Variables(jnp.ones(4))
      >>> edited, info = mu.ssd(model, alpha=2.0)(jax.random.key(0), variables, forget, retain)
      >>> edited.params, float(info.details.largest_ratio)
      (Array([1.  , 1.  , 1.  , 0.25], dtype=float32), 4.0)
    """
    adaptive = isinstance(alpha, str)
    if adaptive and alpha != "adaptive":
        raise ValueError(f"expected alpha to be a number or 'adaptive', found {alpha!r}: give one")
    check_range(alpha=None if adaptive else alpha)
    check_range(high=3e38, dampening=dampening)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        del key
        statistic = importance(model, definition, group_size)
        if definition in ("per_example", "grouped"):
            check_labels(model, variables, forget=forget, retain=retain)
        params = model.params(variables)
        if definition == "per_example" and not adaptive:
            _warn_if_out_of_reach(alpha, forget, retain)
        part = collect(statistic, variables, forget)
        full: Any = full_importance
        read: jax.Array | float = 0.0
        if full is None:
            sets = (forget, retain)
            full, read = _reference(statistic, variables, sets, part, retain_only=adaptive)
        if full.definition != statistic.definition:
            raise ValueError(
                f"expected a full importance of definition {statistic.definition!r}, found "
                f"{full.definition!r}: compute both the same way"
            )
        check_fingerprint(full, part.fingerprint)

        total: Any = full.weight
        threshold: Any = alpha
        if adaptive:
            if full_importance is None:
                total = passes(full.weight, part.weight)
            threshold = _adaptive_alpha(part, full, total)
        updates = edits.dampen(params, part.value, full.value, alpha=threshold, dampening=dampening)
        after = model.with_params(variables, edits.apply(params, updates))
        return report(
            model,
            variables,
            after,
            (forget, retain),
            steps=0,
            example_passes=passes(part.weight, read, times=statistic.group_size),
            details=_details(part, full, total, threshold, updates),
        )

    importance(model, definition, group_size)  # refuses a wrong definition here, not later
    return unlearn


def _reference(statistic, variables, sets, part, *, retain_only) -> tuple[Accumulator, jax.Array]:
    """Importance over all data or the retain set, and the weight that was read for it."""
    forget, retain = sets
    if retain_only or statistic.group_size == 1:
        rest = collect(statistic, variables, retain)
        return (rest if retain_only else rest.merge(part)), rest.weight
    # Groups may hold examples of both sets, so their sum is not the importance over all data.
    if isinstance(forget, Batches) and isinstance(retain, Batches):
        full = collect(statistic, variables, concatenate(retain, forget))
        return full, full.weight
    raise ValueError(
        "expected array-backed Batches for grouped importance, found an iterable: compute "
        "full_importance over the data in its own order and pass it"
    )


def _adaptive_alpha(part, full, total) -> jax.Array:
    return edits.adaptive_alpha(part.value, full.value, part.weight / total)


@reduction
def _details(xp, part, full, total, alpha, updates) -> SSDInfo:
    value, reference = mean_of(part.sum, part.weight), mean_of(full.sum, full.weight)
    chosen = edits.selected(value, reference, alpha)

    def predicted(mean):
        terms = jax.tree.map(lambda f, u: xp.sum(f * xp.square(u)), mean, updates)
        return sum(jax.tree.leaves(terms)) / 2

    return SSDInfo(
        selected=edits.mean(chosen, xp=xp),
        selected_by_leaf=jax.tree.map(lambda leaf: edits.mean(leaf, xp=xp), chosen),
        largest_ratio=edits.largest(edits.ratios(value, reference, xp=xp), xp=xp),
        alpha=xp.asarray(alpha, jnp.float32),
        ratio_bound=total / part.weight,
        predicted_forget_change=predicted(value),
        predicted_full_change=predicted(reference),
        stale=xp.any(full.fingerprint != part.fingerprint),
    )


def _warn_if_out_of_reach(alpha, forget, retain) -> None:
    """Say before the pass that no ratio can exceed `n / n_forget`."""
    size, rest = _size(forget), _size(retain)
    if size is None or rest is None or not is_concrete(alpha):
        return
    bound = (size + rest) / size
    if np.min(alpha) >= bound:
        warnings.warn(
            f"Nothing can be selected: alpha is {np.min(alpha):.4g}, and under per-example "
            f"importance no ratio exceeds n / n_forget = {bound:.4g}; lower alpha.",
            UnlearningWarning,
            stacklevel=3,
        )


def _size(examples: Any) -> float | None:
    """Total weight of a set, or None where it cannot be seen."""
    weight = getattr(examples, "weight", None)
    if weight is None:
        return getattr(examples, "num_examples", None)
    return float(np.asarray(weight).sum()) if is_concrete(weight) else None
