"""Whether a value of KLoM can be believed, and which models make it smaller than it should be."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from mu_jax.evaluation.klom import _check_margins, klom
from mu_jax.evaluation.outliers import far_models

Far = tuple[tuple[int, ...], tuple[int, ...]]  # numbers of oracle and of unlearned models


class KlomCheck(NamedTuple):
    """Result of `klom_check`.

    value: KLoM over the examples. below_floor: whether it is smaller than the floor.
    oracle_models, unlearned_models: numbers of the models that stretch the bins, of either kind.
    value_without: KLoM without them; NaN if fewer than two of a kind are left.
    reason: one sentence, empty if the value can be believed.
    """

    value: float
    below_floor: bool
    oracle_models: tuple[int, ...]
    unlearned_models: tuple[int, ...]
    value_without: float
    reason: str

    @property
    def flag(self) -> bool:
        """Whether the value is not to be ranked."""
        return bool(self.reason)


@jax.jit
def left_out(
    oracle: jax.Array, unlearned: jax.Array, keep_oracle: jax.Array, keep_unlearned: jax.Array
) -> jax.Array:
    """KLoM f32[B, n] of B choices of models, `keep_oracle[B, a]` and `keep_unlearned[B, b]`."""

    def one(keep):
        return klom(oracle[keep[0]], unlearned[keep[1]])

    return jax.lax.map(one, (keep_oracle, keep_unlearned))


def summarize(values: ArrayLike, q: float | None) -> np.ndarray:
    """Mean over the last axis, or the q-quantile."""
    values = np.asarray(values, np.float64)
    return values.mean(-1) if q is None else np.quantile(values, q, axis=-1)


def klom_influence(
    oracle_margins: ArrayLike, unlearned_margins: ArrayLike, *, q: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """What each model takes off KLoM: the value without the model minus the value with all.

    The bins of KLoM span all margins, so that one model far outside leaves the others in one bin:
    its number is large and positive. Two such models hide each other; see `klom_check`.

    Args:
        oracle_margins: float `[N_oracle, n]`, of three models or more; see `klom`.
        unlearned_margins: float `[N_unlearned, n]`, of three models or more.
        q: quantile over the examples; None is the mean.

    Returns:
        Two arrays, float64 `[N_oracle]` and `[N_unlearned]`.

    Raises:
        ValueError: fewer than three models of a kind, or as `klom`.

    Cost:
        As N_oracle + N_unlearned times `klom`.

    Example:
        >>> oracle, unlearned = jax.random.normal(jax.random.key(0), (2, 32, 20))
        >>> ours, theirs = klom_influence(oracle, (unlearned + 2).at[5].set(-80.0))
        >>> int(theirs.argmax()), bool(theirs[5] > 1 > np.delete(theirs, 5).max() > 0)
        (5, True)
    """
    oracle, unlearned = _check_margins(oracle_margins, unlearned_margins)
    counts = (oracle.shape[0], unlearned.shape[0])
    if min(counts) < 3:
        raise ValueError(
            f"expected at least three models of each kind to leave one out, found {counts[0]} and "
            f"{counts[1]}: train more"
        )
    everything = float(summarize(klom(oracle, unlearned), q))
    found = []
    for side, n in enumerate(counts):
        keep: list[np.ndarray] = [np.tile(np.arange(k), (n, 1)) for k in counts]
        keep[side] = np.stack([np.delete(np.arange(n), i) for i in range(n)])
        found.append(summarize(left_out(oracle, unlearned, *keep), q) - everything)
    return found[0], found[1]


def klom_check(
    oracle_margins: ArrayLike,
    unlearned_margins: ArrayLike,
    *,
    floor: float | None = None,
    q: float | None = None,
) -> KlomCheck:
    """Says whether KLoM is too small to be believed, and names the models that cause it.

    The published definition has a weakness: its bins span all margins, and one model far from the
    others widens them until both histograms fall into one bin. Of 64 Gaussian models shifted by 2,
    one model at -80 takes KLoM from 4.1 to 1.9, and of unshifted ones from 0.64, the floor, to
    0.05. The value stays as published; the check says that it is not to be ranked. A model
    stretches the bins if it is far from its own ensemble (`ensemble_distance`); below the floor,
    where no model is, also the one without which the value rises most, if it then is no longer
    below.

    Args:
        oracle_margins, unlearned_margins: as for `klom`, with its default options.
        floor: the mean, or the quantile, of `klom_floor` for the same numbers of models.
        q: quantile over the examples; None is the mean.

    Returns:
        `KlomCheck`, Python values.

    Raises:
        ValueError: as `klom`.

    Cost:
        A few times `klom`; below a floor without a far model, as `klom_influence`.

    Example:
        >>> oracle, unlearned = jax.random.normal(jax.random.key(0), (2, 64, 20))
        >>> klom_check(oracle, unlearned + 2).flag
        False
        >>> found = klom_check(oracle, (unlearned + 2).at[5].set(-80.0), floor=0.64)
        >>> found.flag, found.below_floor, found.unlearned_models, bool(found.value_without > 3)
        (True, False, (5,), True)
    """
    oracle, unlearned = _check_margins(oracle_margins, unlearned_margins)
    value = float(summarize(klom(oracle, unlearned), q))
    below = floor is not None and value < floor
    far: Far = (far_models(oracle), far_models(unlearned))
    without = _value_without(oracle, unlearned, far, q)
    if below and not any(far) and min(oracle.shape[0], unlearned.shape[0]) > 2:
        moved = klom_influence(oracle, unlearned, q=q)
        side = int(moved[1].max() >= moved[0].max())
        largest = float(moved[side].max())
        if floor is not None and value + largest >= floor:
            far = ((), (int(moved[1].argmax()),)) if side else ((int(moved[0].argmax()),), ())
            without = value + largest
    return KlomCheck(
        value, below, *far, without, _reason(value, floor if below else None, far, without)
    )


def _value_without(oracle: jax.Array, unlearned: jax.Array, far: Far, q: float | None) -> float:
    kept = [np.delete(np.asarray(m), list(f), axis=0) for m, f in zip((oracle, unlearned), far)]
    if min(len(k) for k in kept) < 2:
        return float("nan")
    return float(summarize(klom(*kept), q))


def _reason(value: float, floor: float | None, far: Far, without: float) -> str:
    kinds = [(k, f) for k, f in zip(("oracle", "unlearned"), far) if f]
    names = " and ".join(f"{kind} {', '.join(map(str, found))}" for kind, found in kinds)
    stretched = (
        f"models far from their ensemble ({names}) stretch the bins, {without:.2f} without them"
    )
    if floor is None:
        return stretched if names else ""
    below = f"{value:.2f} is below the floor of {floor:.2f}"
    return f"{below}: {stretched}" if names else f"{below}, and no single model is the cause"
