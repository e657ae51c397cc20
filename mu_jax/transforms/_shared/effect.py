"""What a transform did to the losses of the examples to forget and to keep, and what that means."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import _at_once as at_once
from mu_jax import _target as target
from mu_jax import edits
from mu_jax._tracing import cached
from mu_jax._words import short
from mu_jax.data.batches import Batch, Batches, concatenate
from mu_jax.data.tokens import parts_of
from mu_jax.loops.labels import weights
from mu_jax.loops.predict import map_rows
from mu_jax.mesh.shards import reduction
from mu_jax.model import Model

if TYPE_CHECKING:
    from mu_jax.evaluation.forgot import NothingForgotten

PyTree = Any


class Change(NamedTuple):
    """Examples of one set before and after; under `vmap` with a leading axis of models.

    Attributes:
      losses_before, losses_after: f32[n], in inference mode.
      right_before, right_after: bool[n], whether the class was named; None without classes.
      weight: f32[n]; rows of weight 0 are in no mean.
    """

    losses_before: jax.Array
    losses_after: jax.Array
    right_before: jax.Array | None
    right_after: jax.Array | None
    weight: jax.Array

    @property
    def loss(self) -> tuple[Any, Any]:
        """Mean loss before and after, over the last axis."""
        return self._mean(self.losses_before), self._mean(self.losses_after)

    @property
    def accuracy(self) -> tuple[Any, Any] | None:
        """Accuracy before and after, over the last axis; None without classes."""
        if self.right_before is None:
            return None
        return self._mean(self.right_before), self._mean(self.right_after)

    def _mean(self, values: Any) -> Any:
        weight = np.asarray(self.weight, np.float64)
        return np.where(weight > 0, weight * np.asarray(values), 0).sum(-1) / weight.sum(-1)

    @property
    def words(self) -> str:
        """The means in few words."""
        if not at_once.is_known(self):
            return "losses before and after"
        texts = [f"loss {_change_of(self.loss)}"]
        if self.accuracy is not None:
            texts.append(f"accuracy {_change_of(self.accuracy)}")
        return f"{np.shape(self.weight)[-1]} examples: {', '.join(texts)}"

    def __repr__(self) -> str:
        return f"<{self.words}>"


class Effect(NamedTuple):
    """What a transform did to the losses of both sets, see `Info` and `mu.watched`.

    Of two answers to each prompt the losses are those of the answer to forget, the loser.

    Attributes:
      forget: `Change` of the forget set.
      retain: `Change` of the retain set, or of as many of its first examples as are forgotten;
        None where it was not read.
      unretained: bool[m], whether no retained example has the class of a forget example.
      moved: bool[], whether a weight changed.
    """

    forget: Change
    retain: Change | None
    unretained: jax.Array | np.ndarray
    moved: jax.Array

    @property
    def words(self) -> str:
        """Both sets in few words."""
        retain = "" if self.retain is None else f"; retain {self.retain.words}"
        return f"<forget {self.forget.words}{retain}>"

    def __repr__(self) -> str:
        return self.words

    def messages(self) -> list[str]:
        """A sentence if nothing was forgotten, by `mu.evaluation.nothing_forgotten`.

        And one if losses are not finite. Where no weight changed `Info` says so itself.
        """
        found = [self._judge(*row) for row in self._models()]
        reasons = [reason for reason in found if reason]
        if not reasons:
            return self._not_finite()
        who = f"{len(reasons)} of {len(found)} models have" if len(found) > 1 else "The model has"
        return [
            f"{who} forgotten nothing: {reasons[0]}; take a larger step or a lower threshold.",
            *self._not_finite(),
        ]

    def nothing_forgotten(self) -> NothingForgotten:
        """The judgment of one model, by `mu.evaluation.nothing_forgotten`."""
        return self._judged(*next(iter(self._models())))

    def _models(self) -> Any:
        """The arrays of each model in turn, without rows of weight 0."""
        size, total = np.shape(self.unretained)[-1], np.size(self.moved)
        rows = [
            [None] * total if x is None else np.asarray(x).reshape(total, size)
            for x in (*self.forget, self.unretained)
        ]
        for *arrays, weight, alone, moved in zip(*rows, np.ravel(self.moved)):
            real = weight > 0
            yield moved, alone[real], *(None if x is None else x[real] for x in arrays)

    def _judge(self, moved: Any, *arrays: Any) -> str:
        return self._judged(moved, *arrays).reason if moved else ""

    def _judged(self, moved, alone, before, after, right, still) -> NothingForgotten:
        from mu_jax.evaluation.forgot import nothing_forgotten

        return nothing_forgotten(
            before,
            after,
            moved=bool(moved),
            correct_before=right,
            correct_after=still,
            unretained=alone,
        )

    def _not_finite(self) -> list[str]:
        bad = [
            int(np.sum(~np.isfinite(np.asarray(losses)) & (np.asarray(self.forget.weight) > 0)))
            for losses in (self.forget.losses_before, self.forget.losses_after)
        ]
        if bad[1] <= bad[0]:
            return []
        return [
            f"The loss of {bad[1]} forget examples is not finite, of {bad[0]} before: "
            "take a smaller step."
        ]


def effect(model: Model, before: PyTree, after: PyTree, forget: Any, retain: Any) -> Effect:
    """What going from one model to another did to the losses of both sets: was anything forgotten?

    `info.effect` of a call outside `jit`, for models that were made elsewhere.

    Args:
      model: computes the losses. before, after: its variables.
      forget: `Batches` or a `Stream`, looked at whole.
      retain: as many of its first examples are looked at where it is array-backed and on no mesh;
        its labels say which classes are forgotten whole.

    Returns:
      An `Effect`: `.forget.loss`, `.retain.accuracy`, `.messages()`, `.nothing_forgotten()`.

    Raises:
      ValueError: an iterable, whose size is not known, or targets that the loss cannot read.

    Cost: two forward passes over the forget set and over as many retained examples.

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> forget, retain = mu.split(mu.batches(jnp.eye(4), jnp.zeros(4), batch_size=4), [3])
      >>> before, after = (mu.Variables(jnp.full(4, value)) for value in (1.0, 1.0001))
      >>> mu.effect(model, before, after, forget, retain)
      <forget 1 examples: loss 1 -> 1; retain 1 examples: loss 1 -> 1>
      >>> mu.effect(model, before, after, forget, retain).nothing_forgotten().flag
      True
    """
    edit = edits.summarize(model.params(before), model.params(after))
    return _look(model, before, after, (forget, retain), np.asarray(edit.changed) > 0)


def measure(
    model: Model, before: PyTree, after: PyTree, sets: tuple[Any, Any], moved: jax.Array
) -> Effect:
    """The effect of going from `before` to `after` on the whole forget and retain set."""
    forget, retain = (_rows_of(model, before, after, part) for part in sets)
    unretained = at_once.zeros(jax.ShapeDtypeStruct(forget.change.weight.shape, bool))
    if forget.label is not None:
        unretained = _is_without(forget.label, retain.label, retain.change.weight)
    return Effect(forget.change, retain.change, unretained, moved)


def glance(
    model: Model, before: PyTree, after: PyTree, sets: tuple[Any, Any], moved: jax.Array
) -> Effect | tuple[()]:
    """The effect on the forget set and as many retained examples, where it costs little to see.

    Nothing where the size of the forget set is not known, or its targets are none that the loss
    can read, which some methods do without. Retained examples are read where they lie
    in memory and on no mesh; the labels alone where they lie in memory.
    """
    if not getattr(sets[0], "num_examples", 0):
        return ()
    try:
        return _look(model, before, after, sets, moved)
    except UnreadableTargets:
        return ()


def _look(model: Model, before: PyTree, after: PyTree, sets: tuple[Any, Any], moved: Any) -> Effect:
    forget_set, retain_set = sets
    in_memory = isinstance(retain_set, Batches) and at_once.is_known(retain_set)
    if in_memory and retain_set.mesh is None:
        few = retain_set.take(np.arange(min(forget_set.num_examples, retain_set.num_examples)))
        forget, retain = _both(model, before, after, forget_set, few)
    else:
        forget, retain = _rows_of(model, before, after, forget_set), None
    unretained: Any = np.zeros(np.shape(forget.change.weight), bool)
    if in_memory and forget.label is not None and retain_set.weight.is_fully_addressable:
        unretained = _is_without(forget.label, retain_set.targets, retain_set.weight)
    return Effect(forget.change, retain, unretained, moved)


def _both(model: Model, before: PyTree, after: PyTree, forget: Any, few: Batches) -> Any:
    """Rows of the forget set and few retained ones, of arrays in half as many batches."""
    joins = isinstance(forget, Batches) and forget.mesh is None
    if not (joins and _rows_in(forget) == _rows_in(few)):
        found = [_rows_of(model, before, after, part) for part in (forget, few)]
        return found[0], found[1].change
    size = forget.num_examples
    joined = _rows_of(model, before, after, concatenate(forget, few))
    first, second = (
        jax.tree.map(lambda x, part=part: at_once.indexed(x, part), joined)
        for part in (slice(size), slice(size, None))
    )
    return first, second.change


def _rows_in(data: Batches) -> Any:
    """The form of a row: data that have one can be joined."""
    leaves, structure = jax.tree.flatten((data.inputs, data.targets))
    return structure, [(leaf.shape[1:], leaf.dtype) for leaf in leaves]


class _Found(NamedTuple):
    change: Change
    label: jax.Array | None


def _rows_of(model: Model, before: PyTree, after: PyTree, data: Any) -> _Found:
    """One set before and after: two runs of one program."""
    rows = _rows(model, at_once.is_known((before, after)))
    first, second = (map_rows(rows, data, variables) for variables in (before, after))
    change = Change(
        losses_before=first["loss"],
        losses_after=second["loss"],
        right_before=first.get("right"),
        right_after=second.get("right"),
        weight=first["weight"],
    )
    return _Found(change, first.get("label"))


@reduction
def _is_without(xp: Any, label: Any, kept: Any, weight: Any) -> Any:
    """Whether no retained example that counts has the class."""
    return ~xp.isin(label, xp.where(weight > 0, kept, -1))


class UnreadableTargets(ValueError):
    """The loss of the model raised an error for outputs and targets of the forget set."""


@cached(maxsize=64)
def _rows(model: Model, alone: bool) -> Callable:
    """alone: whether this is one model, and no program goes around it."""

    def rows(batch: Batch, variables: PyTree) -> dict[str, jax.Array]:
        inputs, targets = parts_of(batch.inputs)[-1], parts_of(batch.targets)[-1]
        batch = batch._replace(inputs=inputs, targets=targets)
        with target.forward_only(alone):
            outputs = model.for_loss(*model.split(variables), batch.inputs)
        try:
            weight = weights(model, batch.targets, batch.weight)
            found = {"loss": model.per_example(outputs, batch), "weight": weight}
        except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
            raise UnreadableTargets(*error.args) from error
        if _are_classes(outputs, batch.targets):
            found |= {"right": outputs.argmax(-1) == batch.targets, "label": batch.targets}
        return found

    return rows


def _are_classes(outputs: Any, targets: Any) -> bool:
    if not (hasattr(outputs, "ndim") and hasattr(targets, "ndim")):
        return False
    whole = jnp.issubdtype(targets.dtype, jnp.integer)
    return whole and targets.ndim == 1 and outputs.ndim == 2 and outputs.shape[-1] > 1


def _change_of(pair: tuple[Any, Any]) -> str:
    return " -> ".join(short(np.float32(x) if np.ndim(x) == 0 else np.asarray(x)) for x in pair)
