"""Other labels: the supervised loss with labels that a rule draws, and rules that look them up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from mu_jax.data.batches import Batch, describe
from mu_jax.data.forget_retain import Data, Marked
from mu_jax.loops.gradients import Term, Terms
from mu_jax.loops.labels import counted
from mu_jax.losses import total_weight, weighted_sum, wide
from mu_jax.model import Model
from mu_jax.objectives.modes import InEitherMode

PyTree = Any
Draw = Callable[[jax.Array, jax.Array, int], jax.Array]


class Choice(Protocol):
    """A rule that looks at the model: it chooses the labels once, before anything is trained."""

    def choose(self, model: Model, variables: PyTree, forget: Data, retain: Data) -> jax.Array:
        """The new labels of all examples to forget, int[n], in their order.

        Args:
          model, variables: the original model.
          forget, retain: the two sets, with their own labels.
        """


LabelRule = Draw | Choice


@dataclasses.dataclass(frozen=True)
class relabeled(InEitherMode):
    """The supervised loss with a label drawn for every example.

    `sum_i w_i l(f_i, y'_i) / sum_i w_i` with `y'_i` drawn by the rule. The draw follows the id of
    the example, so that neither the batch, nor padding, nor the number of devices changes it.

    Args:
      model: a classifier with outputs f32[B, ..., C] and integer labels [B, ...].
      rule: `(key, label, classes) -> label` for one example, such as `uniform_label`.
      training_mode: batch statistics of the batch, moved running statistics, dropout. Default:
        inference mode.

    Returns:
      An `Objective` with the one term `loss`. Every label is drawn anew at each visit, or once for
      all visits where `frozen["label_key"]` is a PRNG key. Where `batch.targets` are
      `data.forget_retain.Marked`, rows to retain keep their labels.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(2), jnp.arange(2), batch_size=2)
      >>> start, key = mu.Variables(9 * jnp.eye(2)), jax.random.key(0)
      >>> terms, _ = relabeled(model, uniform_other_label)(start, data.at(0), {}, key)
      >>> (terms["loss"].sum / terms["loss"].weight).round()  # both labels are wrong
      Array(9., dtype=float32)
    """

    model: Model
    rule: Draw
    _: dataclasses.KW_ONLY
    training_mode: bool = False

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        """The term, and the variables."""
        forget = None
        if isinstance(batch.targets, Marked):
            forget, batch = batch.targets.forget, batch._replace(targets=batch.targets.targets)
        check_integers(batch.targets)
        batch = counted(self.model, batch)
        outputs, variables = self.model.forward(
            variables, batch.inputs, training=self.training_mode, key=key
        )
        classes = classes_among(outputs, batch.targets)
        own_key = frozen.get("label_key", jax.random.fold_in(key, 1))

        def draw(index, label):
            return self.rule(jax.random.fold_in(own_key, index), label, classes)

        labels = jax.vmap(draw)(batch.index, wide(batch.targets))
        if forget is not None:
            rows = forget.reshape(-1, *(1,) * (labels.ndim - 1))
            labels = jnp.where(rows, labels, batch.targets)
        losses = self.model.per_example(outputs, batch._replace(targets=labels))
        term = Term(weighted_sum(losses, batch.weight), total_weight(batch.weight))
        return {"loss": term}, variables


def uniform_label(key: jax.Array, label: jax.Array, classes: int) -> jax.Array:
    """A label drawn from all classes alike, the true one included."""
    return jax.random.randint(key, label.shape, 0, classes, label.dtype)


def uniform_other_label(key: jax.Array, label: jax.Array, classes: int) -> jax.Array:
    """A label drawn from all other classes alike: `k = floor(u (C - 1))`, `k + 1` where `k >= y`.

    Example:
      >>> {int(uniform_other_label(jax.random.key(i), jnp.array(1), 3)) for i in range(9)}
      {0, 2}
    """
    drawn = jax.random.randint(key, label.shape, 0, classes - 1, label.dtype)
    return past(drawn, label)


def past(drawn: jax.Array, label: jax.Array) -> jax.Array:
    """The class of a number among the C - 1 other classes: from the label on, the next one."""
    return drawn + (drawn >= label)


@dataclasses.dataclass(frozen=True)
class fixed_label:
    """One and the same label for every example, such as a class that takes in what is forgotten.

    Args:
      label: the class.

    Raises:
      ValueError: when the classes are known, a label that is none of them.
    """

    label: int

    def __call__(self, key: jax.Array, label: jax.Array, classes: int) -> jax.Array:
        """The fixed label, in the shape of the given one."""
        if not 0 <= self.label < classes:
            raise ValueError(
                f"expected a fixed label from 0 to {classes - 1}, a class of the model, found "
                f"{self.label}: name one of its classes"
            )
        return jnp.full_like(label, self.label)


def kept_label(key: jax.Array, label: jax.Array, classes: int) -> jax.Array:
    """The label that is there: of examples whose labels were chosen before."""
    return label


def check_integers(targets: PyTree) -> None:
    """Refuse targets that are no classes.

    Raises:
      ValueError: targets of floating point, or in a tree.
    """
    if not jnp.issubdtype(getattr(targets, "dtype", float), jnp.integer):
        raise ValueError(
            "expected integer labels to draw others, found "
            f"{jax.tree.map(jnp.shape, targets)} of another type: give a classifier and its labels"
        )


def classes_among(outputs: PyTree, labels: Any) -> int:
    """The number of classes of outputs that belong to labels, at least two.

    Args:
      outputs: logits f32[B, ..., C], or their shape. labels: int[B, ...], or their shape.

    Raises:
      ValueError: outputs that are no logits, such as those of a regression.
    """
    shape = getattr(outputs, "shape", None)
    if shape is None or shape[:-1] != labels.shape or shape[-1] < 2:
        raise ValueError(
            f"expected logits of at least two classes for labels {describe(labels)}, found "
            f"outputs {describe(outputs)}: give a classifier of two classes or more"
        )
    return shape[-1]
