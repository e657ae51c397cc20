"""One stage of SISA for all shards: one program, of which a shard that is untouched takes no step.

The program is the same in a training and in a removal, whatever the number of rows that are left:
how many rows a shard has, and how many steps it takes, are arguments.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.ensembles.training import map_models
from mu_jax.exact.shards import Examples, in_use
from mu_jax.freezing import settled
from mu_jax.loops.averaging import with_average, without_average
from mu_jax.loops.fit import FitState, advance, no_info
from mu_jax.objectives.supervised import supervised

PyTree = Any


class Checkpoint(NamedTuple):
    """What a stage leaves and the next one starts from: variables and the optimizer's state."""

    variables: PyTree
    opt_state: PyTree


class Report(NamedTuple):
    """What a stage did in each shard: see `SISAInfo`."""

    steps: Any
    examples: Any
    loss: Any
    finite: Any

    @classmethod
    def nothing(cls, slices: int, shards: int) -> Report:
        """The report before any stage."""
        zeros = np.zeros((slices, shards), np.float32)
        return cls(zeros.astype(np.int32), zeros, zeros, np.ones((slices, shards), bool))


def fresh(protocol: Any, key: jax.Array) -> tuple[PyTree, PyTree]:
    """The variables and the optimizer's state before the first stage of one shard."""
    variables = protocol.init(jax.random.fold_in(key, 0))
    model = settled(protocol.base, variables)
    return variables, protocol.optimizer.init(model.params(variables))


def shape_of(protocol: Any, keys: jax.Array) -> Checkpoint:
    """A checkpoint of all shards, for `jax.eval_shape`."""

    def one(key):
        state = FitState(jnp.int32(0), *fresh(protocol, key), key)
        last = with_average(settled(protocol.base, state.variables), state)
        return Checkpoint(last.variables, last.opt_state)

    return jax.vmap(one)(keys)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(
    protocol: Any,
    first: bool,
    before: Checkpoint,
    old: Checkpoint,
    examples: Examples,
    keys: jax.Array,
    active: jax.Array,
    counts: jax.Array,
    numbers: tuple[jax.Array, jax.Array],
) -> tuple[Checkpoint, Report]:
    """Train one stage of the shards that are active; the others keep their checkpoint.

    Args:
      protocol: a `SISA`. first: whether it is the first stage, which starts from scratch.
      before, old: the checkpoints before the stage and those that stand after it now, [S, ...].
      examples: of all slices, [S, capacity, ...]; counts: i32[S], how many of the stage's slices.
      keys: [S]. active: bool[S].
      numbers: of the stage, and its epochs, i32[].
    """
    stage, epochs = numbers

    def one(before, old, examples, key, active, count):
        if first:
            variables, opt_state = fresh(protocol, key)
        else:
            variables, opt_state = before
        model = settled(protocol.base, variables)
        own = in_use(examples, count, protocol.batch_size)
        start = jnp.zeros((), jnp.int32)
        own_key = jax.random.fold_in(key, 1 + stage)
        state = without_average(model, FitState(start, variables, opt_state, own_key))
        most = -(-examples.weight.shape[0] // protocol.batch_size) * max(protocol.epochs)
        last, info = advance(
            model,
            supervised(model, training_mode=protocol.training_mode),
            protocol.optimizer,
            (state, no_info(most)),
            own,
            start=0,
            stop=jnp.where(active & (count > 0), own.num_batches * epochs, 0),
            gradients=protocol.gradients,
        )
        finished = with_average(model, last)
        new = Checkpoint(finished.variables, finished.opt_state)
        kept = jax.tree.map(lambda a, b: jnp.where(active, a, b), new, old)
        return kept, _report(last.step, info)

    members = before, old, examples, keys, active, counts
    return map_models(one, *members, layout=protocol.layout, mesh=protocol.mesh, axis=protocol.axis)


def _report(steps: jax.Array, info: Any) -> Report:
    taken = jnp.arange(info.loss.shape[0]) < steps
    loss = info.loss[jnp.maximum(steps - 1, 0)]
    return Report(
        steps,
        jnp.where(taken, info.examples, 0).sum(),
        jnp.where(steps > 0, loss, 0),
        jnp.where(taken, jnp.isfinite(info.loss), True).all(),
    )
