"""One depth of S3T: adapters of some layers and a head, on top of the frozen ones above."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax._tracing import cached
from mu_jax.adapters.low_rank import Adapters, factored, merged, new_adapters
from mu_jax.data.batches import Batch
from mu_jax.ensembles.training import map_models
from mu_jax.exact.shards import Examples, in_use
from mu_jax.loops.averaging import with_average
from mu_jax.loops.fit import FitState, advance, no_info
from mu_jax.loops.gradients import Terms
from mu_jax.model import Model, Variables, from_function, lies_in, path_name
from mu_jax.objectives.supervised import supervised
from mu_jax.reparameterized import reparameterized

PyTree = Any


class Stage(NamedTuple):
    """What one depth trains: adapters of its layers, and the leaves of the head by name."""

    adapters: Adapters
    head: dict[str, jax.Array]


class Adapting(NamedTuple):
    """The variables of the model with adapters: a stage, the ones above and the scale, the base."""

    trained: Stage
    numbers: tuple[Adapters, jax.Array]
    base: PyTree


@cached(maxsize=64)
def adapting(model: Model, thin: bool) -> Model:
    """The model with adapters and a head of its own; its variables are `Adapting`."""

    def computed(function, trained, state, inputs, *key):
        (above, scale), base = state
        params, own = model.split(base)
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: trained.head.get(path_name(path), x), params
        )
        put = factored if thin else merged
        return function(put(params, {**above, **trained.adapters}, scale), own, inputs, *key)

    return reparameterized(model, Adapting, lambda variables: None, computed)


@dataclasses.dataclass(frozen=True)
class _Supervised:
    """The supervised loss of a stage; what is frozen is no part of the variables that a fit has."""

    model: Model
    training_mode: bool
    rows_are_independent = False

    def __call__(
        self, variables: Variables, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, Variables]:
        """The term; statistics of normalizations that moved are dropped."""
        whole = Adapting(variables.params, (frozen["above"], frozen["scale"]), frozen["base"])
        own = supervised(self.model, training_mode=self.training_mode)
        return own(whole, batch, {}, key)[0], variables


def kernels_of(protocol: Any, depth: int, params: PyTree) -> list[str]:
    """The names of the kernels that a depth adapts.

    Raises:
      ValueError: there is none, or one of them belongs to the head.
    """
    layers, leaves = protocol.layers[depth], jax.tree_util.tree_leaves_with_path(params)
    found = [
        name
        for name, leaf in ((path_name(path), leaf) for path, leaf in leaves)
        if any(lies_in(name, layer) for layer in layers)
        and jnp.ndim(leaf) > 1
        and (protocol.kernels is None or protocol.kernels(name))
    ]
    names = [path_name(path) for path, _ in leaves]
    if not found or not set(found).isdisjoint(head_names(protocol, names)):
        what = "a kernel of the head" if found else "none"
        raise ValueError(
            f"expected kernels to adapt in {', '.join(layers)}, found {what} among "
            f"{', '.join(names[:4])}, ...: correct `layers`, `head` or `kernels`"
        )
    return found


def head_names(protocol: Any, names: Sequence[str]) -> list[str]:
    """The names of the leaves of the head.

    Raises:
      ValueError: there is none.
    """
    found = [name for name in names if any(lies_in(name, layer) for layer in protocol.head)]
    if not found:
        raise ValueError(
            f"expected the head {', '.join(protocol.head)} among {', '.join(names[:4])}, ..., "
            "found no such layer: correct `head`"
        )
    return found


def fresh(protocol: Any, depth: int, key: jax.Array, base: PyTree) -> Stage:
    """A stage before its training: adapters that change nothing yet, and the head of the base."""
    params = protocol.base.params(base)
    leaves = {path_name(p): x for p, x in jax.tree_util.tree_leaves_with_path(params)}
    names = kernels_of(protocol, depth, params)
    adapters = new_adapters(key, params, rank=protocol.rank, chosen=names.__contains__)
    return Stage(adapters, {name: leaves[name] for name in head_names(protocol, list(leaves))})


@functools.partial(jax.jit, static_argnums=(0, 1))
def run(
    protocol: Any,
    depth: int,
    base: PyTree,
    above: tuple[Stage, ...],
    examples: Examples,
    keys: jax.Array,
    active: jax.Array,
    place: jax.Array,
    counts: jax.Array,
) -> tuple[Stage, jax.Array]:
    """Train one depth of all beginnings in all shards; those that are not active are 0.

    Args:
      protocol: an `S3T`. base: variables of its model.
      above: the stages above in each beginning, leaves [S, N, ...].
      examples: [S, capacity, ...]. keys: [S, N]. active: bool[S, N].
      place: i32[S, N, capacity], where the rows of each beginning lie. counts: i32[S, N].

    Returns:
      The stages, and the loss of the last step of each, f32[S, N].
    """
    scale = jnp.asarray(protocol.scale, jnp.float32)

    def one(above, key, active, place, count, examples):
        rows = jax.tree.map(lambda x: x[place], examples)
        own = in_use(rows, count, protocol.batch_size)
        start = fresh(protocol, depth, jax.random.fold_in(key, 0), base)
        if above:
            start = Stage(start.adapters, above[-1].head)
        adapters = {name: pair for part in above for name, pair in part.adapters.items()}
        model = from_function(protocol.base.predict, protocol.base.loss)
        objective = _Supervised(adapting(protocol.base, protocol.factored), protocol.training_mode)
        variables = Variables(start)
        opt_state = protocol.optimizer.init(start)
        state = FitState(jnp.int32(0), variables, opt_state, jax.random.fold_in(key, 1))
        most = -(-place.shape[0] // protocol.batch_size) * protocol.epochs
        last, info = advance(
            model,
            objective,
            protocol.optimizer,
            (state, no_info(most)),
            own,
            start=0,
            stop=jnp.where(active & (count > 0), own.num_batches * protocol.epochs, 0),
            frozen={"above": adapters, "scale": scale, "base": base},
            gradients=protocol.gradients,
        )
        trained = with_average(model, last).variables.params
        kept = jax.tree.map(lambda x: jnp.where(active, x, jnp.zeros_like(x)), trained)
        return kept, info.loss[jnp.maximum(last.step - 1, 0)]

    def shard(above, examples, *members):
        own = functools.partial(one, examples=examples)
        return map_models(own, above, *members, layout=protocol.layout)

    return map_models(
        shard,
        above,
        examples,
        keys,
        active,
        place,
        counts,
        layout=protocol.layout,
        mesh=protocol.mesh,
        axis=protocol.axis,
    )


@jax.jit
def switched(stage: Stage, active: jax.Array) -> Stage:
    """The stages that are active, the others 0: leaves [S, N, ...], active bool[S, N]."""

    def leaf(x):
        return jnp.where(active.reshape(*active.shape, *[1] * (x.ndim - 2)), x, jnp.zeros_like(x))

    return jax.tree.map(leaf, stage)


def switched_on(parts: Sequence[Stage], on: jax.Array) -> Stage:
    """One stage of all depths, the adapters of the later ones switched off, on: i32[L]."""
    adapters = {
        name: pair._replace(b=pair.b * switch.astype(pair.b.dtype))
        for part, switch in zip(parts, on)
        for name, pair in part.adapters.items()
    }
    last = jnp.maximum(on.sum() - 1, 0)
    heads = jax.tree.map(lambda *x: jnp.stack(x)[last], *(part.head for part in parts))
    return Stage(adapters, heads)
