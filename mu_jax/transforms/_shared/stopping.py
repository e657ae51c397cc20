"""A fit that ends when secrets are memorized no better than texts never seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import _at_once as at_once
from mu_jax._tracing import cached
from mu_jax.data.batches import Batch
from mu_jax.data.checks import check_counts, check_range
from mu_jax.loops.predict import map_rows
from mu_jax.loops.stopping import Until
from mu_jax.mesh.shards import reduction
from mu_jax.model import Model
from mu_jax.token_losses import scored

PyTree = Any


class Stop(NamedTuple):
    """The stopping rule of CodeEraser: secrets at the level of texts that were never seen.

    Behind every epoch the memorization MA of the secrets is measured: the share of the tokens of a
    secret that have the largest logit, a mean over the rows that have secrets. The fit ends where
    MA is below its threshold, and extraction as well, if it is given: below its threshold, or
    without a new low in `patience` measurements while MA had one.

    Thresholds as published, in percent:

    | model | MA | EL3 | EL5 | EL10 |
    |---|---|---|---|---|
    | CodeParrot-small | 45.57 | 17.66 | 10.82 | 5.49 |
    | CodeGen-350M | 48.79 | 18.24 | 11.03 | 5.92 |
    | CodeGen-2B | 53.61 | 19.32 | 11.71 | 6.28 |
    | Qwen2.5-Coder-7B | 40.99 | 15.65 | 12.45 | 8.82 |

    Measure both thresholds with the given model on texts that it never saw.

    Attributes:
      memorization: threshold of MA, from 0 to 1, may be traced.
      extraction: threshold of EL, from 0 to 1, may be traced; None: MA decides alone.
      measure: `variables -> f32[]`, the mean extraction likelihood of the secrets, such as of
        `mu.models.decoder.decode` and `mu.evaluation.language.extraction_likelihood`; needed with
        `extraction`. Outside `jit` any function, called once MA has come near; inside `jit` a pure
        one, which is part of the program.
      margin: how near: EL is measured from the epoch on in which MA <= memorization + margin.
      patience: measurements without a new low of EL, while MA had one, after which EL no longer
        decides.
    """

    memorization: jax.Array | float
    extraction: jax.Array | float | None = None
    measure: Callable[[PyTree], Any] | None = None
    margin: jax.Array | float = 0.3
    patience: int = 5


class Stopped(NamedTuple):
    """What a stopping rule has seen.

    Attributes:
      epochs: how many there were, i32[].
      reached: whether the rule ended the fit or holds at its end, bool[].
      memorization: MA behind each epoch, f32[most epochs], NaN behind the last one.
      extraction: EL behind each epoch, the same, NaN where it was not measured.
      near: whether MA has come near, bool[]. lowest: the lowest MA and EL, f32[2].
      waited: measurements without a new low of EL, i32[].
    """

    epochs: jax.Array
    reached: jax.Array
    memorization: jax.Array
    extraction: jax.Array
    near: jax.Array
    lowest: jax.Array
    waited: jax.Array

    def messages(self) -> list[str]:
        """A sentence if the rule was never met."""
        if np.all(np.asarray(self.reached)):
            return []
        last = int(np.max(self.epochs)) - 1
        values = [np.asarray(x)[..., last].max() for x in (self.memorization, self.extraction)]
        extraction = "" if np.isnan(values[1]) else f" and its extraction {values[1]:.3g}"
        return [
            f"The stopping rule was not met in {last + 1} epochs: memorization of the secrets is "
            f"{values[0]:.3g}{extraction}; fit for more epochs, or raise the thresholds."
        ]


def check_stop(stop: Stop | None) -> None:
    """Refuse a rule that cannot be."""
    if stop is None:
        return
    check_range(0, 1, memorization=stop.memorization, extraction=stop.extraction)
    check_range(0, margin=stop.margin)
    check_counts(1, patience=stop.patience)
    if (stop.extraction is None) != (stop.measure is None):
        names = ("measure", "extraction")
        given, missing = names if stop.extraction is None else names[::-1]
        raise ValueError(
            f"expected a threshold of extraction and its measure together, found {given} without "
            f"{missing}: give both or none"
        )


def until_forgotten(stop: Stop, model: Model, forget: Any, epochs: int, every: int) -> Until:
    """The rule as one of `mu.fit_phases`.

    Args:
      stop: the rule. model, forget: whose secrets are measured.
      epochs: most epochs. every: cycles of an epoch.
    """
    nothing = np.full(epochs, np.nan, np.float32)
    zero, no = np.zeros((), np.int32), np.zeros((), bool)
    values = (zero, no, nothing, nothing, no, np.ones(2, np.float32), zero)
    begin = Stopped(*map(at_once.as_array, values))

    def after(known: Stopped, variables: PyTree) -> tuple[Stopped, jax.Array]:
        memorized = memorization(model, variables, forget)
        near = _near(known.near, memorized, stop.memorization, stop.margin)
        extracted: Any = at_once.as_array(np.float32(np.nan))
        if stop.measure is not None and (not at_once.is_known(near) or bool(near)):
            extracted = at_once.as_array(stop.measure(variables), np.float32)
        known = _noted(known, memorized, extracted, near)
        numbers = stop.memorization, stop.extraction, stop.patience
        known = known._replace(reached=_reached(known, memorized, extracted, numbers))
        return known, known.reached

    return Until(begin, after, every)


@reduction
def _near(xp: Any, near: jax.Array, memorized: jax.Array, threshold: Any, margin: Any) -> Any:
    return xp.logical_or(near, memorized <= threshold + margin)


@reduction
def _noted(
    xp: Any, known: Stopped, memorized: jax.Array, extracted: jax.Array, near: jax.Array
) -> Stopped:
    """What is known after another measurement."""
    extracted = xp.where(near, extracted, np.float32(np.nan))
    low, low_extracted = known.lowest[0], known.lowest[1]
    lower, measured = memorized <= low, ~xp.isnan(extracted)
    new_low = measured & (extracted <= low_extracted)
    # As published: a lower MA counts as such where EL, if it is measured, is as low as ever.
    low = xp.where(lower & (new_low | ~measured), memorized, low)
    low_extracted = xp.where(lower & new_low, extracted, low_extracted)
    waited = xp.where(new_low, 0, known.waited + 1)
    here = xp.arange(known.memorization.shape[-1]) == known.epochs
    return known._replace(
        epochs=known.epochs + 1,
        memorization=xp.where(here, memorized, known.memorization).astype(np.float32),
        extraction=xp.where(here, extracted, known.extraction).astype(np.float32),
        near=near,
        lowest=xp.stack([low, low_extracted]).astype(np.float32),
        waited=xp.where(lower & measured, waited, known.waited).astype(np.int32),
    )


@reduction
def _reached(
    xp: Any, known: Stopped, memorized: jax.Array, extracted: jax.Array, numbers: tuple
) -> jax.Array:
    threshold, extraction, patience = numbers
    reached = memorized < threshold
    if extraction is None:
        return reached
    low = xp.logical_or(extracted < extraction, known.waited >= patience)
    return reached & known.near & low


def memorization(model: Model, variables: PyTree, examples: Any) -> jax.Array:
    """The share of the tokens of a secret that have the largest logit, f32[].

    A mean over the rows that have secrets, by their weights.

    Args:
      model, variables: the model. examples: `Batches` or a `Stream` with `TokenTargets`.
    """
    return _mean(map_rows(_memorized_rows(model), examples, variables))


@reduction
def _mean(xp: Any, sums: tuple[jax.Array, jax.Array]) -> jax.Array:
    shares, weights = sums
    return shares.sum() / weights.sum()


@cached(maxsize=64)
def _memorized_rows(model: Model) -> Callable:
    def rows(batch: Batch, variables: PyTree) -> tuple[jax.Array, jax.Array]:
        targets = batch.targets
        guess = model.apply(variables, batch.inputs).argmax(axis=-1)
        hit = jnp.roll(guess, 1, axis=1) == targets.tokens
        secret = jnp.where(targets.secret != 0, scored(targets), 0)
        count = secret.sum(axis=1)
        share = jnp.where(hit, secret, 0).sum(axis=1) / jnp.where(count == 0, 1, count)
        weight = jnp.where(count == 0, 0, batch.weight).astype(share.dtype)
        return weight * share, weight

    return rows
