"""The largest epsilon that decision rules show between two samples, as the competition did it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

DELTA = 1e-5
CAP = 50.0  # epsilon of two samples that some rule tells apart without an error
DENSITY = 100  # thresholds per unit of margin
BUFFER = 2.0  # how far the ends of an interval stray from those of the narrower sample


@jax.jit
def epsilons(oracle: jax.Array, unlearned: jax.Array) -> jax.Array:
    """Epsilon of every example from margins `[M, n]` and `[M, n]`; NaN where no rule tells.

    A rule says "positive" to some margins; with false positive rate a and false negative rate b
    it shows `max(log(1 - delta - a) - log b, log(1 - delta - b) - log a)`, at least 0. A rule that
    errs on one side only is left out, for the samples are then too few to know its other rate.
    """
    table = _bounds(oracle.shape[0], oracle.dtype)

    def of_example(samples: tuple[jax.Array, jax.Array]) -> jax.Array:
        first, second = samples
        finite = jnp.isfinite(first).all() & jnp.isfinite(second).all()
        higher, lower = _order(jnp.median(first) > jnp.median(second), first, second)
        # Of two equally wide samples, the higher one counts as the wide one.
        narrow, wide = _order(jnp.ptp(higher) < jnp.ptp(lower), higher, lower)
        best = jnp.maximum(
            _best_threshold(higher, lower, table), _best_interval(narrow, wide, table)
        )
        best = jnp.where(jnp.ptp(narrow) < 0.01 * jnp.ptp(wide), CAP, best)
        return jnp.where(finite & (best >= 0), best, jnp.nan)

    return jax.lax.map(of_example, (oracle.T, unlearned.T), batch_size=8)


def _order(keep: jax.Array, first: jax.Array, second: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.where(keep, first, second), jnp.where(keep, second, first)


def _bounds(models: int, dtype: jnp.dtype) -> jax.Array:
    """Epsilon by numbers `[false negatives, false positives]`; -1 for rules that are left out."""
    rate = jnp.arange(models + 1, dtype=dtype) / models
    rest = 1 - DELTA - rate
    log_rest = jnp.where(rest > 0, jnp.log(jnp.abs(rest)), -jnp.inf)
    bound = log_rest[None] - jnp.log(rate)[:, None]
    bound = jnp.maximum(bound, bound.T)
    never = (rate == 0)[:, None] & (rate == 0)[None]
    one_side = ((rate == 0)[:, None] | (rate == 0)[None]) & ~never
    bound = jnp.where(one_side | (bound == -jnp.inf), -1.0, jnp.maximum(bound, 0.0))
    return jnp.where(never, CAP, jnp.minimum(bound, CAP))


def _pool(positive: jax.Array, negative: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Both samples sorted as one `[2 M]`, and how many of each are in its first k `[2 M + 1]`."""
    pooled = jnp.concatenate([positive, negative])
    order = jnp.argsort(pooled)
    is_positive = order < positive.size
    below = jnp.pad(jnp.cumsum(jnp.stack([is_positive, ~is_positive]), 1), ((0, 0), (1, 0)))
    return pooled[order], below[0], below[1]


def _linspace(first: jax.Array, last: jax.Array, n: jax.Array | int, index: jax.Array) -> jax.Array:
    """`numpy.linspace(first, last, n)[index]`, for an n that may be traced."""
    value = first + index * ((last - first) / jnp.maximum(n - 1, 1))
    return jnp.where((index == n - 1) & (index > 0), last, value)


def _gaps_hit(
    samples: jax.Array, first: jax.Array, last: jax.Array, n: jax.Array | int
) -> jax.Array:
    """Whether `linspace(first, last, n)` has a point in each gap `(samples[k - 1], samples[k]]`.

    Thresholds in one gap decide alike, so gaps stand for any number of thresholds.
    """
    before = jnp.concatenate([jnp.full(1, -jnp.inf, samples.dtype), samples[:-1]])
    step = (last - first) / jnp.maximum(n - 1, 1)
    near = jnp.floor((samples - first) / jnp.where(step > 0, step, 1))
    hit = jnp.zeros(near.shape, bool)
    for neighbor in (-1, 0, 1):  # rounding may put the quotient on the wrong side of an integer
        point = _linspace(first, last, n, jnp.clip(near + neighbor, 0, n - 1))
        hit |= (before < point) & (point <= samples)
    return hit & (n > 0)


def _best_threshold(positive: jax.Array, negative: jax.Array, table: jax.Array) -> jax.Array:
    """Best of the rules "margin >= t" for t in 100 steps a unit from the lowest to the highest."""
    samples, positives, negatives = _pool(positive, negative)
    low, high = samples[0], samples[-1]
    hit = _gaps_hit(samples, low, high, jnp.ceil((high - low) * DENSITY))
    bound = table[positives[:-1], negative.size - negatives[:-1]]
    return jnp.max(jnp.where(hit, bound, -1.0))


def _best_interval(positive: jax.Array, negative: jax.Array, table: jax.Array) -> jax.Array:
    """Best of the rules "left <= margin <= right", with both ends near those of `positive`."""
    samples, positives, negatives = _pool(positive, negative)
    width = jnp.ptp(positive)
    first, last = positive.min() + width - BUFFER, positive.max() + BUFFER
    n = jnp.ceil((last - first) * DENSITY)  # 400, or 401 after rounding
    lefts = round(2 * BUFFER * DENSITY)
    index = jnp.arange(lefts + 1, dtype=samples.dtype)
    rights = _linspace(first, last, n, index)
    until = jnp.searchsorted(samples, rights, side="right")
    start, stop = rights - width - BUFFER, rights - width + BUFFER
    hit = jax.vmap(_gaps_hit, (None, 0, 0, None))(samples, start, stop, lefts)
    inside = jnp.maximum(positives[until][:, None] - positives[None, :-1], 0)
    false = jnp.maximum(negatives[until][:, None] - negatives[None, :-1], 0)
    bound = table[positive.size - inside, false]
    return jnp.max(jnp.where(hit & (index < n)[:, None], bound, -1.0))
