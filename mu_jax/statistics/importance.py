"""Importance of every parameter for a set of examples, in the definitions of the literature."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from einops import rearrange

from mu_jax._tracing import cached
from mu_jax.data.batches import Batch, describe
from mu_jax.loops.labels import counted
from mu_jax.losses import cross_entropy, total_weight, weighted_sum
from mu_jax.model import Model
from mu_jax.statistics._engine.per_example import routes, sum_of_magnitudes, sum_of_squares
from mu_jax.statistics.accumulator import Statistic, sum_dtype

PyTree = Any
Definition = Literal["per_example", "grouped", "loss_free", "fisher"]


@cached(maxsize=64)
def importance(
    model: Model, definition: Definition = "per_example", group_size: int | None = None
) -> Statistic:
    """Importance of every parameter, a mean over examples of squared gradients and the like.

    | definition | value |
    |---|---|
    | `per_example` | `sum_i w_i g_i^2 / sum_i w_i`, `g_i` the gradient of the loss of example i |
    | `grouped` | mean over groups of the square of the group's mean gradient |
    | `loss_free` | mean over groups of `abs(grad mean_i ||f(x_i)||^2)`; labels are not used |
    | `fisher` | `sum_i w_i sum_c p(c|x_i) g_ic^2 / sum_i w_i`, labels from the model's softmax |

    A group is `group_size` consecutive examples in the order of the data; the last group may be
    smaller, and each group counts once. `per_example` is independent of order, batch size and
    number of devices; `grouped` depends on the order of the data and on the group size, so state
    both: the published SSD uses groups of 64 of a class-sorted data set.

    Args:
      model: the model; inference mode throughout.
      definition: see the table.
      group_size: needed by `grouped`; 1 for `loss_free` by default; no others take it.

    Returns:
      A `Statistic` whose value is shaped like the parameters, all entries >= 0.

    Raises:
      ValueError: unknown definition, or a group size that does not belong to it.

    Cost: about one forward and backward pass over the data, without per-example gradients of
    dense layers or convolutions (`mu.statistics.per_example`); `fisher` one per class.

    Differences from the reference program of SSD (`if-loops/selective-synaptic-dampening`):
      1. The default is `per_example`, which the paper describes; the program computes `grouped`
         with the batch as the group.
      2. Inference mode is part of the definition; running statistics never move.

    References:
      J. Foster, S. Schoepf, A. Brintrup. Fast Machine Unlearning Without Retraining Through
      Selective Synaptic Dampening. AAAI 2024. J. Foster, S. Schoepf, A. Brintrup. Loss-Free
      Machine Unlearning. 2024 (arXiv 2402.19308).

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> data = mu.batches(jnp.eye(2), jnp.array([1.0, 3.0]), batch_size=2)
      >>> per_example = mu.statistics.importance(model)
      >>> mu.collect(per_example, mu.Variables(jnp.zeros(2)), data).value
      Array([ 2., 18.], dtype=float32)
      >>> grouped = mu.statistics.importance(model, "grouped", group_size=2)
      >>> mu.collect(grouped, mu.Variables(jnp.zeros(2)), data).value
      Array([1., 9.], dtype=float32)
    """
    size = _group_size(definition, group_size)
    name = f"importance: {definition}" + (
        f" of {size}" if definition == "grouped" or size > 1 else ""
    )
    if definition == "fisher":
        return Statistic(_fisher_terms(model), model.params, name)
    output_size = definition == "loss_free"
    reduce = sum_of_magnitudes if output_size else sum_of_squares
    losses = _squared_norm if output_size else model.per_example
    return Statistic(_group_terms(model, losses, reduce, size), model.params, name, size)


def importance_routes(model: Model, variables: PyTree, batch: Batch) -> PyTree:
    """How importance is computed for each leaf, as a tree of words shaped like the parameters.

    `dense`, `tokens`, `patches`, `lookup` and `tied` are the fast ways, `small` leaves get one
    gradient per example, and so do those that say `fallback`, which is slow for large ones: see
    `mu_jax.statistics._engine.per_example.routes` for what makes a leaf fall back.

    Args:
      model, variables: the model.
      batch: any batch of its data; only shapes are read.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, mu_jax as mu
      >>> module, data = nn.Dense(3), mu.batches(jnp.ones((4, 2)), jnp.arange(4) % 3, batch_size=4)
      >>> model = mu.from_linen(module, mu.losses.cross_entropy)
      >>> variables = module.init(jax.random.key(0), data.inputs)
      >>> mu.statistics.importance_routes(model, variables, data.at(0))
      {'bias': 'small', 'kernel': 'dense'}
    """
    params, state = model.split(variables)
    rows = jax.tree.map(lambda x: x[:1], batch)

    def losses(params, rows):
        return model.per_example(model.for_loss(params, state, rows.inputs), rows)

    return routes(losses, params, rows)


def _group_size(definition: str, group_size: int | None) -> int:
    known = ("per_example", "grouped", "loss_free", "fisher")
    if definition not in known:
        raise ValueError(
            f"expected a definition among {', '.join(known)}, found {definition!r}: choose one"
        )
    if definition == "grouped" and group_size is None:
        raise ValueError(
            "expected a group_size for grouped importance, found none: the published SSD uses its "
            "batch size, 64"
        )
    if definition in ("per_example", "fisher") and group_size not in (None, 1):
        raise ValueError(
            f"expected no group_size for {definition} importance, found {group_size}: use "
            "definition='grouped'"
        )
    if group_size is not None and group_size < 1:
        raise ValueError(f"expected group_size >= 1, found {group_size}: give a positive size")
    return group_size or 1


def _squared_norm(outputs: PyTree, batch: Batch) -> jax.Array:
    """Squared L2 norm of each example's outputs."""
    rows = batch.weight.shape[0]
    known = [jnp.where(x == -jnp.inf, 0, x) for x in jax.tree.leaves(outputs)]  # no class at all
    squares = [jnp.square(x).reshape(rows, -1).sum(axis=1) for x in known]
    return functools.reduce(jnp.add, squares)


def _group_terms(model: Model, losses: Callable, reduce: Callable, size: int) -> Callable:
    """Sum over groups of `reduce`d gradients of the group's mean loss; with size 1, of examples.

    A group is to the per-example engine what an example with `size` positions is.
    """

    supervised = losses == model.per_example
    outputs = model.for_loss if supervised else model.predict

    def terms(variables, batch):
        batch = counted(model, batch) if supervised else batch
        params, state = model.split(variables)
        _check_whole_groups(batch, size)

        def group_losses(params, groups):
            rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), groups)
            values = losses(outputs(params, state, rows.inputs), rows)
            values = values.reshape(-1, size)
            weight = groups.weight.astype(values.dtype)
            weight = weight / jnp.maximum(weight.sum(axis=1, keepdims=True), _TINY)
            return jax.vmap(weighted_sum)(values, weight)

        groups = jax.tree.map(lambda x: rearrange(x, "(g s) ... -> g s ...", s=size), batch)
        weight = batch.weight if size == 1 else (groups.weight > 0).any(axis=1)
        weight = weight.astype(jnp.float32)
        return reduce(group_losses, params, groups, weight), total_weight(weight)

    return terms


_TINY = 1e-30


def _check_whole_groups(batch: Batch, size: int) -> None:
    if batch.weight.shape[0] % size:
        raise ValueError(
            f"expected batches of whole groups of {size} examples, found a batch of "
            f"{batch.weight.shape[0]}: give a batch size that is a multiple of the group size"
        )


def _fisher_terms(model: Model) -> Callable:
    """Exact expectation over the model's own softmax: one weighted pass per class."""

    def terms(variables, batch):
        params, state = model.split(variables)
        outputs = model.predict(params, state, batch.inputs)
        if not hasattr(outputs, "ndim") or outputs.ndim != 2:
            raise ValueError(
                "expected logits of shape [examples, classes] for the exact Fisher, found "
                f"{getattr(outputs, 'shape', describe(outputs))}: use another definition"
            )
        probabilities = jax.nn.softmax(outputs)

        def add_class(label, total):
            def losses(params, inputs):
                logits = model.predict(params, state, inputs)
                return cross_entropy(logits, jnp.full(logits.shape[0], label))

            weight = batch.weight * probabilities[:, label]
            added = sum_of_squares(losses, params, batch.inputs, weight)
            return jax.tree.map(jnp.add, total, added)

        # Written with `where`, so that inside `shard_map` the zeros vary like the parameters.
        zero = jax.tree.map(lambda p: jnp.where(False, p, 0).astype(sum_dtype(p.dtype)), params)
        total = jax.lax.fori_loop(0, probabilities.shape[1], add_class, zero)
        return total, total_weight(batch.weight)

    return terms
