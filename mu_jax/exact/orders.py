"""Orders in which the slices of a shard are learned, and the prefixes that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mu_jax.data.checks import check_counts, check_range


def rotations(slices: int, budget: int) -> np.ndarray:
    """Orders for slices that are equally likely to lose a row, int [budget, slices].

    Up to L orders are cyclic rotations: each slice comes first in one of them, and at every other
    place once. More orders keep the first element of each and rotate the rest, then the first two,
    and so on, breadth first, so that as many beginnings as possible differ.

    Args:
      slices: L. budget: how many orders, at most L!.

    Raises:
      ValueError: numbers out of range.

    Example:
      >>> rotations(4, 4).tolist()
      [[0, 1, 2, 3], [1, 2, 3, 0], [2, 3, 0, 1], [3, 0, 1, 2]]
      >>> rotations(3, 5)[3:].tolist()
      [[0, 2, 1], [1, 0, 2]]
    """
    check_counts(1, slices=slices, budget=budget)
    if budget > math.factorial(slices):
        raise ValueError(
            f"expected a budget of at most {math.factorial(slices)} orders of {slices} slices, "
            f"found {budget}: lower it"
        )
    found: list[tuple[int, ...]] = [tuple(range(slices))]
    for fixed in range(slices):
        if len(found) >= budget:
            break
        turned = range(slices - fixed)
        found = [each[:fixed] + _rotated(each[fixed:], k) for k in turned for each in found]
    return np.asarray(found[:budget], np.int32)


def _rotated(items: tuple[int, ...], by: int) -> tuple[int, ...]:
    return items[by:] + items[:by]


def order_score(probabilities: ArrayLike, power: float = 100.0) -> float:
    """How long an order is expected to be of use: `sum_n n (1 - sum_{k <= n} p_k)^t`.

    Args:
      probabilities: f[n], of the slices in the order, that a request names one of their rows.
      power: t, how many requests are thought of; 100 published.

    Example:
      >>> order_score([0.5, 0.25], power=2)
      0.375
    """
    left = np.clip(1 - np.cumsum(np.asarray(probabilities, np.float64)), 0, None)
    return float(np.sum(np.arange(1, left.size + 1) * left**power))


def matched_orders(
    probabilities: ArrayLike, budget: int | None = None, *, power: float = 100.0
) -> np.ndarray:
    """Orders for slices of known probabilities, int [budget, slices], the best first.

    L orders begin with a slice each. Place by place, every order gets another slice, by the
    matching of orders and slices whose sum of `order_score` is largest. A budget below L takes the
    orders of the highest score.

    Args:
      probabilities: f[L], that a request names a row of each slice; at most 1 together.
      budget: how many orders, at most L; default L.
      power: see `order_score`.

    Raises:
      ValueError: probabilities that are none, or a budget out of range.

    References:
      S. Basu Roy Chowdhury, K. Choromanski, A. Sehanobish, A. Dubey, S. Chaturvedi. Towards
      Scalable Exact Machine Unlearning Using Parameter-Efficient Fine-Tuning. ICLR 2025.

    Example:
      >>> matched_orders([0.4, 0.3, 0.2, 0.1]).tolist()
      [[3, 2, 1, 0], [2, 3, 0, 1], [1, 0, 3, 2], [0, 1, 2, 3]]
    """
    from scipy.optimize import linear_sum_assignment

    given = checked_probabilities(probabilities)
    size = given.size
    budget = size if budget is None else budget
    check_range(1, size, budget=budget)
    found = [[k] for k in range(size)]
    for _ in range(size - 1):
        scores = np.full((size, size), -np.inf)
        for row, prefix in enumerate(found):
            for k in set(range(size)) - set(prefix):
                scores[row, k] = order_score(given[[*prefix, k]], power)
        for row, k in zip(*linear_sum_assignment(scores, maximize=True)):
            found[row].append(int(k))
    found.sort(key=lambda order: -order_score(given[order], power))
    return np.asarray(found[:budget], np.int32)


def checked_probabilities(probabilities: ArrayLike) -> np.ndarray:
    """Probabilities of slices, f64[L]; refuses what are none."""
    given = np.asarray(probabilities, np.float64)
    if given.ndim != 1 or not given.size or (given < 0).any() or not given.sum() <= 1 + 1e-9:
        raise ValueError(
            f"expected a probability for each slice, at most 1 together, found shape {given.shape} "
            f"with the sum {given.sum():.4g}: give shares of the requests"
        )
    return given


class Prefixes(NamedTuple):
    """The tree of the beginnings of orders: what has to be trained once.

    Attributes:
      nodes: at each depth i the different beginnings of length i + 1.
      parents: i32[N_i] at each depth, the number of the beginning that is one shorter.
      places: i32[B, L], the number of each order's beginning at each depth.
    """

    nodes: tuple[tuple[tuple[int, ...], ...], ...]
    parents: tuple[np.ndarray, ...]
    places: np.ndarray


def prefixes_of(orders: ArrayLike) -> Prefixes:
    """The tree of some orders, int [B, L].

    Raises:
      ValueError: rows that are no orders of the same slices.

    Example:
      >>> prefixes_of([[0, 1, 2], [0, 2, 1]]).nodes[1]
      ((0, 1), (0, 2))
    """
    given = np.asarray(orders)
    if given.ndim != 2 or not (np.sort(given, axis=1) == np.arange(given.shape[1])).all():
        raise ValueError(
            f"expected orders of all slices from 0, int [B, L], found shape {given.shape}: make "
            "them by mu.exact.rotations or matched_orders"
        )
    rows: Sequence[tuple[int, ...]] = [tuple(map(int, row)) for row in given]
    nodes: list[tuple[tuple[int, ...], ...]] = []
    parents, places = [], []
    for depth in range(given.shape[1]):
        own = tuple(dict.fromkeys(row[: depth + 1] for row in rows))
        before = nodes[-1] if nodes else ((),)
        parents.append(np.asarray([before.index(node[:-1]) for node in own], np.int32))
        places.append([own.index(row[: depth + 1]) for row in rows])
        nodes.append(own)
    return Prefixes(tuple(nodes), tuple(parents), np.asarray(places, np.int32).T)
