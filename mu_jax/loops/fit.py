"""The one optimisation loop: an objective, an optax optimizer, and how to take the gradient."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax._callables import hashable
from mu_jax._tracing import cached
from mu_jax.data.batches import Batch, Batches
from mu_jax.data.checks import check_params
from mu_jax.loops.scan import fold, num_batches
from mu_jax.mesh.shards import on_automatic_axes
from mu_jax.model import Model, path_name

PyTree = Any


class Term(NamedTuple):
    """One part of an objective: `scale * sum / weight`, sums over the examples of the batch."""

    sum: jax.Array
    weight: jax.Array
    scale: jax.Array | float = 1.0


Terms = dict[str, Term]
TermsFunction = Callable[[PyTree, Batch], tuple[Terms, PyTree]]


class Objective(Protocol):
    """What to minimize.

    A pure function; an equal object reuses its compilation, so objectives are frozen dataclasses,
    which compare by value. `frozen` is a dict of named trees (teachers, masks, targets) that are
    read and never trained. The variables come back with their statistics moved, or as they were.
    """

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        """Named terms, and the variables."""


class Gradients(Protocol):
    """How to take the gradient of an objective: `plain`, `sam(rho)`, `per_term(combine)`, ...

    Equal objects reuse one compilation.
    """

    def __call__(
        self, terms: TermsFunction, params: PyTree, batch: Batch
    ) -> tuple[PyTree, Terms, PyTree]:
        """The descent gradient, the terms, and what `terms` returned beside them."""


class FitState(NamedTuple):
    """Everything needed to continue a fit bit-identically."""

    step: jax.Array
    variables: PyTree
    opt_state: optax.OptState
    key: jax.Array


class FitInfo(NamedTuple):
    """What a fit did, one entry per step, f32[steps].

    Attributes:
      loss: the objective before each step. gradient_norm: global L2 norm of its gradient.
      examples: total weight of the batch.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    examples: jax.Array

    def messages(self) -> list[str]:
        """A sentence if the loss or the gradient was not finite, on what is known of the cause."""
        loss, norm = np.asarray(self.loss), np.asarray(self.gradient_norm)
        bad = ~np.isfinite(loss) | ~np.isfinite(norm)
        if not bad.any():
            return []
        first = tuple(np.argwhere(bad)[0])
        return [_what_was_not_finite(loss[first[:-1]], norm[first[:-1]], int(first[-1]))]


_GREW = 10  # times the first value: a fit that runs away, not one that meets a bad example


def _what_was_not_finite(loss: np.ndarray, norm: np.ndarray, step: int) -> str:
    """The sentence for one fit, of which `step` was the first that was not finite."""
    what, value = ("loss", loss[step]) if not np.isfinite(loss[step]) else ("gradient", norm[step])
    beside = "" if what == "loss" else " while the loss was finite"
    found = f"The {what} was {value} at step {step}{beside}"
    if step == 0:
        return (
            f"{found}, before any update, so the learning rate is not the cause: check inputs, "
            "targets and the parameters at the start."
        )
    for name, before in (("loss", np.abs(loss[:step])), ("gradient norm", norm[:step])):
        if before.max() > _GREW * before[0] > 0:
            return (
                f"The fit diverged: its {name} grew from {before[0]:.3g} to {before.max():.3g}, "
                f"and the {what} was {value} at step {step}; lower the learning rate."
            )
    return (
        f"{found}, and neither loss nor gradient had grown before: check the examples of that "
        "step, and lower the learning rate."
    )


def fit(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    variables: PyTree,
    batches: Batches | Iterable[Batch],
    *,
    key: jax.Array,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int | None = None,
    frozen: dict[str, PyTree] | None = None,
    gradients: Gradients | None = None,
    shuffle: bool = True,
    update_mask: PyTree | None = None,
    state: FitState | None = None,
) -> tuple[FitState, FitInfo]:
    """Minimise an objective over batches: the one optimisation loop.

    Each step takes the gradient of `sum_t scale_t sum_t / weight_t` over one batch and applies one
    optimizer update. The key drives the order of the examples (`fold_in(key, epoch)`) and the
    randomness of each step (`fold_in(key, step)`), so nothing depends on where a run was stopped.

    Args:
      model: says which part of the variables is trained.
      objective: see `Objective`.
      optimizer: any optax optimizer; to freeze whole leaves, use `mu.masked`.
      variables: where to start.
      batches: `Batches`, a `Stream`, or a re-iterable of `Batch`.
      key: a PRNG key.
      epochs: passes over the batches. steps: number of steps instead.
      batch_size: examples per step, of `Batches` or a `Stream`; default their own.
      frozen: named trees handed to the objective.
      gradients: how to take the gradient; default `plain`.
      shuffle: draw a new order of the examples in every epoch.
      update_mask: which entries may change, a tree shaped like the trained parameters: for each
        leaf a bool or 0/1 array of its shape, or one number for the whole leaf. It may be traced.
        The mask acts on the gradient, so that no norm counts the other entries, and last of all on
        the step: the other entries keep every bit, weight decay and momentum notwithstanding.
      state: continue from here; `variables` and `key` are then not used.

    Returns:
      `(state, info)`: `state.variables` is the result.

    Raises:
      ValueError: an iterable whose length is not known, without `steps`; a mask of another shape.

    Note: a last batch with fewer examples is filled up with rows of weight 0. They take no part in
    any loss, but in training mode a batch normalisation sees them; where that matters choose a
    batch size that divides the number of examples and is a multiple of the number of devices.

    Cost: one forward and backward pass per example and epoch with `plain` gradients; memory of
    parameters, optimizer state, one gradient and one batch.
    """
    batches = with_batch_size(batches, batch_size)
    stop = num_steps(batches, epochs) if steps is None else steps
    start: int | jax.Array = 0
    check_params(model.params(variables if state is None else state.variables))
    if state is None:
        opt_state = optimizer.init(model.params(variables))
        state = FitState(jnp.zeros((), jnp.int32), variables, opt_state, key)
    else:
        start = position_of(state.step)
    return advance(
        model,
        objective,
        optimizer,
        (state, no_info(stop)),
        batches,
        start=start,
        stop=stop,
        frozen=frozen,
        gradients=gradients,
        shuffle=shuffle,
        update_mask=update_mask,
    )


def with_batch_size(batches: Any, batch_size: int | None) -> Any:
    """The batches with another number of examples each; None for their own."""
    if batch_size is None:
        return batches
    if not hasattr(batches, "replace"):
        raise ValueError(
            "expected Batches or a Stream for a given batch_size, found an iterable: let it "
            "yield batches of that size"
        )
    return batches.replace(batch_size=batch_size)


def num_steps(batches: Any, epochs: int) -> int:
    """Steps of so many passes over the batches."""
    per_epoch = num_batches(batches)
    if per_epoch is None:
        raise ValueError(
            "expected batches of known number, found an iterable without a length: give steps"
        )
    return per_epoch * epochs


def position_of(step: jax.Array) -> int | jax.Array:
    """The number of a step; of the members of an ensemble, the smallest."""
    return step if isinstance(step, jax.core.Tracer) else int(np.min(step))


def no_info(steps: int) -> FitInfo:
    """The report of a fit before its first step."""
    return FitInfo(*(jnp.zeros(steps, jnp.float32) for _ in FitInfo._fields))


def advance(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    carry: tuple[FitState, FitInfo],
    batches: Batches | Iterable[Batch],
    *,
    start: int | jax.Array,
    stop: int | jax.Array,
    frozen: dict[str, PyTree] | None = None,
    gradients: Gradients | None = None,
    shuffle: bool = True,
    update_mask: PyTree | None = None,
) -> tuple[FitState, FitInfo]:
    """Take the steps `start` to `stop` of a fit: the part of `fit` that `fit_phases` shares.

    Args:
      model, objective, optimizer, batches, frozen, gradients, shuffle, update_mask: see `fit`.
      carry: the state at `start`, and a report with room for every step up to `stop`.
      start, stop: numbers of steps, counted from the beginning of the fit. Inside `jit` they may be
        traced; no step is taken where `start >= stop`.
    """
    state = carry[0]
    mask = None if update_mask is None else _checked(update_mask, model.params(state.variables))
    epochs = 1  # read for iterables alone, whose bounds are numbers
    if not isinstance(stop, jax.core.Tracer):
        epochs = -(-int(stop) // (num_batches(batches) or 1))
    return fold(
        _fit_step(model, hashable(objective), optimizer, hashable(gradients or plain)),  # type: ignore[arg-type]
        carry,
        batches,
        frozen or {},
        mask,
        epochs=epochs,
        start=start,
        stop=stop,  # type: ignore[arg-type]
        key=state.key if shuffle else None,
    )


def _checked(mask: PyTree, params: PyTree) -> PyTree:
    """The mask of the trained leaves as arrays, each of the shape of its leaf or of a number."""

    def leaf(path, param, mask):
        if param is None:  # not trained
            return None
        found = jnp.shape(mask)
        if found not in ((), param.shape):
            raise ValueError(
                f"expected an update_mask of shape {param.shape} or () for "
                f"{path_name(path)!r}, found {found}: give one entry per parameter, or one per leaf"
            )
        return jnp.asarray(mask, bool)

    return jax.tree_util.tree_map_with_path(leaf, params, mask, is_leaf=lambda x: x is None)


def _choose(mask: PyTree | None, tree: PyTree, other: PyTree) -> PyTree:
    """Entries of the tree where the mask is true, those of the other tree elsewhere."""
    return tree if mask is None else jax.tree.map(jnp.where, mask, tree, other)


@cached(maxsize=256)
def _fit_step(
    model: Model,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    gradients: Gradients,
) -> Callable:
    """One step as the same function object each time, so that it compiles once."""
    update = optax.with_extra_args_support(optimizer).update

    def step(carry, batch, frozen, mask):
        state, info = carry
        params, rest = model.split(state.variables)
        key = jax.random.fold_in(state.key, state.step)

        def terms(params, batch):
            found, variables = objective(model.join(params, rest), batch, frozen, key)
            return found, model.split(variables)[1]

        grads, found, moved = gradients(terms, params, batch)
        loss, grads = total(found), _choose(mask, grads, optax.tree.zeros_like(grads))
        updates, opt_state = update(grads, state.opt_state, params, value=loss)
        # Chosen after the addition: adding 0 would turn -0.0 into 0.0.
        params = _choose(mask, optax.apply_updates(params, updates), params)
        row = FitInfo(loss, optax.tree.norm(grads), batch.weight.sum())
        info = FitInfo(
            *(old.at[state.step].set(new.astype(old.dtype)) for old, new in zip(info, row))
        )
        return FitState(state.step + 1, model.join(params, moved), opt_state, state.key), info

    def step_anywhere(carry, batch, frozen, mask):
        return on_automatic_axes(step, carry, batch, frozen, mask, like=carry)

    return step_anywhere


def total(terms: Terms) -> jax.Array:
    """`sum_t scale_t sum_t / weight_t`; a term without examples counts 0."""
    parts = [
        term.scale * term.sum / jnp.where(term.weight > 0, term.weight, 1)
        for term in terms.values()
    ]
    return functools.reduce(jnp.add, parts)


def plain(terms: TermsFunction, params: PyTree, batch: Batch) -> tuple[PyTree, Terms, PyTree]:
    """The gradient of the objective."""

    def value(params):
        found, aux = terms(params, batch)
        return total(found), (found, aux)

    grads, (found, aux) = jax.grad(value, has_aux=True)(params)
    return grads, found, aux


@dataclasses.dataclass(frozen=True)
class sam:
    """Sharpness-aware: the gradient at `theta + rho g / ||g||`; two passes.

    Args:
      rho: length of the step to the point of the gradient, may be traced.

    References:
      P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur. Sharpness-Aware Minimization for Efficiently
      Improving Generalization. ICLR 2021.
    """

    rho: jax.Array | float

    def __call__(
        self, terms: TermsFunction, params: PyTree, batch: Batch
    ) -> tuple[PyTree, Terms, PyTree]:
        """The gradient there, and the terms at `theta`."""
        grads, found, aux = plain(terms, params, batch)
        scale = self.rho / jnp.maximum(optax.tree.norm(grads), 1e-12)
        grads, _, _ = plain(terms, optax.tree.add_scale(params, scale, grads), batch)
        return grads, found, aux


@dataclasses.dataclass(frozen=True)
class per_term:
    """One gradient per term of the objective, combined by `combine` (projection, bargaining).

    Args:
      combine: `{term: gradient} -> gradient`.

    Cost: one forward pass, and one backward pass per term.
    """

    combine: Callable[[dict[str, PyTree]], PyTree]

    def __call__(
        self, terms: TermsFunction, params: PyTree, batch: Batch
    ) -> tuple[PyTree, Terms, PyTree]:
        """The combined gradient, the terms, and what `terms` returned beside them."""

        def values(params):
            found, aux = terms(params, batch)
            return {name: total({name: term}) for name, term in found.items()}, (found, aux)

        value, pull_back, (found, aux) = jax.vjp(values, params, has_aux=True)

        def gradient(name):
            seeds = {other: jnp.where(other == name, 1.0, 0.0) for other in value}
            seeds = {other: seed.astype(value[other].dtype) for other, seed in seeds.items()}
            return pull_back(seeds)[0]

        return self.combine({name: gradient(name) for name in value}), found, aux


@dataclasses.dataclass(frozen=True)
class micro_batches:
    """The same gradient as `plain`, from `number` parts of the batch one after another.

    Sums are accumulated over the parts and divided by the weight of the whole batch, so nothing
    changes but memory (one part's activations). In training mode, batch statistics are those of
    the parts, and the last part's move the running ones.

    Args:
      number: parts of a batch; it divides the number of rows.
    """

    number: int

    def __call__(
        self, terms: TermsFunction, params: PyTree, batch: Batch
    ) -> tuple[PyTree, Terms, PyTree]:
        """The gradient, the terms of the whole batch, and what the last part moved."""
        number = self.number
        if batch.weight.shape[0] % number:
            raise ValueError(
                f"expected a batch that divides into {number} parts, found one of "
                f"{batch.weight.shape[0]} rows: give a batch size that is a multiple"
            )
        parts = jax.tree.map(lambda x: x.reshape(number, -1, *x.shape[1:]), batch)
        sums = jax.lax.map(lambda part: terms(params, part)[0], parts)
        whole = jax.tree.map(lambda x: x.sum(axis=0), sums)
        whole = {name: term._replace(scale=sums[name].scale[0]) for name, term in whole.items()}

        def value(params, part):
            found, aux = terms(params, part)
            found = {name: term._replace(weight=whole[name].weight) for name, term in found.items()}
            return total(found), aux

        def add(grads, part):
            more, aux = jax.grad(value, has_aux=True)(params, part)
            return optax.tree.add(grads, more), aux

        grads, auxes = jax.lax.scan(add, optax.tree.zeros_like(params), parts)
        return grads, whole, jax.tree.map(lambda x: x[-1], auxes)
