"""KLoM: how far unlearned models' margins are from those of models retrained from scratch."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from mu_jax._at_once import as_array, holds
from mu_jax.evaluation.accuracy import as_float, is_concrete

Direction = Literal["oracle||unlearned", "unlearned||oracle"]


def _check_margins(oracle: ArrayLike, unlearned: ArrayLike) -> tuple[jax.Array, jax.Array]:
    oracle, unlearned = as_float(oracle), as_float(unlearned)
    if oracle.ndim != 2 or unlearned.ndim != 2 or oracle.shape[1] != unlearned.shape[1]:
        raise ValueError(
            "expected margins [models, examples] of the same examples, found "
            f"{oracle.shape} for the oracle and {unlearned.shape} for the unlearned models: "
            "stack the models on the first axis and score both on the same examples"
        )
    if min(oracle.shape[0], unlearned.shape[0]) < 2 or oracle.shape[1] == 0:
        raise ValueError(
            f"expected at least two models on each side and one example, found {oracle.shape} and "
            f"{unlearned.shape}: a histogram of one model says nothing, train more"
        )
    for name, margins in (("oracle", oracle), ("unlearned", unlearned)):
        if is_concrete(margins) and not holds(_finite, margins):
            raise ValueError(
                f"expected finite margins, found NaN or infinity in those of the {name} models: "
                "leave out the diverged models and report how many there were"
            )
    dtype = jnp.promote_types(oracle.dtype, unlearned.dtype)
    return as_array(oracle, dtype), as_array(unlearned, dtype)


def _finite(xp: Any, values: Any) -> Any:
    return xp.isfinite(values).all()


def _edges(lowest: jax.Array, highest: jax.Array, bins: int) -> jax.Array:
    """Bin edges `[bins + 1, n]`, equally spaced; a range of no width becomes one of width 1."""
    highest = jnp.where(highest > lowest, highest, lowest + 1)
    steps = jnp.arange(bins + 1, dtype=lowest.dtype)[:, None]
    edges = lowest[None] + steps * ((highest - lowest) / bins)[None]
    return edges.at[-1].set(highest)


def _histogram(margins: jax.Array, edges: jax.Array, closed_last: bool) -> jax.Array:
    """Fractions `[bins, n]` of the samples per bin `edges[b] <= margin < edges[b + 1]`."""

    def count(at_least: jax.Array, sample: jax.Array) -> tuple[jax.Array, None]:
        return at_least + (sample[None] >= edges), None

    at_least, _ = jax.lax.scan(count, jnp.zeros(edges.shape, jnp.int32), margins)
    if closed_last:
        at_least = at_least.at[-1].set(0)
    counts = (at_least[:-1] - at_least[1:]).astype(margins.dtype)
    # With an open last bin every sample may fall out; the histogram is then all zeros.
    return counts / jnp.maximum(counts.sum(0, keepdims=True), 1)


def _relative_entropy(p: jax.Array, q: jax.Array, eps: float) -> jax.Array:
    """`sum_b p_b log(p_b / q_b)` with q floored at eps where p > 0, then normalized again."""
    q = jnp.where(p > 0, jnp.maximum(q, eps), q)
    q = q / q.sum(0, keepdims=True)
    terms = jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p / q, 1.0)), 0.0)
    divergence = jnp.maximum(terms.sum(0), 0.0)  # rounding may leave -1e-7
    return jnp.where(p.sum(0) > 0, divergence, jnp.nan)


@partial(jax.jit, static_argnames=("bins", "eps", "clip", "fixed", "closed_last"))
def _binned_divergence(
    p: jax.Array, q: jax.Array, *, bins: int, eps: float, clip: float, fixed: bool, closed_last
) -> jax.Array:
    finite = jnp.isfinite(p).all(0) & jnp.isfinite(q).all(0)
    p, q = jnp.clip(p, -clip, clip), jnp.clip(q, -clip, clip)
    if fixed:
        highest = jnp.full(p.shape[1:], clip, p.dtype)
        lowest = -highest
    else:
        lowest, highest = jnp.minimum(p.min(0), q.min(0)), jnp.maximum(p.max(0), q.max(0))
    edges = _edges(lowest, highest, bins)
    p, q = _histogram(p, edges, closed_last), _histogram(q, edges, closed_last)
    return jnp.where(finite, _relative_entropy(p, q, eps), jnp.nan)


def klom(
    oracle_margins: ArrayLike,
    unlearned_margins: ArrayLike,
    *,
    bins: int = 20,
    eps: float = 1e-5,
    clip: float = 100.0,
    range: Literal["joint", "fixed"] = "joint",
    closed_last: bool = True,
    direction: Direction = "oracle||unlearned",
    preset: Literal["reference"] | None = None,
) -> jax.Array:
    """KL divergence of margins: per example, oracle ensemble against unlearned ensemble.

    `KLoM(x) = KL(hist(margins of the oracles on x) || hist(margins of the unlearned on x))`, in
    nats. Both samples are clipped to [-clip, clip] and counted in the same `bins` equal bins;
    bins of the second histogram that are empty where the first is not count as `eps`, and it is
    normalized again. 0 is best; with bins that do not overlap the value is about -log(eps), 11.5.

    The value is biased upwards, and the bias depends on the number of models N: two ensembles of
    the *same* distribution score about 3 with 20 models each, 0.9 with 50, 0.35 with 100 and 0.05
    with 500. Never compare values across N, and print N and `klom_floor` next to every value.

    Args:
        oracle_margins: float `[N_oracle, n]`, finite; see `margins`.
        unlearned_margins: float `[N_unlearned, n]`, finite, of the same examples.
        bins: number of bins (20 in the paper).
        eps: probability of an empty bin (1e-5 in the paper).
        clip: largest absolute margin (100 in the paper).
        range: "joint" spans the bins from the smallest to the largest margin of both samples of
            the example; "fixed" spans [-clip, clip], where shifts below a bin width are not seen.
        closed_last: count samples at the upper end of the range in the last bin.
        direction: "oracle||unlearned" (the paper) or "unlearned||oracle".
        preset: "reference" for the published program's numbers; leave the other options alone.

    Returns:
        f32 `[n]`. Under `jax.jit` non-finite margins give NaN instead of an error.

    Raises:
        ValueError: shapes disagree, nothing to compare, non-finite margins, unknown options.

    Cost:
        One pass over both margin arrays; memory `bins + 1` times n besides them.

    Differences from the published program:
        1. It drops the samples that equal the joint maximum; here they are in the last bin.
           `preset="reference"` drops them too, which leaves NaN where *all* oracle samples equal
           the joint maximum.
        2. Its argument names are swapped twice; here they say what they hold.

    Example:
        >>> oracle = jax.random.normal(jax.random.key(0), (200, 3))
        >>> shift = jnp.array([[0.0, 1.0, 20.0]])
        >>> unlearned = jax.random.normal(jax.random.key(1), (200, 3)) + shift
        >>> near, far, apart = klom(oracle, unlearned)
        >>> bool(near < 0.4 < far < apart)
        True

    Reference:
        Georgiev, Rinberg, Park, Garg, Ilyas, Madry, Neel, "Attribute-to-Delete: Machine
        Unlearning via Datamodel Matching", ICLR 2025.
    """
    if range not in ("joint", "fixed") or direction not in (
        "oracle||unlearned",
        "unlearned||oracle",
    ):
        raise ValueError(
            'expected range "joint" or "fixed" and direction "oracle||unlearned" or '
            f'"unlearned||oracle", found "{range}" and "{direction}": use one of those'
        )
    if bins < 1 or not 0 < eps < 1 or not clip > 0:
        raise ValueError(
            f"expected bins >= 1, 0 < eps < 1 and clip > 0, found bins={bins}, eps={eps}, "
            f"clip={clip}: the paper has 20, 1e-5 and 100"
        )
    if preset is not None:
        options = (bins, eps, clip, range, closed_last, direction)
        _check_preset(preset, options)
        closed_last = False
    p, q = _check_margins(oracle_margins, unlearned_margins)
    if direction == "unlearned||oracle":
        p, q = q, p
    fixed = range == "fixed"
    return _binned_divergence(
        p, q, bins=bins, eps=eps, clip=clip, fixed=fixed, closed_last=closed_last
    )


def _check_preset(preset: str, options: tuple) -> None:
    if preset != "reference":
        raise ValueError(f'expected preset None or "reference", found "{preset}": use one of those')
    if options != (20, 1e-5, 100.0, "joint", True, "oracle||unlearned"):
        raise ValueError(
            'expected no other option beside preset="reference", found one that differs from its '
            "default: the preset fixes all of them, so drop either"
        )


def klom_floor(oracle_margins: ArrayLike, key: jax.Array, **options) -> jax.Array:
    """KLoM of one random half of the oracles against the other: the value of a perfect unlearner.

    The floor is that of `N // 2` models against `N // 2` (an odd model is left out), and it falls
    as the number of models grows: report it as "floor with N // 2 models", and compare an
    unlearned ensemble with it only at that size, `klom(oracle[:N // 2], unlearned[:N // 2])`.

    Args:
        oracle_margins: float `[N, n]`, finite, N >= 4.
        key: random key of the split.
        **options: options of `klom`; pass the same ones as for the value.

    Returns:
        f32 `[n]`.

    Raises:
        ValueError: fewer than four oracles, or as `klom`.

    Cost:
        As `klom`.

    Example:
        >>> oracle = jax.random.normal(jax.random.key(0), (400, 50))
        >>> floor = klom_floor(oracle, jax.random.key(1))  # 200 models against 200
        >>> bool(0.1 < floor.mean() < 0.2)
        True
    """
    oracle_margins = as_float(oracle_margins)
    if oracle_margins.ndim != 2 or oracle_margins.shape[0] < 4:
        raise ValueError(
            "expected margins [models, examples] of at least four oracles, found shape "
            f"{oracle_margins.shape}: retrain more models to know the floor"
        )
    return klom(*halves(oracle_margins, key), **options)


@jax.jit
def halves(margins: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two random halves of the models; an odd model is left out."""
    half = margins.shape[0] // 2
    order = jax.random.permutation(key, margins.shape[0])
    return margins[order[:half]], margins[order[half : 2 * half]]
