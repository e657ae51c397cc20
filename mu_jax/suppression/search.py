"""The strength of a corruption by a zeroth-order search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mu_jax.data.checks import check_counts, check_range

_LEAST = 1e-8


class SearchResult(NamedTuple):
    """What a search has found.

    Attributes:
      strength: the last strength, a number or an array.
      strengths: [steps + 1, ...], the first one and that after each step.
      slopes: [steps, ...], the estimated gradients.
      scores: f64[steps + 1], the score of each strength; NaN where it was not measured.
    """

    strength: Any
    strengths: np.ndarray
    slopes: np.ndarray
    scores: np.ndarray


def search(
    score: Callable[[Any], Any],
    start: Any,
    *,
    rate: float = 100.0,
    spread: float | None = None,
    least: float | None = None,
    steps: int = 10,
    enough: float | None = None,
    key: jax.Array | None = None,
) -> SearchResult:
    """Lower a score by two of its values a step: `s <- max(s - rate g, least)`.

    `g = (f(s + e) - f(max(s - e, 1e-8))) / 2 e` for a number s; for an array, `s + e u` and
    `s - e u` along one random direction u of length 1 a step, and `g u` in the place of g.

    Args:
      score: of a strength, to be made small: the accuracy of the corrupted model on the forget set,
        or its distance from what a retrained model scores there. Anything that `float` takes.
      start: s at first, a number or an array.
      rate: 100 as published. spread: e, default 0.999 times the start (its mean).
      least: s is never below; default the smallest number of the start.
      steps: at most.
      enough: stop where the score of s is below it, which costs one more value a step; 0.27 for
        questions of four choices. None: all steps.
      key: of the directions, for an array.

    Returns:
      A `SearchResult`.

    Raises:
      ValueError: a score that is not finite; an array without a key.

    Cost: two scores a step, on the host: each may compile, run and generate what it likes.

    Example:
      >>> found = search(lambda s: (s - 2.0) ** 2, 1.0, rate=0.25, spread=0.1, least=0.0)
      >>> round(float(found.strength), 2)
      2.0
    """
    check_counts(0, steps=steps)
    place = np.asarray(start, np.float64)
    spread = 0.999 * float(place.mean()) if spread is None else spread
    least = float(place.min()) if least is None else least
    check_range(0, rate=rate)
    check_range(_LEAST, spread=spread)
    if place.ndim and key is None:
        raise ValueError(
            f"expected a key for the directions of a strength of shape {place.shape}, found none: "
            "give key=jax.random.key(0)"
        )
    places, slopes, scores = [place], [], []
    for step in range(steps + 1):
        scores.append(np.nan if enough is None else _scored(score, place))
        if step == steps or (enough is not None and scores[-1] < enough):
            break
        toward = _direction(key, step, place)
        high, low = place + spread * toward, np.maximum(place - spread * toward, _LEAST)
        slope = (_scored(score, high) - _scored(score, low)) / (2 * spread) * toward
        place = np.maximum(place - rate * slope, least)
        places.append(place)
        slopes.append(slope)
    found = np.reshape(slopes, (len(slopes), *place.shape))
    return SearchResult(_plain(place), np.stack(places), found, np.array(scores))


def _direction(key: jax.Array | None, step: int, place: np.ndarray) -> np.ndarray:
    if key is None or not place.ndim:
        return np.ones(place.shape)
    drawn = np.asarray(jax.random.normal(jax.random.fold_in(key, step), place.shape), np.float64)
    return drawn / np.linalg.norm(drawn)


def _scored(score: Callable[[Any], Any], place: np.ndarray) -> float:
    found = float(score(_plain(place)))
    if not np.isfinite(found):
        raise ValueError(
            f"expected a finite score of the strength {place}, found {found}: give a score that is "
            "defined for every strength above 0"
        )
    return found


def _plain(place: np.ndarray) -> Any:
    return place if place.ndim else float(place)
