"""The one optimization loop: an objective, an optax optimizer, and how to take the gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax import _at_once as at_once
from mu_jax._callables import with_numbers, without_numbers
from mu_jax._tracing import cached, holds_tracer
from mu_jax.data.batches import Batch, Batches
from mu_jax.data.blocks import alike, at_least
from mu_jax.data.checks import check_params
from mu_jax.loops import lifting, update_masks
from mu_jax.loops.averaging import check_start, with_average, without_average
from mu_jax.loops.bounds import refuse_unbounded
from mu_jax.loops.gradients import Gradients, StepTerms, Terms, plain, total
from mu_jax.loops.scan import fold, num_batches
from mu_jax.mesh.shards import bare, on_automatic_axes
from mu_jax.model import Model

PyTree = Any


class Objective(Protocol):
    """What to minimize.

    A pure function; an equal object reuses its compilation, so objectives are frozen dataclasses,
    which compare by value. One that is a pytree (`jax.tree_util.register_dataclass`) has its floats
    and arrays as arguments: other numbers compile nothing. `frozen` is a dict of named trees
    (teachers, masks, targets) that are read and never trained; its entry `step` is the number of
    the step, i32[], for what follows a schedule. The variables come back with their statistics
    moved, or as they were. It may have a method `only(names) -> Objective`, of some of its terms,
    that spares seams such as `sam(rho, term="forget")` computing the others. It may have an
    attribute `bounded`, whether its weighted sum has a lower bound; without one it has if no
    term has a negative scale. `mu.fit` refuses optimizers without a learning rate where it has not.
    """

    @property
    def rows_are_independent(self) -> bool:
        """Whether rows of weight 0 change nothing; False for an objective that does not say.

        Not so for batch statistics in training mode, where rows see one another. Where it is so, a
        set smaller than a batch is filled up to a size that small sets share, and with it their
        program.
        """
        return False

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        """Named terms, and the variables."""


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
    """Minimize an objective over batches: the one optimization loop.

    Each step takes the gradient of `sum_t scale_t sum_t / weight_t` over one batch and applies one
    optimizer update. The key drives the order of the examples (`fold_in(key, epoch)`) and the
    randomness of each step (`fold_in(key, step)`), so nothing depends on where a run was stopped.

    Args:
      model: says which part of the variables is trained.
      objective: see `Objective`.
      optimizer: any optax optimizer; to freeze whole leaves, use `mu.masked`. With
        `mu.loops.average_weights` in its chain the result is the mean of the parameters, and with
        `optax.contrib.schedule_free` the parameters that it says to evaluate. Those without a
        learning rate (`optax.contrib.prodigy`, `dadapt_adamw`, `dog`, `dowg`, `mechanize`, `cocob`,
        `momo`) need an objective with a lower bound, and `dog` and `mechanize` some 300 steps.
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
      ValueError: an iterable whose length is not known, without `steps`; a mask of another shape;
        an optimizer without a learning rate for an objective that is not bounded below.

    Note: a last batch with fewer examples is filled up with rows of weight 0. They take no part in
    any loss, but in training mode a batch normalization sees them; where that matters choose a
    batch size that divides the number of examples and is a multiple of the number of devices.

    Cost: one forward and backward pass per example and epoch with `plain` gradients; memory of
    parameters, optimizer state, one gradient and one batch.
    """
    batches = with_batch_size(batches, batch_size)
    stop = num_steps(batches, epochs) if steps is None else steps
    start: int | jax.Array = 0
    check_params(model.params(variables if state is None else state.variables))
    if state is None:
        opt_state = initial_state(optimizer, model.params(variables))
        state = FitState(at_once.as_array(0, np.int32), variables, opt_state, key)
    else:
        start = position_of(state.step)
        state = without_average(model, state)
    check_start(state.opt_state, stop)
    last, info = advance(
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
    mask = update_masks.checked(update_mask, model, model.params(last.variables))
    return with_average(model, last, mask), trimmed(info, stop)


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


_FEW_STEPS = 1024


def no_info(steps: int) -> FitInfo:
    """The report of a fit before its first step, with room for at least so many steps.

    The room is a power of two, so that runs of other lengths are the same program.
    """
    room = at_least(_FEW_STEPS, steps)
    return FitInfo(*(at_once.as_array(np.zeros(room, np.float32)) for _ in FitInfo._fields))


def trimmed(info: FitInfo, steps: int) -> FitInfo:
    """The report of the steps, without the room that was left."""
    return at_once.indexed(info, (..., slice(steps)))


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
    params = model.params(state.variables)
    mask = update_masks.checked(update_mask, model, params)
    given = {**(frozen or {}), "step": state.step}
    refuse_unbounded(objective, state.opt_state, state.variables, batches, given, state.key)
    batches = _alike(batches, objective, gradients)
    epochs = 1  # read for iterables alone, whose bounds are numbers
    if not isinstance(stop, jax.core.Tracer):
        epochs = -(-int(stop) // (num_batches(batches) or 1))

    forms, numbers = zip(*map(without_numbers, (objective, gradients or plain)))

    def run(update: Update, values: tuple) -> tuple[FitState, FitInfo]:
        return fold(
            _fit_step(model, forms[0], update, forms[1]),  # type: ignore[arg-type]
            carry,
            batches,
            frozen or {},
            mask,
            values,
            numbers,
            epochs=epochs,
            start=start,
            stop=stop,  # type: ignore[arg-type]
            key=state.key if shuffle else None,
        )

    try:
        return run(*lifted_update(optimizer, params, state.opt_state))
    except lifting.OtherTypes:  # gradients that are not of the types of the parameters
        return run(_plain_update(optimizer), ())


def _alike(batches: Any, objective: Objective, gradients: Gradients | None) -> Any:
    """The batches, filled up where a set is smaller than one: small sets share a program.

    Not where the rows of a batch may see one another, and not for a seam, which may count the rows.
    """
    independent = gradients is None and getattr(objective, "rows_are_independent", False)
    if not isinstance(batches, Batches) or not independent:
        return batches
    return alike(batches, few=_FEW_ROWS)


_FEW_ROWS = 64


def initial_state(optimizer: optax.GradientTransformation, params: PyTree) -> optax.OptState:
    """`optimizer.init(params)`, one program for all optimizers of a kind where arrays are whole."""
    if not at_once.on_host(params) or not at_once.is_whole(params) or holds_tracer(optimizer):
        return optimizer.init(params)
    return lifting.run(lifting.lift(optimizer.init, params, owners=(optimizer.init,)), params)


Update = Callable[..., tuple[optax.Updates, optax.OptState]]


def lifted_update(
    optimizer: optax.GradientTransformation, params: PyTree, opt_state: optax.OptState
) -> lifting.Lifted:
    """The optimizer's update, of `(grads, state, params, loss)`, as a computation and numbers."""
    update = optax.with_extra_args_support(optimizer).update
    loss = jax.ShapeDtypeStruct((), _loss_dtype(params))
    return lifting.lift(
        lambda grads, state, params, value: update(grads, state, params, value=value),
        *bare((params, opt_state, params)),
        loss,
        owners=(optimizer.update,),
    )


def _loss_dtype(params: PyTree) -> Any:
    """The type in which an optimizer is told the loss: float32, or wider with the parameters."""
    kinds = (leaf.dtype for leaf in jax.tree.leaves(params))
    return functools.reduce(jnp.promote_types, kinds, jnp.dtype(jnp.float32))


@cached(maxsize=64)
def _plain_update(optimizer: optax.GradientTransformation) -> Update:
    update = optax.with_extra_args_support(optimizer).update
    return lambda values, grads, state, params, value: update(grads, state, params, value=value)


def _only(objective: Objective, names: tuple[str, ...]) -> Objective:
    only = getattr(objective, "only", None)
    return objective if only is None else only(names)


@cached(maxsize=256)
def _fit_step(model: Model, objective: Objective, update: Update, gradients: Gradients) -> Callable:
    """One step as the same function object each time, so that it compiles once."""

    def step(carry, batch, frozen, mask, values, numbers):
        minimized, take = map(with_numbers, (objective, gradients), numbers)
        state, info = carry
        params, rest = model.split(state.variables)
        key = jax.random.fold_in(state.key, state.step)
        given = {**frozen, "step": state.step}

        def terms(params, batch, names):
            picked = minimized if names is None else _only(minimized, names)
            found, variables = picked(model.join(params, rest), batch, given, key)
            found = found if names is None else {name: found[name] for name in names}
            return found, model.split(variables)[1]

        grads, found, moved = take(StepTerms(terms, key), params, batch)
        loss, grads = total(found), update_masks.choose(mask, grads, optax.tree.zeros_like(grads))
        value = loss.astype(_loss_dtype(params))
        updates, opt_state = update(values, grads, state.opt_state, params, value)
        # Chosen after the addition: adding 0 would turn -0.0 into 0.0.
        params = update_masks.choose(mask, optax.apply_updates(params, updates), params)
        row = FitInfo(loss, optax.tree.norm(grads), batch.weight.sum())
        info = FitInfo(
            *(old.at[state.step].set(new.astype(old.dtype)) for old, new in zip(info, row))
        )
        return FitState(state.step + 1, model.join(params, moved), opt_state, state.key), info

    def step_anywhere(carry, *args):
        return on_automatic_axes(step, carry, *args, like=carry)

    return step_anywhere
