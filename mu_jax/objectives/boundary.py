"""Objectives of boundary unlearning: labels from across the nearest boundary, or a class aside."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax.data.batches import Batch, describe
from mu_jax.loops.gradients import Term, Terms
from mu_jax.loops.labels import count_classes, counted
from mu_jax.loops.restriction import safe_sqrt
from mu_jax.losses import total_weight, weighted_sum, wide
from mu_jax.model import Model
from mu_jax.objectives.modes import InEitherMode

PyTree = Any

_PROBE = 0.9  # length of the step between two gradients whose difference is the curvature
_LEAST = 1e-7
_SLOPE, _SHIFT, _LARGEST = 5.0, 0.5, 3.0


@dataclasses.dataclass(frozen=True)
class Attack:
    """Steps of the fast gradient sign method, in the units of the inputs.

    `x <- clip(x + (epsilon / steps) sign(grad_x l), low, high)`, so often; at the end x is rounded
    to `levels` equal parts of [low, high], half to even. `sign(0) = 0`.

    Attributes:
      steps: number of steps.
      clips: whether there are bounds; without them nothing is clipped or rounded.
      levels: number of parts, 255 for pixels of 8 bits; None does not round.
    """

    steps: int = 1
    clips: bool = True
    levels: int | None = 255

    def __call__(
        self, model: Model, variables: PyTree, batch: Batch, numbers: dict[str, Any]
    ) -> PyTree:
        """The attacked inputs of a batch.

        Args:
          model, variables: what is attacked, in inference mode.
          batch: with the true labels.
          numbers: `epsilon` and, with bounds, `low` and `high`; arrays that fit the inputs.
        """
        check_moved(batch.inputs)
        for _ in range(self.steps):
            gradient = input_gradient(model, variables, batch)
            moved = jax.tree.map(lambda x, g: self._step(x, g, numbers), batch.inputs, gradient)
            batch = batch._replace(inputs=moved)
        return jax.tree.map(lambda x: self._rounded(x, numbers), batch.inputs)

    def _step(self, x: jax.Array, gradient: jax.Array, numbers: dict[str, Any]) -> jax.Array:
        step = jnp.asarray(numbers["epsilon"], x.dtype) / self.steps
        x = x + step * jnp.sign(gradient)
        if not self.clips:
            return x
        return jnp.clip(x, *(jnp.asarray(numbers[name], x.dtype) for name in ("low", "high")))

    def _rounded(self, x: jax.Array, numbers: dict[str, Any]) -> jax.Array:
        if not self.clips or self.levels is None:
            return x
        low, high = (jnp.asarray(numbers[name], x.dtype) for name in ("low", "high"))
        span = high - low
        return low + jnp.round((x - low) / span * self.levels) / self.levels * span


class Nearest(NamedTuple):
    """What lies across the boundary.

    Attributes:
      labels: the class of the attacked inputs, i32[B].
      margin: probability of the second class less that of the first, f[B], at most 0.
    """

    labels: jax.Array
    margin: jax.Array


def nearest(
    model: Model, variables: PyTree, batch: Batch, attack: Attack, numbers: dict[str, Any]
) -> Nearest:
    """The class into which an attack moves each row, which may be its own.

    Args:
      model, variables: the original classifier. batch: with the true labels.
      attack, numbers: see `Attack`.

    Cost: `attack.steps` forward and backward passes, and one forward pass.
    """
    inputs = attack(model, variables, batch, numbers)
    logits = model.apply(variables, inputs)
    count_classes(logits, batch.targets)
    two = jax.lax.top_k(jax.nn.softmax(logits), 2)[0]
    return Nearest(logits.argmax(-1).astype(jnp.int32), two[:, 1] - two[:, 0])


@dataclasses.dataclass(frozen=True)
class shrink(InEitherMode):
    """The loss at the nearest wrong class, `mean_i v_i l(f_i, y~_i)`, and a term of curvature.

    Args:
      model: a classifier with outputs f32[B, C] and integer labels.
      attack: how the nearest class is found.
      weighted: `v_i = 3 sigmoid(5 (m_i - 1/2))` with the margin m of `Nearest`, else 1.
      curved: whether `frozen["numbers"]["curvature"]` weighs the distance of `curvatures`.
      training_mode: batch statistics of the batch, moved running statistics, dropout.

    Returns:
      An `Objective` with the term `loss` and, if `curved`, `curvature`. It reads
      `frozen["original"]`, the variables that are attacked, and `frozen["numbers"]`.
    """

    model: Model
    attack: Attack = Attack()
    weighted: bool = False
    curved: bool = False
    training_mode: bool = False

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        """The terms, and the variables."""
        numbers, original = frozen["numbers"], frozen["original"]
        batch = counted(self.model, batch)
        found = nearest(self.model, original, batch, self.attack, numbers)
        outputs, moved = self.model.forward(
            variables, batch.inputs, training=self.training_mode, key=key
        )
        losses = self.model.per_example(outputs, batch._replace(targets=found.labels))
        if self.weighted:
            losses = _LARGEST * jax.nn.sigmoid(_SLOPE * (found.margin - _SHIFT)) * losses
        terms = {"loss": Term(weighted_sum(losses, batch.weight), total_weight(batch.weight))}
        if self.curved:
            apart = curvatures(self.model, original, batch)
            apart -= curvatures(self.model, variables, batch)
            # Of equal parameters it is rounding, whose direction would be a step of full length.
            differ = _differ(self.model.params(variables), self.model.params(original))
            apart = jnp.where(differ & (batch.weight > 0), apart, 0)
            distance = safe_sqrt(jnp.sum(jnp.square(apart)))
            terms["curvature"] = Term(distance, jnp.ones(()), numbers["curvature"])
        return terms, moved


def _differ(one: PyTree, two: PyTree) -> jax.Array:
    leaves = zip(*map(jax.tree.leaves, (one, two)))
    return jnp.array([(a != b).any() for a, b in leaves], bool).any()


@dataclasses.dataclass(frozen=True)
class aside(InEitherMode):
    """The loss at one class for all rows, `mean_i l(f_i, class)`.

    Args:
      model: a classifier with outputs f32[B, C] and integer labels.
      label: the class.
      training_mode: batch statistics of the batch, moved running statistics, dropout.
    """

    model: Model
    label: int
    training_mode: bool = False

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        """The term, and the variables."""
        batch = counted(self.model, batch)
        outputs, variables = self.model.forward(
            variables, batch.inputs, training=self.training_mode, key=key
        )
        count_classes(outputs, batch.targets)
        labels = jnp.full_like(wide(batch.targets), self.label)
        losses = self.model.per_example(outputs, batch._replace(targets=labels))
        term = Term(weighted_sum(losses, batch.weight), total_weight(batch.weight))
        return {"loss": term}, variables


def curvatures(model: Model, variables: PyTree, batch: Batch) -> jax.Array:
    """How fast the gradient turns at each row, `|g_i(x_i + z_i) - g_i(x_i)|`, f[B].

    `g = grad_x mean_i l_i` and `z_i = 0.9 (s_i + 1e-7) / (|s_i| + 1e-7)` with `s = sign(g)`.
    """
    gradient = input_gradient(model, variables, batch, mean=True)
    sign = jax.tree.map(jnp.sign, gradient)
    length = _row_norms(sign)

    def probed(x: jax.Array, s: jax.Array) -> jax.Array:
        own = length.reshape(-1, *(1,) * (x.ndim - 1)).astype(x.dtype)
        return x + _PROBE * (s + _LEAST) / (own + _LEAST)

    there = batch._replace(inputs=jax.tree.map(probed, batch.inputs, sign))
    other = input_gradient(model, variables, there, mean=True)
    return _row_norms(jax.tree.map(jnp.subtract, other, gradient))


def input_gradient(model: Model, variables: PyTree, batch: Batch, *, mean: bool = False) -> PyTree:
    """The gradient of the loss with respect to the inputs, in inference mode.

    Args:
      mean: of the weighted mean over the batch; else each row of its own loss.
    """

    def total(inputs: PyTree) -> jax.Array:
        losses = model.losses(variables, batch._replace(inputs=inputs))
        if not mean:
            return jnp.sum(jnp.where(batch.weight > 0, losses, 0))
        weight = total_weight(batch.weight)
        return weighted_sum(losses, batch.weight) / jnp.where(weight > 0, weight, 1)

    return jax.grad(total)(batch.inputs)


def _row_norms(tree: PyTree) -> jax.Array:
    squares = [jnp.square(x).reshape(len(x), -1).sum(1) for x in jax.tree.leaves(tree)]
    return safe_sqrt(sum(squares[1:], squares[0]))


def check_moved(inputs: PyTree) -> None:
    """Refuse inputs that no gradient can move, such as tokens."""
    if not all(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(inputs)):
        raise TypeError(
            f"expected floating-point inputs, which an attack can move, found {describe(inputs)}: "
            "give images as floats, and choose another method for tokens"
        )
