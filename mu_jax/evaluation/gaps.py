"""One number for the distance from a retrained model: the average gap, and the tug of war."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mu_jax._at_once import holds
from mu_jax.evaluation.accuracy import as_float, is_concrete


class AverageGap(NamedTuple):
    """value: percentage points `[...]`. metrics: the names averaged, which the value depends on."""

    value: jax.Array
    metrics: tuple[str, ...]


def _check_fractions(name: str, values: jax.Array) -> None:
    if is_concrete(values) and not holds(lambda xp, v: xp.all((v >= 0) & (v <= 1)), values):
        raise ValueError(
            f"expected fractions in [0, 1] for {name}, found {values.tolist()}: divide percentages "
            "by 100, and leave a metric that failed out of both sides"
        )


def _check_finite(name: str, values: jax.Array) -> None:
    if is_concrete(values) and not holds(lambda xp, v: xp.all(xp.isfinite(v)), values):
        raise ValueError(
            f"expected finite values for {name}, found {values.tolist()}: leave a metric that "
            "failed out of both sides"
        )


def average_gap(
    values: Mapping[str, ArrayLike],
    reference: Mapping[str, ArrayLike],
    metrics: Sequence[str] | None = None,
    *,
    units: Mapping[str, str] | None = None,
) -> AverageGap:
    """Mean absolute difference from the retrained model over named metrics, in points.

    `100 / M * sum_m |value_m - reference_m|`; a metric that is no fraction, such as a squared
    error, counts as `|value_m / reference_m - 1|`. The field averages unlearning, retain and test
    accuracy and a membership attack; with other metrics the number is another one, so their names
    are returned with it. Direction: lower is better, and closer to retrain is what it measures.

    Args:
        values: metrics of the unlearned model by name; scalars, or arrays over seeds.
        reference: the same of the retrained model, seed by seed.
        metrics: the names to average; None takes all, and then both sides must have the same.
        units: what metrics are measured in, by name, as `reporting.Metric.unit`; default
            "fraction", of values in [0, 1].

    Returns:
        `AverageGap(value, metrics)`.

    Raises:
        ValueError: no metrics, one that either side lacks, fractions outside [0, 1], or NaN.

    Example:
        >>> gap = average_gap({"retain": 0.99, "forget": 0.90}, {"retain": 1.0, "forget": 0.87})
        >>> round(float(gap.value), 4), gap.metrics
        (2.0, ('retain', 'forget'))

    Reference:
        Jia, Liu, Ram, Yao, Liu, Liu, Sharma, Liu, "Model Sparsity Can Simplify Machine
        Unlearning", NeurIPS 2023.
    """
    names = tuple(values if metrics is None else metrics)
    wanted = set(names) if metrics is not None else set(names) | set(reference)
    missing = sorted((wanted - set(values)) | (wanted - set(reference)))
    if missing or not names:
        raise ValueError(
            f"expected the same metrics on both sides, found {sorted(values)} and "
            f"{sorted(reference)}: name in `metrics` those to average"
        )
    pairs, relative = [], []
    for name in names:
        value, target = as_float(values[name]), as_float(reference[name])
        relative.append((units or {}).get(name, "fraction") != "fraction")
        check = _check_finite if relative[-1] else _check_fractions
        check(name, value)
        check(f"{name} of the reference", target)
        pairs.append((value, target))
    return AverageGap(_mean_gap(pairs, tuple(relative)), names)


_SMALL = 1e-12  # of a reference of 0, to which nothing is relative


@functools.partial(jax.jit, static_argnums=1)
def _mean_gap(pairs: list[tuple[jax.Array, jax.Array]], relative: tuple[bool, ...]) -> jax.Array:
    gaps = [
        jnp.abs(value - target) / (jnp.maximum(jnp.abs(target), _SMALL) if divide else 1)
        for (value, target), divide in zip(pairs, relative, strict=True)
    ]
    return 100 * jnp.mean(jnp.stack(jnp.broadcast_arrays(*gaps)), 0)


def tug_of_war(values: ArrayLike, reference: ArrayLike) -> jax.Array:
    """Tug of war, `prod_s (1 - |value_s - reference_s|)` over the splits s.

    With accuracies on forget, retain and test examples this is ToW; with a membership score in
    place of the forget accuracy it is ToW-MIA. Direction: higher is better, 1 matches retrain.

    Args:
        values: fractions `[..., S]` of the unlearned model, one per split.
        reference: fractions of the same shape, of the retrained model.

    Returns:
        f32 `[...]` in [0, 1].

    Raises:
        ValueError: shapes disagree, or values outside [0, 1] or NaN.

    Example:
        >>> round(float(tug_of_war([0.991, 0.880, 0.912], [0.999, 0.924, 0.920])), 6)
        0.940765

    Reference:
        Zhao, Kurmanji, Barbulescu, Triantafillou, Triantafillou, "What makes unlearning hard and
        what to do about it", NeurIPS 2024.
    """
    values, reference = as_float(values), as_float(reference)
    if values.shape != reference.shape or values.ndim == 0 or values.size == 0:
        raise ValueError(
            f"expected two arrays [..., splits] of one shape, found {values.shape} and "
            f"{reference.shape}: give both models' values on the same splits"
        )
    _check_fractions("the unlearned model", values)
    _check_fractions("the reference", reference)
    return _tug_of_war(values, reference)


@jax.jit
def _tug_of_war(values: jax.Array, reference: jax.Array) -> jax.Array:
    return jnp.prod(1 - jnp.abs(values - reference), -1)
