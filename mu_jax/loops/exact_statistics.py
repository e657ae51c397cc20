"""Batch statistics that are exact over a set, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax._tracing import cached
from mu_jax.data.axes import axis_size
from mu_jax.data.batches import Batch, Batches, is_concrete
from mu_jax.loops.scan import fold
from mu_jax.mesh.shards import on_automatic_axes
from mu_jax.model import Model, path_name

PyTree = Any
Pairs = dict[str, jax.Array]


class _Merged(NamedTuple):
    """Means and variances, float32 by name, of what was read so far, and the number of its rows."""

    values: Pairs
    rows: jax.Array


def exact_statistics(
    model: Model,
    variables: PyTree,
    batches: Batches | Iterable[Batch],
    *,
    key: jax.Array | None = None,
    sequential: bool = False,
) -> PyTree:
    """The batch statistics of examples, exact over all of them; the parameters stay as they are.

    With the mean `m_b` and the variance `v_b` that a layer has in training mode on batch b of n_b
    rows,

        mean = sum_b n_b m_b / n,    var = sum_b n_b (v_b + (m_b - mean)^2) / n

    Nothing of the old statistics remains, and no momentum has a say. Layers behind another
    normalization see what the batch's own statistics have normalized there, as in training. With
    `sequential` they see what the refreshed ones have normalized, as in use: all examples are one
    batch then.

    They are the pairs of arrays `mean` and `var` of one parent, as those of linen's and nnx's batch
    normalization; what a batch has is read off the training step, which moves them by
    `running = r running + (1 - r) batch` with any r. A layer that does not move them in training
    mode keeps them. Any other state is moved as by `mu.refresh_statistics`.

    Args:
      model: the model; without statistics nothing changes.
      variables: whose statistics are replaced.
      batches: examples, usually the retain set. The batch size of array-backed ones is lowered to
        what their devices share evenly. Where rows are missing in a batch (the last one, filled up
        with rows that training mode would see), the batch does not count.
      key: draws the order, and drives dropout, which is on; default the given order.
      sequential: see above.

    Returns:
      The variables with their statistics replaced.

    Raises:
      ValueError: no batch without missing rows; `sequential` for examples that are streamed.

    Cost: one forward pass per example. With `sequential` the memory of the activations of all
    examples.

    Note: in float32 statistics carry a relative error of about 1e-7 / (1 - r), since r is read off
    the step.

    Example:
      >>> import flax.linen as nn
      >>> import mu_jax as mu
      >>> class Network(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, train=False):
      ...         return nn.BatchNorm(use_running_average=not train, name="norm")(x)
      >>> x = jnp.array([[0.0], [2.0], [4.0], [6.0]])
      >>> model = mu.from_linen(Network(), mu.losses.squared_error)
      >>> start = Network().init(jax.random.key(0), x)
      >>> data = mu.batches(x, x, batch_size=2)
      >>> found = exact_statistics(model, start, data)["batch_stats"]["norm"]
      >>> round(float(found["mean"][0]), 3), round(float(found["var"][0]), 3)
      (3.0, 5.0)
    """
    params, state = model.split(variables)
    if not jax.tree.leaves(state):
        return variables
    old = _pairs(state)
    zeros = {name: jnp.zeros_like(leaf, jnp.float32) for name, leaf in old.items()}
    start = state, _Merged(zeros, jnp.zeros((), jnp.float32)), jnp.zeros((), jnp.int32)
    frozen = params, jax.random.key(0) if key is None else key
    whole = _whole_batches(batches, sequential)
    state, merged, _ = fold(_merging_step(model), start, whole, frozen, key=key)
    if is_concrete(merged.rows) and not float(merged.rows.min()):
        raise ValueError(
            "expected a batch without missing rows, found none: give a smaller batch size"
        )
    found = {name: x.astype(old[name].dtype) for name, x in merged.values.items()}
    return model.join(params, _put(state, found))


def _whole_batches(batches: Any, sequential: bool) -> Any:
    """The batches with a size of which at least the first has no missing rows."""
    if not isinstance(batches, Batches):
        if sequential:
            raise ValueError(
                "expected array-backed examples for sequential statistics, which take all of them "
                "as one batch, found a stream: read them into memory, or leave out `sequential`"
            )
        return batches
    count, unit = batches.num_examples, batches.multiple * axis_size(batches.mesh, batches.axis)
    size = count if sequential else min(batches.batch_size, count)
    if size < unit:
        raise ValueError(
            f"expected at least {unit} examples in a batch, one for each device, found {size}: "
            "give more examples, or fewer devices"
        )
    return batches.replace(batch_size=size - size % unit)


@cached(maxsize=64)
def _merging_step(model: Model) -> Callable:
    def step(carry, batch, frozen):
        (state, merged, count), (params, key) = carry, frozen
        key, old = jax.random.fold_in(key, count), _pairs(state)

        def moved(pairs):
            return model.predict_train(params, _put(state, pairs), batch.inputs, key)[1]

        stays = _unmoved(old, moved)
        low, high = (
            {name: jnp.where(stays[name], x, x.dtype.type(value)) for name, x in old.items()}
            for value in (0, 1)
        )
        after = moved(low)
        zero, one = _pairs(after), _pairs(moved(high))
        found = {  # a statistic moves to `r running + (1 - r) batch`, and r is one - zero
            name: jnp.where(stays[name], zero[name], zero[name] / (1 - (one[name] - zero[name])))
            for name in old
        }
        rows = jnp.where((batch.weight > 0).all(), batch.weight.shape[0], 0)
        return _put(after, old), _merge(merged, found, rows.astype(jnp.float32)), count + 1

    def step_anywhere(carry, batch, frozen):
        return on_automatic_axes(step, carry, batch, frozen, like=carry)

    return step_anywhere


def _unmoved(old: Pairs, moved: Callable[[Pairs], PyTree]) -> dict[str, jax.Array]:
    """Which statistics training mode does not move: it may read them, so they are not replaced."""
    raised = {name: x + 1 for name, x in old.items()}
    first, second = _pairs(moved(old)), _pairs(moved(raised))
    return {
        name: (first[name] == old[name]).all() & (second[name] == raised[name]).all()
        for name in old
    }


def _merge(merged: _Merged, batch: Pairs, rows: jax.Array) -> _Merged:
    """The statistics with those of a batch, by the law of total variance."""
    total = merged.rows + rows
    share = rows / jnp.maximum(total, 1)
    apart = {name: batch[name].astype(jnp.float32) - old for name, old in merged.values.items()}
    values = {}
    for name, old in merged.values.items():
        moved = apart[name]
        if _is_var(name):  # and the variance between the batches
            moved += (1 - share) * apart[f"{name.removesuffix('var')}mean"] ** 2
        values[name] = old + share * moved
    return _Merged(values, total)


def _is_var(name: str) -> bool:
    return name.rpartition("/")[2] == "var"


def _pairs(state: PyTree) -> Pairs:
    """The leaves `mean` and `var` of one parent, by their names."""
    named = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}
    parents = {name.rpartition("/")[0] for name in named if _is_var(name)}
    both = [tuple(f"{p}/{part}" if p else part for part in ("mean", "var")) for p in parents]
    return {name: named[name] for pair in sorted(both) if pair[0] in named for name in pair}


def _put(state: PyTree, pairs: Pairs) -> PyTree:
    """The state with other pairs."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: pairs.get(path_name(path), leaf), state
    )
