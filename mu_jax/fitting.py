"""The one optimisation loop: an objective, an optax optimizer, and how to take the gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax import at_once, folding, lifting
from mu_jax.data import Batch, Batches
from mu_jax.model import Model
from mu_jax.sharding import bare, on_automatic_axes

PyTree = Any


class Term(NamedTuple):
    """One part of an objective: `scale * sum / weight`, sums over the examples of the batch."""

    sum: jax.Array
    weight: jax.Array
    scale: jax.Array | float = 1.0


Terms = dict[str, Term]
TermsFunction = Callable[[PyTree, Batch], tuple[Terms, PyTree]]


class Objective(Protocol):
    """What to minimise.

    A pure function; the same object again reuses its compilation. `frozen` is a dict of named
    trees (teachers, masks, targets) that are read and never trained. The variables come back with
    their statistics moved, or as they were.
    """

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        """Named terms, and the variables."""


class Gradients(Protocol):
    """How to take the gradient of an objective: `plain`, `sam(rho)`, `per_term(combine)`, ..."""

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
        """A sentence if the fit diverged."""
        bad = ~np.isfinite(np.asarray(self.loss)) | ~np.isfinite(np.asarray(self.gradient_norm))
        if not bad.any():
            return []
        step = int(np.argwhere(bad)[0][-1])
        return [f"The fit diverged at step {step}: lower the learning rate."]


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
    state: FitState | None = None,
) -> tuple[FitState, FitInfo]:
    """Minimise an objective over batches: the one optimisation loop.

    Each step takes the gradient of `sum_t scale_t sum_t / weight_t` over one batch and applies one
    optimizer update. The key drives the order of the examples (`fold_in(key, epoch)`) and the
    randomness of each step (`fold_in(key, step)`), so nothing depends on where a run was stopped.

    Args:
      model: says which part of the variables is trained.
      objective: see `Objective`.
      optimizer: any optax optimizer; to freeze leaves, end it with
        `optax.masked(optax.set_to_zero(), frozen_leaves)`, or use `mu.masked`.
      variables: where to start.
      batches: `Batches`, a `Stream`, or a re-iterable of `Batch`.
      key: a PRNG key.
      epochs: passes over the batches. steps: number of steps instead.
      batch_size: examples per step, of `Batches` or a `Stream`; default their own.
      frozen: named trees handed to the objective.
      gradients: how to take the gradient; default `plain`.
      shuffle: draw a new order of the examples in every epoch.
      state: continue from here; `variables` and `key` are then not used.

    Returns:
      `(state, info)`: `state.variables` is the result.

    Raises:
      ValueError: an iterable whose length is not known, without `steps`.

    Note: a last batch with fewer examples is filled up with rows of weight 0. They take no part in
    any loss, but in training mode a batch normalisation sees them; where that matters choose a
    batch size that divides the number of examples and is a multiple of the number of devices.

    Cost: one forward and backward pass per example and epoch with `plain` gradients; memory of
    parameters, optimizer state, one gradient and one batch.
    """
    if batch_size is not None:
        if not hasattr(batches, "replace"):
            raise ValueError(
                "expected Batches or a Stream for a given batch_size, found an iterable: let it "
                "yield batches of that size"
            )
        batches = batches.replace(batch_size=batch_size)  # type: ignore[union-attr]
    total = steps
    if total is None:
        per_epoch = folding.num_batches(batches)
        if per_epoch is None:
            raise ValueError(
                "expected batches of known number, found an iterable without a length: give steps"
            )
        total = per_epoch * epochs
    if steps is not None:
        epochs = -(-steps // (folding.num_batches(batches) or 1))
    start: int | jax.Array = 0
    if state is None:
        opt_state = initial_state(optimizer, model.params(variables))
        state = FitState(at_once.as_array(0, np.int32), variables, opt_state, key)
    else:
        start = state.step if isinstance(state.step, jax.core.Tracer) else int(np.min(state.step))

    def run(update: Update, values: tuple) -> tuple[FitState, FitInfo]:
        info, trim = _empty_info(total, (state, frozen, batches, values))
        last, info = folding.fold(
            _fit_step(model, objective, update, gradients or plain),  # type: ignore[arg-type]
            (state, info),
            batches,
            frozen or {},
            values,
            epochs=epochs,
            start=start,
            stop=total,
            key=state.key if shuffle else None,
        )
        return last, trim(info)

    try:
        return run(*lifted_update(optimizer, model.params(state.variables), state.opt_state))
    except lifting.OtherTypes:  # gradients that are not of the types of the parameters
        return run(_plain_update(optimizer), ())


def initial_state(optimizer: optax.GradientTransformation, params: PyTree) -> optax.OptState:
    """`optimizer.init(params)`, one program for all optimizers of a kind where arrays are whole."""
    if not at_once.on_host(params) or _divided(params):
        return optimizer.init(params)
    return lifting.run(lifting.lift(optimizer.init, params, owners=(optimizer.init,)), params)


def _divided(tree: PyTree) -> bool:
    return any(len(x.sharding.device_set) > 1 for x in jax.tree.leaves(tree) if _is_array(x))


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array)


def _empty_info(total: int, given: PyTree) -> tuple[FitInfo, Callable[[FitInfo], FitInfo]]:
    """Room for `total` steps, and what cuts a longer one to them.

    Outside `jit` the room is a power of two, so that runs of other lengths are the same program.
    """
    if not at_once.is_known(given) or _divided(given):
        return FitInfo(*(jnp.zeros(total, jnp.float32) for _ in FitInfo._fields)), lambda info: info
    room = max(_FEW_STEPS, 1 << max(total - 1, 0).bit_length())
    info = FitInfo(*(at_once.as_array(np.zeros(room, np.float32)) for _ in FitInfo._fields))
    return info, lambda info: FitInfo(*jax.device_put([np.asarray(x)[:total] for x in info]))


_FEW_STEPS = 1024
Update = Callable[..., tuple[optax.Updates, optax.OptState]]


def lifted_update(
    optimizer: optax.GradientTransformation, params: PyTree, opt_state: optax.OptState
) -> lifting.Lifted:
    """The optimizer's update, of `(grads, state, params, loss)`, as a computation and numbers."""
    update = optax.with_extra_args_support(optimizer).update
    loss = jax.ShapeDtypeStruct((), jnp.float32)
    return lifting.lift(
        lambda grads, state, params, value: update(grads, state, params, value=value),
        *bare((params, opt_state, params)),
        loss,
        owners=(optimizer.update,),
    )


@functools.lru_cache(maxsize=64)
def _plain_update(optimizer: optax.GradientTransformation) -> Update:
    update = optax.with_extra_args_support(optimizer).update
    return lambda values, grads, state, params, value: update(grads, state, params, value=value)


@functools.lru_cache(maxsize=256)
def _fit_step(model: Model, objective: Objective, update: Update, gradients: Gradients) -> Callable:
    """One step as the same function object each time, so that it compiles once."""

    def step(carry, batch, frozen, values):
        state, info = carry
        params, rest = model.split(state.variables)
        key = jax.random.fold_in(state.key, state.step)

        def terms(params, batch):
            found, variables = objective(model.join(params, rest), batch, frozen, key)
            return found, model.split(variables)[1]

        grads, found, moved = gradients(terms, params, batch)
        loss = total(found)
        updates, opt_state = update(values, grads, state.opt_state, params, loss)
        params = optax.apply_updates(params, updates)
        row = FitInfo(loss, optax.tree.norm(grads), batch.weight.sum())
        info = FitInfo(
            *(old.at[state.step].set(new.astype(old.dtype)) for old, new in zip(info, row))
        )
        return FitState(state.step + 1, model.join(params, moved), opt_state, state.key), info

    def step_anywhere(carry, batch, frozen, values):
        return on_automatic_axes(step, carry, batch, frozen, values, like=carry)

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


@functools.lru_cache(maxsize=64)
def sam(rho: float) -> Gradients:
    """Sharpness-aware: the gradient at `theta + rho g / ||g||`; two passes.

    References:
      P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur. Sharpness-Aware Minimization for Efficiently
      Improving Generalization. ICLR 2021.
    """

    def gradients(terms, params, batch):
        grads, found, aux = plain(terms, params, batch)
        scale = rho / jnp.maximum(optax.tree.norm(grads), 1e-12)
        grads, _, _ = plain(terms, optax.tree.add_scale(params, scale, grads), batch)
        return grads, found, aux

    return gradients


@functools.lru_cache(maxsize=64)
def per_term(combine: Callable[[dict[str, PyTree]], PyTree]) -> Gradients:
    """One gradient per term of the objective, combined by `combine` (projection, bargaining).

    Cost: one forward pass, and one backward pass per term.
    """

    def gradients(terms, params, batch):
        def values(params):
            found, aux = terms(params, batch)
            return {name: total({name: term}) for name, term in found.items()}, (found, aux)

        value, pull_back, (found, aux) = jax.vjp(values, params, has_aux=True)

        def gradient(name):
            seeds = {other: jnp.where(other == name, 1.0, 0.0) for other in value}
            seeds = {other: seed.astype(value[other].dtype) for other, seed in seeds.items()}
            return pull_back(seeds)[0]

        return combine({name: gradient(name) for name in value}), found, aux

    return gradients


@functools.lru_cache(maxsize=64)
def micro_batches(number: int) -> Gradients:
    """The same gradient as `plain`, from `number` parts of the batch one after another.

    Sums are accumulated over the parts and divided by the weight of the whole batch, so nothing
    changes but memory (one part's activations). In training mode, batch statistics are those of
    the parts, and the last part's move the running ones.
    """

    def gradients(terms, params, batch):
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

    return gradients
