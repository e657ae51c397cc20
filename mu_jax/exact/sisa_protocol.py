"""A lineage of SISA: its training, and removals that train again what has seen a row."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from mu_jax import _at_once as at_once
from mu_jax import _words as words
from mu_jax.data.batches import Batches
from mu_jax.ensembles.training import Layout
from mu_jax.exact import requests, sisa_stage, voting
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
from mu_jax.exact.sisa_stage import Checkpoint, Report
from mu_jax.freezing import settled
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.scan import in_turns
from mu_jax.model import Model
from mu_jax.store.leaves import by_path, describe
from mu_jax.store.run_state import config_digest
from mu_jax.transforms._shared.transform import Transform

PyTree = Any


class SISAVariables(NamedTuple):
    """All that a lineage of SISA is: nothing in it has seen what was forgotten.

    Attributes:
      last: the shards as they answer, a `Checkpoint` with leaves [S, ...].
      earlier: their checkpoints after each slice but the last, leaves [R - 1, S, ...], on the host.
        A program that only predicts may have `variables._replace(earlier=())`, and the model reads
        no more.
      rows: who is left in each shard and slice. digests: u8[R, S, 32], of the recipe and the
        surviving ids that each checkpoint has seen.
      key: PRNG key of the training.
    """

    last: Checkpoint
    earlier: Any
    rows: Rows
    digests: np.ndarray
    key: jax.Array


class SISAInfo(NamedTuple):
    """What a training or a removal did.

    Attributes:
      first: i32[S], the first slice from which each shard was trained again; R where nothing was.
      steps: i32[R, S], optimizer steps. examples: f32[R, S], forward and backward passes.
      loss: f32[R, S], of the last step; 0 where there was none.
      finite: bool[R, S], whether every loss was finite.
    """

    first: np.ndarray
    steps: np.ndarray
    examples: np.ndarray
    loss: np.ndarray
    finite: np.ndarray

    def messages(self) -> list[str]:
        """A sentence if a shard diverged."""
        bad = np.argwhere(~np.asarray(self.finite))
        if not bad.size:
            return []
        stage, shard = bad[0]
        return [f"Shard {shard} diverged in slice {stage}: lower the learning rate."]


@dataclasses.dataclass(frozen=True, eq=True)
class SISA:
    """A protocol of training that makes a removal exact; made by `mu.exact.sisa`."""

    base: Model
    optimizer: optax.GradientTransformation
    init: Callable[[jax.Array], PyTree]
    shards: int
    slices: int
    epochs: tuple[int, ...]
    batch_size: int
    training_mode: bool
    gradients: Gradients | None
    combine: voting.Combine
    by_rows: bool
    placement: Placement | None
    capacity: int | None
    recipe: str
    layout: Layout
    mesh: Mesh | None
    axis: str

    @functools.cached_property
    def model(self) -> Model:
        """The model of the ensemble: its variables are `SISAVariables`, its outputs one answer."""
        return voting.voting_model(
            lambda own, common, inputs: self.base.predict(own[0], own[1], inputs),
            self.base.loss,
            self._members,
            self._split,
            self._join,
            how=self.combine,
            layout=self.layout,
            light=lambda variables: variables._replace(earlier=()),
        )

    @functools.cached_property
    def program(self) -> SISA:
        """What decides the program of a stage alone: equal ones are compiled once."""
        return dataclasses.replace(
            self, placement=None, capacity=None, recipe="", combine="outputs", by_rows=False
        )

    @functools.cached_property
    def unlearn(self) -> Transform:
        """The removal as a transform: `unlearn(key, variables, forget, retain)`.

        It draws nothing: `key` is not read, the key of the training is in the variables. `retain`
        must hold every other row of the lineage, as it was trained on.
        """
        return requests.transform_of(self)

    @property
    def words(self) -> str:
        """The protocol and its numbers as a call."""
        named = {"shards": self.shards, "slices": self.slices, "epochs": self.epochs}
        return words.call("sisa", (), named | {"batch_size": self.batch_size})

    def __repr__(self) -> str:
        return f"SISA{self.words.removeprefix('sisa')}"

    def train(self, key: jax.Array, data: Batches) -> tuple[SISAVariables, SISAInfo]:
        """Train a lineage from scratch.

        Args:
          key: places the rows, initializes and shuffles.
          data: the training examples, in memory.

        Returns:
          `(variables, info)`.

        Raises:
          TypeError, ValueError: examples that are not in memory, an id that is there twice, a
            shard with more rows than the capacity.

        Cost: `epochs` passes over the data, S of them at once.
        """
        refuse_traced(key, data)
        rows = laid_out(self, key, rows_of(data))
        nothing = self._nothing(key)
        blank = np.zeros((self.slices, self.shards, 32), np.uint8)
        last, earlier = _taken_apart(nothing)
        start = SISAVariables(last, earlier, rows, blank, key)
        return self._trained(start, rows, data)

    def like(self, key: jax.Array) -> SISAVariables:
        """The shapes and dtypes of a lineage, for `store.restore(like=)`; nothing is trained.

        Args:
          key: of the kind with which it was trained, such as `jax.random.key(0)`.

        Returns:
          The shards that answer as `jax.ShapeDtypeStruct`s, what else there is as arrays of zeros,
          since it stays on the host.

        Raises:
          ValueError: the protocol has no capacity, so that its room follows the rows.
        """
        last, earlier = _taken_apart(self._nothing(key))
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), last)
        digests = np.zeros((self.slices, self.shards, 32), np.uint8)
        return SISAVariables(shapes, earlier, no_rows(self), digests, key)

    def answer(
        self, key: jax.Array, variables: SISAVariables, forget: Any, retain: Any
    ) -> tuple[SISAVariables, requests.ExactInfo]:
        """`unlearn`, without the checks that all transforms share."""
        del key
        refuse_traced(variables, forget, retain)
        self._require_own(variables)
        rows = left_after(Rows(*map(np.asarray, variables.rows)), forget, retain)
        after, info = self._trained(variables, rows, retain)
        return requests.exact_report(
            self.model,
            variables,
            after,
            steps=int(info.steps.sum()),
            example_passes=float(info.examples.sum()),
            details=info,
        )

    def _trained(
        self, before: SISAVariables, rows: Rows, data: Batches
    ) -> tuple[SISAVariables, SISAInfo]:
        """Bring every checkpoint that has seen other rows than these up to date."""
        digests = self._digests(before.key, rows, self._recipe(before))
        stale = (digests != np.asarray(before.digests)).any(axis=-1)
        stale = np.logical_or.accumulate(stale, axis=0)
        first = np.where(stale.any(axis=0), stale.argmax(axis=0), self.slices).astype(np.int32)
        checkpoints = _put_together(before, self.slices)
        examples = gathered(data, rows, self.mesh, self.axis)
        ends, keys = np.cumsum(rows.counts, axis=1), self._keys(before.key)

        begin = int(first.min())

        def turn(carry, number):
            (done, reports), stage = carry, begin + number
            given = on_mesh((keys, stale[stage], ends[:, stage]), self.mesh, self.axis)
            old = on_mesh((done[max(stage - 1, 0)], done[stage]), self.mesh, self.axis)
            numbers = np.int32(stage), np.int32(self.epochs[stage])
            found, said = sisa_stage.run(self.program, stage == 0, *old, examples, *given, numbers)
            found = found if stage == self.slices - 1 else at_once.to_host(found)
            done = (*done[:stage], found, *done[stage + 1 :])
            return done, _with_row(reports, stage, said)

        carry = checkpoints, Report.nothing(self.slices, self.shards)
        carry = in_turns(turn, carry, self.slices - begin)
        last, earlier = _taken_apart(carry[0])
        after = SISAVariables(last, earlier, rows, digests, before.key)
        return after, SISAInfo(first, *carry[1])

    def _keys(self, key: jax.Array) -> jax.Array:
        """One key for each shard."""
        own = jax.random.fold_in(key, 1)
        return jax.vmap(lambda shard: jax.random.fold_in(own, shard))(np.arange(self.shards))

    def _nothing(self, key: jax.Array) -> tuple[Checkpoint, ...]:
        """Checkpoints of zeros in the shapes of trained ones."""
        shapes = jax.eval_shape(lambda k: sisa_stage.shape_of(self, k), self._keys(key))
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        return (zeros,) * self.slices

    def _recipe(self, variables: SISAVariables) -> str:
        """Digest of what decides a checkpoint, but for the rows."""
        layout = {
            "protocol": "sisa",
            "shards": self.shards,
            "slices": self.slices,
            "epochs": list(self.epochs),
            "batch_size": self.batch_size,
            "training_mode": self.training_mode,
            "layout": self.layout,
            "recipe": json.loads(self.recipe),
            "key": key_words(variables.key),
            "leaves": describe(by_path(self._nothing(variables.key)[0])),
        }
        return config_digest(layout)

    def _digests(self, key: jax.Array, rows: Rows, recipe: str) -> np.ndarray:
        stages, shards = range(self.slices), range(self.shards)
        found = [
            [digest(recipe, k, s, rows.shard(s, range(k + 1))) for s in shards] for k in stages
        ]
        return np.asarray(found, np.uint8)

    def _require_own(self, variables: Any) -> None:
        """Refuse what is no lineage of this protocol."""
        if not isinstance(variables, SISAVariables) or variables.earlier == ():
            raise TypeError(
                f"expected SISAVariables with all checkpoints, found {type(variables).__name__}"
                f"{' without' if isinstance(variables, SISAVariables) else ''}: give what train or "
                "unlearn returned"
            )
        wanted = self.slices, self.shards, 32
        found = np.shape(variables.digests)
        rows = Rows(*map(np.asarray, variables.rows))
        if found == wanted and rows.counts.shape == (self.shards, self.slices):
            stored = np.asarray(variables.digests)
            if (self._digests(variables.key, rows, self._recipe(variables)) == stored).all():
                return
        raise ValueError(
            "expected checkpoints of this recipe, model and rows, found digests of others: use the "
            "protocol with which the lineage was trained, or train a new one"
        )

    def _split(self, variables: Any) -> tuple[PyTree, PyTree]:
        if not isinstance(variables, SISAVariables):
            raise TypeError(
                f"expected SISAVariables, found {type(variables).__name__}: give what train or "
                "unlearn returned"
            )
        return self._own(variables).params(variables.last.variables), variables

    def _join(self, params: PyTree, variables: SISAVariables) -> SISAVariables:
        last = variables.last
        whole = self._own(variables).with_params(last.variables, params)
        return variables._replace(last=last._replace(variables=whole))

    def _own(self, variables: SISAVariables) -> Model:
        return settled(self.base, variables.last.variables)

    def _members(self, params: PyTree, variables: SISAVariables) -> tuple:
        state = self._own(variables).split(variables.last.variables)[1]
        held = jax.numpy.asarray(variables.rows.counts).sum(axis=1)
        return (params, state), (), held if self.by_rows else held > 0


def _put_together(variables: SISAVariables, slices: int) -> tuple[Checkpoint, ...]:
    """The checkpoints by stage."""
    parts = [jax.tree.map(lambda x, k=k: x[k], variables.earlier) for k in range(slices - 1)]
    return (*parts, variables.last)


def _taken_apart(checkpoints: tuple[Checkpoint, ...]) -> tuple[Checkpoint, Any]:
    """The last checkpoint, and the earlier ones stacked on the host."""
    *earlier, last = checkpoints
    if not earlier:
        return last, jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), last)
    return last, jax.tree.map(lambda *x: np.stack(list(map(np.asarray, x))), *earlier)


def _with_row(reports: Report, stage: int, said: Report) -> Report:
    """The reports of all stages with that of one."""
    found = []
    for all_rows, row in zip(reports, said):
        rows = np.array(all_rows)
        rows[stage] = np.asarray(row)
        found.append(rows)
    return Report(*found)
