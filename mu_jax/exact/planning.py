"""What a protocol of exact unlearning will cost and survive, said before anything is trained.

A request names one row, and its slice is drawn by the probabilities of the slices, all equal if
none are given; requests are independent of each other.
"""

from __future__ import annotations

import itertools
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mu_jax.data.checks import check_counts, check_range
from mu_jax.exact.orders import checked_probabilities, prefixes_of


def stage_epochs(epochs: int, slices: int) -> tuple[int, ...]:
    """Epochs of each stage: `floor((r + 1) e) - floor(r e)` with `e = 2 epochs / (slices + 1)`.

    Stage r passes over `r + 1` of the slices, so that all stages together are as much work as
    `epochs` passes over all of them, up to rounding.

    Example:
      >>> stage_epochs(10, 4)
      (4, 4, 4, 4)
      >>> stage_epochs(5, 3)
      (2, 3, 2)
    """
    check_counts(1, epochs=epochs, slices=slices)
    ends = [2 * epochs * stage // (slices + 1) for stage in range(slices + 1)]
    return tuple(after - before for before, after in itertools.pairwise(ends))


def sisa_cost(shards: int, slices: int, epochs: int, *, removed: int = 1) -> float:
    """The share of a whole training that a removal costs in SISA, in expectation.

    With `w_r` the share of stage r in the training of a shard, K removed rows drawn at random and
    equal slices:

        sum_r w_r (1 - (1 - (r + 1) / (S R))^K)

    For K = 1 and as many epochs in each stage it is `(2 R + 1) / (3 R S)`: slices save a third at
    most.

    Args:
      shards: S. slices: R. epochs: as for `sisa`.
      removed: K, rows that are removed together, one training for all.

    Raises:
      ValueError: numbers out of range.

    Example:
      >>> [round(sisa_cost(5, slices, 10), 3) for slices in (1, 4)]
      [0.2, 0.15]
      >>> round(sisa_cost(5, 4, 10, removed=5), 3)
      0.54
    """
    check_counts(1, shards=shards, removed=removed)
    work = np.arange(1, slices + 1) * stage_epochs(epochs, slices)
    seen = np.arange(1, slices + 1) / (shards * slices)
    return float(np.sum(work / work.sum() * (1 - (1 - seen) ** removed)))


class Survived(NamedTuple):
    """How many requests a protocol survives without any training, in expectation.

    Attributes:
      first: requests until a shard answers no more. last: until no shard answers.
    """

    first: float
    last: float


def deletions_survived(
    shards: int, slices: int, orders: int = 1, *, probabilities: ArrayLike | None = None
) -> Survived:
    """How many requests a protocol survives in expectation.

    A shard is lost when in each of its orders the first slice has lost a row. With
    n = min(B, L) different first slices of probability p_k / m each, requests that come at the
    times of a Poisson process of rate 1 make the slices independent, and

        last  = int_0^oo 1 - prod_k (1 - exp(-p_k t / m))^m dt  = m L H(m n)  for equal p
        first = int_0^oo (1 - prod_k (1 - exp(-p_k t / m)))^m dt

    exactly; H are the harmonic numbers. One order is SISA that does not train again.

    Args:
      shards: m. slices: L.
      orders: B, of which `min(B, L)` begin with different slices, as those of `rotations` do.
      probabilities: f[L], that a request names a row of each slice; default all 1 / L. With B < L
        the orders begin with the slices that are least likely.

    Raises:
      ValueError: numbers out of range, or a first slice that is never named: it survives for ever.

    Example:
      >>> [round(requests, 2) for requests in deletions_survived(5, 6)]
      [6.0, 68.5]
      >>> round(deletions_survived(5, 6, orders=6).last, 2)
      119.85
    """
    from scipy.integrate import quad

    check_counts(1, shards=shards, slices=slices, orders=orders)
    given = np.full(slices, 1 / slices) if probabilities is None else probabilities
    first = np.sort(checked_probabilities(given))[: min(orders, slices)] / shards
    if len(np.asarray(given)) != slices or not first[0] > 0:
        raise ValueError(
            f"expected {slices} probabilities above 0, found {np.asarray(given).tolist()}: what is "
            "never asked for is never lost, leave such slices out"
        )

    def lost(t: float) -> float:
        return float(np.exp(np.log1p(-np.exp(-first * t)).sum())) if t > 0 else 0.0

    scale = 1 / first[0]  # of the time that the least likely slice takes

    def mean(left) -> float:
        parts = [quad(left, a * scale, b * scale, limit=200)[0] for a, b in _INTERVALS]
        return float(sum(parts))

    return Survived(mean(lambda t: (1 - lost(t)) ** shards), mean(lambda t: 1 - lost(t) ** shards))


_ENDS = (0.0, 0.01, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)
_INTERVALS = tuple(itertools.pairwise(_ENDS))


def chance_to_answer(requests: int, shards: int, slices: int, orders: int = 1) -> np.ndarray:
    """The probability that some shard answers after each number of requests, f64[requests + 1].

    Of N = m min(B, L) first slices among m L equally likely ones, the number that has lost a row
    is a Markov chain; some shard answers until it is N. The recursion is exact.

    Args:
      requests: the last number of requests.
      shards, slices, orders: see `deletions_survived`.

    Example:
      >>> chance_to_answer(3, shards=1, slices=2).tolist()
      [1.0, 0.5, 0.25, 0.125]
    """
    check_counts(0, requests=requests)
    check_counts(1, shards=shards, slices=slices, orders=orders)
    number, every = shards * min(orders, slices), shards * slices
    lost = np.zeros(number + 1)
    lost[0] = 1
    onwards = (number - np.arange(number + 1)) / every
    found = [1.0]
    for _ in range(requests):
        moved = lost * onwards
        lost = lost - moved
        lost[1:] += moved[:-1]
        found.append(float(1 - lost[-1]))
    return np.asarray(found)


class S3TPlan(NamedTuple):
    """What orders of slices cost to train, and what they survive.

    Attributes:
      trained: parts of the model to train and keep, all shards together: one for each different
        beginning of an order.
      passes: work of the training in passes over all data.
      first, last: see `Survived`.
      sure: so many requests are survived with the given confidence.
    """

    trained: int
    passes: float
    first: float
    last: float
    sure: int


def plan_s3t(orders: ArrayLike, shards: int, epochs: int, *, confidence: float = 0.95) -> S3TPlan:
    """What a budget of orders costs and survives, for slices that are equally likely to be named.

    Args:
      orders: int [B, L], such as `rotations(slices, budget)`.
      shards: m. epochs: of each stage.
      confidence: of `sure`.

    Raises:
      ValueError: orders that are none, numbers out of range.

    Example:
      >>> from mu_jax.exact import rotations
      >>> plan = plan_s3t(rotations(4, 4), shards=5, epochs=10)
      >>> plan.trained, plan.passes, round(plan.last, 1), plan.sure
      (80, 100.0, 72.0, 41)
    """
    check_range(1e-9, 1 - 1e-9, confidence=confidence)
    check_counts(1, shards=shards, epochs=epochs)
    tree, given = prefixes_of(orders), np.asarray(orders)
    slices = given.shape[1]
    different = len(tree.nodes[0])
    number = [len(nodes) for nodes in tree.nodes]
    passes = epochs * sum(n * (depth + 1) / slices for depth, n in enumerate(number))
    mean = deletions_survived(shards, slices, different)
    chance = chance_to_answer(int(mean.last), shards, slices, different)
    sure = int(np.flatnonzero(chance >= confidence)[-1])
    return S3TPlan(shards * sum(number), passes, mean.first, mean.last, sure)


class Simulated(NamedTuple):
    """Requests drawn at random, and what they did to orders of slices.

    Attributes:
      first: int [runs], requests until a shard answers no more. last: until no shard answers.
    """

    first: np.ndarray
    last: np.ndarray

    def interval(
        self, which: Literal["first", "last"] = "last", *, confidence: float = 0.95
    ) -> tuple[float, float]:
        """An interval for the mean, by its standard error and the normal distribution."""
        values = getattr(self, which).astype(np.float64)
        width = NormalDist().inv_cdf((1 + confidence) / 2)
        error = width * values.std(ddof=1) / np.sqrt(values.size)
        return float(values.mean() - error), float(values.mean() + error)


def simulate_deletions(
    seed: int,
    orders: ArrayLike,
    shards: int,
    *,
    runs: int = 1000,
    probabilities: ArrayLike | None = None,
) -> Simulated:
    """Draw requests until no shard answers, many times.

    Args:
      seed: of the draws. orders: int [B, L]. shards: m. runs: how many times, at least 2.
      probabilities: f[L], of the slices; default all equal.

    Raises:
      ValueError: orders that are none, probabilities that are none or 0 for all first slices.

    Cost: `runs` times the requests survived, on the host.

    Example:
      >>> low, high = simulate_deletions(0, [[0, 1], [1, 0]], shards=3, runs=400).interval()
      >>> low < deletions_survived(3, 2, 2).last < high
      True
    """
    check_counts(1, shards=shards)
    check_counts(2, runs=runs)
    prefixes_of(orders)  # refuses what are no orders
    size = np.asarray(orders).shape[1]
    share = np.full(size, 1 / size) if probabilities is None else probabilities
    share = checked_probabilities(share)
    firsts = np.unique(np.asarray(orders)[:, 0])
    if share.size != size or not (share[firsts] > 0).all():
        raise ValueError(
            f"expected {size} probabilities, above 0 for slices that come first, found "
            f"{share.tolist()}: what is never asked for is never lost"
        )
    draw = np.random.default_rng(seed)
    gone = np.zeros((runs, shards, size), bool)
    first, last = np.zeros(runs, np.int64), np.zeros(runs, np.int64)
    requests, left = 0, np.arange(runs)
    while left.size:
        requests += 1
        piece = draw.choice(size, left.size, p=share / share.sum())
        gone[left, draw.integers(shards, size=left.size), piece] = True
        lost = np.all(gone[left][:, :, firsts], axis=2)
        first[left] = np.where((first[left] == 0) & np.any(lost, axis=1), requests, first[left])
        over = np.all(lost, axis=1)
        last[left[over]] = requests
        left = left[~over]
    return Simulated(first, last)
