"""A lineage of S3T: its training, and removals that switch off what has seen a row."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from mu_jax import _words as words
from mu_jax.data.batches import Batches
from mu_jax.ensembles.training import Layout
from mu_jax.exact import requests, s3t_stage, voting
from mu_jax.exact.orders import Prefixes, prefixes_of
from mu_jax.exact.s3t_stage import Stage
from mu_jax.exact.shards import (
    Placement,
    Rows,
    digest,
    gathered,
    key_words,
    laid_out,
    left_after,
    no_rows,
    on_mesh,
    refuse_traced,
    rows_of,
)
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.scan import in_turns
from mu_jax.model import Model
from mu_jax.store.leaves import by_path, describe
from mu_jax.store.run_state import config_digest
from mu_jax.transforms._shared.transform import Transform

PyTree = Any


class S3TVariables(NamedTuple):
    """All that a lineage of S3T is: nothing in it has seen what was forgotten.

    Attributes:
      stages: at each depth a `Stage` with leaves [S, N_i, ...], the part that each beginning of an
        order has trained; 0 where it has seen a slice that lost a row.
      base: variables of the model, which never move.
      rows: who is left in each shard and slice.
      gone: bool[S, L], the slices that lost a row.
      digests: u8[S, L, 32], of the recipe and the ids of each slice; 0 for those that are gone.
      key: PRNG key of the training.
    """

    stages: tuple[Stage, ...]
    base: PyTree
    rows: Rows
    gone: np.ndarray
    digests: np.ndarray
    key: jax.Array


class S3TInfo(NamedTuple):
    """What a training or a removal did.

    Attributes:
      depth: i32[S], how many slices the order that answers has learned, 0 for a shard that is lost.
      alive: i32[S], how many different first slices are left.
      loss: f32[L, S, N], of the last step of each part; 0 where nothing was trained.
    """

    depth: np.ndarray
    alive: np.ndarray
    loss: np.ndarray

    def messages(self) -> list[str]:
        """A sentence if a part diverged, or a shard was lost."""
        found = []
        if not np.isfinite(self.loss).all():
            found.append("A part of the model diverged: lower the learning rate.")
        lost = np.flatnonzero(np.asarray(self.depth) == 0)
        if lost.size:
            few = ", ".join(map(str, lost[:5]))
            found.append(f"Shards {few} answer no more: train again when it costs too much.")
        return found


@dataclasses.dataclass(frozen=True, eq=True)
class S3T:
    """A protocol of training in which a removal needs none; made by `mu.exact.s3t`."""

    base: Model
    optimizer: optax.GradientTransformation
    layers: tuple[tuple[str, ...], ...]
    head: tuple[str, ...]
    kernels: Callable[[str], bool] | None
    shards: int
    orders: tuple[tuple[int, ...], ...]
    epochs: int
    batch_size: int
    rank: int
    scale: float
    factored: bool
    training_mode: bool
    gradients: Gradients | None
    combine: voting.Combine
    placement: Placement | None
    capacity: int | None
    recipe: str
    layout: Layout
    mesh: Mesh | None
    axis: str

    @property
    def slices(self) -> int:
        """L, the number of slices and of depths."""
        return len(self.layers)

    @functools.cached_property
    def tree(self) -> Prefixes:
        """The beginnings of the orders."""
        return prefixes_of(self.orders)

    @functools.cached_property
    def model(self) -> Model:
        """The model of the ensemble: its variables are `S3TVariables`, its outputs one answer."""
        return voting.voting_model(
            self._predict_one,
            self.base.loss,
            self._members,
            _split,
            _join,
            how=self.combine,
            layout=self.layout,
        )

    @functools.cached_property
    def program(self) -> S3T:
        """What decides the program of a depth alone: equal ones are compiled once."""
        return dataclasses.replace(
            self, orders=(), placement=None, capacity=None, recipe="", combine="outputs"
        )

    @functools.cached_property
    def unlearn(self) -> Transform:
        """The removal as a transform: `unlearn(key, variables, forget, retain)`.

        It trains nothing and draws nothing: `key` is not read.
        """
        return requests.transform_of(self)

    @property
    def words(self) -> str:
        """The protocol and its numbers as a call."""
        named = {"shards": self.shards, "slices": self.slices, "orders": len(self.orders)}
        return words.call("s3t", (), named | {"epochs": self.epochs, "rank": self.rank})

    def __repr__(self) -> str:
        return f"S3T{self.words.removeprefix('s3t')}"

    def train(
        self, key: jax.Array, base: PyTree, data: Batches, *, without: ArrayLike | None = None
    ) -> tuple[S3TVariables, S3TInfo]:
        """Train a lineage.

        Args:
          key: places the rows, initializes and shuffles.
          base: variables of the model, trained on nothing that may have to be forgotten.
          data: the training examples, in memory.
          without: bool[S, L], slices that are not to be learned from; default none.

        Returns:
          `(variables, info)`.

        Raises:
          TypeError, ValueError: examples that are not in memory, an id that is there twice, a
            shard with more rows than the capacity, layers that are not there.

        Cost: `plan_s3t(...).passes` over the data; memory of the base and of all parts.
        """
        refuse_traced(key, base, data)
        rows = laid_out(self, key, rows_of(data))
        gone = np.zeros((self.shards, self.slices), bool)
        gone = gone if without is None else np.array(without, bool)
        if gone.shape != (self.shards, self.slices):
            raise ValueError(
                f"expected `without` as bool[{self.shards}, {self.slices}], found shape "
                f"{gone.shape}: say of each shard which slices to leave out"
            )
        digests = self._digests(key, base, rows, gone)
        examples, turn = gathered(data, rows, self.mesh, self.axis), self._turn
        nothing = self._nothing(key, base)
        most = max(map(len, self.tree.nodes))
        losses = np.zeros((self.slices, self.shards, most), np.float32)

        def stage(carry, depth):
            return turn(carry, depth, (key, base, examples, rows, gone))

        stages, losses = in_turns(stage, (nothing, losses), self.slices)
        variables = S3TVariables(stages, base, rows, gone, digests, key)
        return variables, self._info(gone, losses)

    def like(self, key: jax.Array, base: PyTree) -> S3TVariables:
        """The shapes and dtypes of a lineage, for `store.restore(like=)`; nothing is trained.

        Args:
          key: of the kind with which it was trained, such as `jax.random.key(0)`.
          base: variables of the model, or their shapes.

        Returns:
          The parts as `jax.ShapeDtypeStruct`s and `base`; what else there is as arrays of zeros,
          since it stays on the host.

        Raises:
          ValueError: the protocol has no capacity, so that its room follows the rows; layers that
            are not there.
        """
        nothing = self._nothing(key, base)
        stages = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), nothing)
        gone = np.zeros((self.shards, self.slices), bool)
        digests = np.zeros((self.shards, self.slices, 32), np.uint8)
        return S3TVariables(stages, base, no_rows(self), gone, digests, key)

    def answer(
        self, key: jax.Array, variables: S3TVariables, forget: Any, retain: Any
    ) -> tuple[S3TVariables, requests.ExactInfo]:
        """`unlearn`, without the checks that all transforms share."""
        del key
        refuse_traced(variables, forget, retain)
        self._require_own(variables)
        held = Rows(*map(np.asarray, variables.rows))
        rows = left_after(held, forget, retain)
        gone = np.asarray(variables.gone) | (rows.counts < held.counts)
        if not self._depths(gone).any():
            raise requests.Spent(
                "expected a shard with a slice to begin with that lost no row, found none left "
                "after this request: train a new lineage on the retain set"
            )
        alive = [jnp.asarray(self._alive(gone, depth)) for depth in range(self.slices)]
        stages = tuple(map(s3t_stage.switched, variables.stages, alive))
        digests = np.where(gone[..., None], 0, np.asarray(variables.digests)).astype(np.uint8)
        after = S3TVariables(stages, variables.base, rows, gone, digests, variables.key)
        untrained = np.zeros((self.slices, self.shards, 1), np.float32)
        return requests.exact_report(
            self.model,
            variables,
            after,
            steps=0,
            example_passes=0.0,
            details=self._info(gone, untrained),
        )

    def _turn(self, carry: tuple, depth: int, given: tuple) -> tuple:
        """Train one depth: every beginning of that length, in every shard."""
        (stages, losses), (key, base, examples, rows, gone) = carry, given
        above: list[Stage] = []
        at = np.arange(len(self.tree.nodes[depth]))
        for number in range(depth, 0, -1):
            at = self.tree.parents[number][at]
            above.insert(0, jax.tree.map(lambda x, at=at: x[:, at], stages[number - 1]))
        keys, alive = self._keys(key, depth), self._alive(gone, depth)
        members = tuple(above), examples, keys, alive, *self._positions(rows, depth)
        members = on_mesh(members, self.mesh, self.axis)
        found, loss = s3t_stage.run(self.program, depth, base, *members)
        losses = np.array(losses)
        losses[depth, :, : alive.shape[1]] = np.where(alive, np.asarray(loss), 0)
        return (*stages[:depth], found, *stages[depth + 1 :]), losses

    def _positions(self, rows: Rows, depth: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the rows of each beginning lie in their shard, and how many there are."""
        nodes = self.tree.nodes[depth]
        place = np.zeros((self.shards, len(nodes), rows.index.shape[1]), np.int32)
        counts = np.zeros(place.shape[:2], np.int32)
        ends = np.cumsum(rows.counts, axis=1)
        for shard in range(self.shards):
            for number, node in enumerate(nodes):
                parts = [
                    np.arange(ends[shard, k] - rows.counts[shard, k], ends[shard, k]) for k in node
                ]
                own = np.concatenate(parts)
                counts[shard, number], place[shard, number, : own.size] = own.size, own
        return place, counts

    def _keys(self, key: jax.Array, depth: int) -> jax.Array:
        """One key for each beginning in each shard: of the shard and the slices, and no order."""
        own = jax.random.fold_in(key, 1)
        nodes = np.asarray(self.tree.nodes[depth], np.int32)

        def one(shard, node):
            found = jax.random.fold_in(own, shard)
            return functools.reduce(jax.random.fold_in, node, found)

        both = jax.vmap(jax.vmap(one, (None, 0)), (0, None))
        return both(jnp.arange(self.shards), jnp.asarray(nodes))

    def _alive(self, gone: np.ndarray, depth: int) -> np.ndarray:
        """Which beginnings have seen no slice that lost a row, bool[S, N]."""
        return np.asarray(~gone[:, np.asarray(self.tree.nodes[depth])].any(axis=-1))

    def _depths(self, gone: np.ndarray) -> np.ndarray:
        """The longest beginning of each shard that is left, i32[S]."""
        left = [self._alive(gone, depth).any(axis=1) for depth in range(self.slices)]
        return np.asarray(np.sum(left, axis=0), np.int32)

    def _info(self, gone: np.ndarray, losses: np.ndarray) -> S3TInfo:
        return S3TInfo(self._depths(gone), self._alive(gone, 0).sum(axis=1), losses)

    def _nothing(self, key: jax.Array, base: PyTree) -> tuple[Stage, ...]:
        """Parts of zeros in the shapes of trained ones."""
        found = []
        for depth in range(self.slices):
            shape = jax.eval_shape(lambda k, v, d=depth: s3t_stage.fresh(self, d, k, v), key, base)
            lead = self.shards, len(self.tree.nodes[depth])
            found.append(jax.tree.map(lambda x, a=lead: np.zeros((*a, *x.shape), x.dtype), shape))
        return tuple(found)

    def _digests(self, key: jax.Array, base: PyTree, rows: Rows, gone: np.ndarray) -> np.ndarray:
        recipe = config_digest(
            {
                "protocol": "s3t",
                "layers": self.layers,
                "head": self.head,
                "shards": self.shards,
                "orders": self.orders,
                "epochs": self.epochs,
                "batch_size": self.batch_size,
                "rank": self.rank,
                "scale": self.scale,
                "training_mode": self.training_mode,
                "layout": self.layout,
                "recipe": json.loads(self.recipe),
                "key": key_words(key),
                "leaves": describe(by_path((base, self._nothing(key, base)))),
            }
        )
        found = np.zeros((self.shards, self.slices, 32), np.uint8)
        for shard, piece in np.argwhere(~gone):
            found[shard, piece] = digest(recipe, shard, piece, rows.shard(shard, [piece]))
        return found

    def _require_own(self, variables: Any) -> None:
        """Refuse what is no lineage of this protocol."""
        if not isinstance(variables, S3TVariables):
            raise TypeError(
                f"expected S3TVariables, found {type(variables).__name__}: give what train or "
                "unlearn returned"
            )
        rows, gone = Rows(*map(np.asarray, variables.rows)), np.asarray(variables.gone)
        if gone.shape == rows.counts.shape == (self.shards, self.slices):
            own = self._digests(variables.key, variables.base, rows, gone)
            if np.array_equal(own, np.asarray(variables.digests)):
                return
        raise ValueError(
            "expected parts of this recipe, model and rows, found digests of others: use the "
            "protocol with which the lineage was trained, or train a new one"
        )

    def _members(self, params: tuple[Stage, ...], variables: S3TVariables) -> tuple:
        """The order with the longest beginning of every shard, the later layers switched off."""
        orders, places = jnp.asarray(self.orders), jnp.asarray(self.tree.places)
        alive = jnp.cumprod(~jnp.asarray(variables.gone)[:, orders], axis=-1)  # [S, B, L]
        best = alive.sum(axis=-1).argmax(axis=1)
        on = jnp.take_along_axis(alive, best[:, None, None], axis=1)[:, 0]
        chosen, shard = places[best], jnp.arange(self.shards)
        parts = [
            jax.tree.map(lambda x, d=d: x[shard, chosen[:, d]], part)
            for d, part in enumerate(params)
        ]
        held = jnp.take_along_axis(jnp.asarray(variables.rows.counts), orders[best], axis=1)
        own = jax.vmap(s3t_stage.switched_on)(parts, on)
        return own, variables.base, (held * on).sum(axis=1) > 0

    def _predict_one(self, own: Stage, base: PyTree, inputs: PyTree) -> PyTree:
        whole = s3t_stage.Adapting(own, ({}, jnp.asarray(self.scale, jnp.float32)), base)
        return s3t_stage.adapting(self.base, self.factored).apply(whole, inputs)


def _split(variables: Any) -> tuple[PyTree, PyTree]:
    if not isinstance(variables, S3TVariables):
        raise TypeError(
            f"expected S3TVariables, found {type(variables).__name__}: give what train or unlearn "
            "returned"
        )
    return variables.stages, variables


def _join(params: tuple[Stage, ...], variables: S3TVariables) -> S3TVariables:
    return variables._replace(stages=params)
