"""The objective of Blindspot: labels to retain, a teacher's outputs and attention to forget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mu_jax.data.batches import Batch
from mu_jax.loops.gradients import Term, Terms
from mu_jax.loops.labels import counted
from mu_jax.losses import softmax_divergence, total_weight, weighted_sum
from mu_jax.mesh.shards import bare
from mu_jax.model import Model

PyTree = Any
Distance = Callable[[PyTree, PyTree], jax.Array]
Layers = tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class blindspot:
    """The Blindspot loss over a batch that mixes rows to retain (u = 0) and to forget (u = 1).

    `L = (1/W) sum_i w_i [(1 - u_i) e(f_i, y_i) + u_i (e(f_i, g_i) + beta sum_l d_l(i))]` with
    `W = sum_i w_i`, outputs f of the student and g of the teacher, the model's loss e, and
    `d_l(i) = mean((A(a_i) - A(b_i))^2)` between the attention maps of their activations in layer l.
    With one mean over the whole batch it needs no division by the number of rows to forget, and is
    exact for batches without any, for padding, in parts and on a mesh. It equals
    `c [mean_forget e(f, g) + beta sum_l mean_forget d_l] + (1 - c) mean_retain e(f, y)`, where c is
    the share of the rows to forget.

    Args:
      model: the model; its loss is e.
      layers: `(name, axis)` of each activation to compare and the axis its squares are averaged
        over, as `attention_layers` gives them.
      distance: `(outputs, teacher's outputs) -> f32[B]` in place of `e(f, g)`. Default: e where
        outputs and labels are of one size; the Kullback-Leibler divergence of the softmaxes where
        labels are integers that index the outputs. Any other pair of outputs and labels needs it,
        and so do losses of one-hot labels, which are no outputs.
      training_mode: batch statistics of the (mixed) batch, moved running statistics, dropout.
      teacher_in_training_mode: the same for the teacher, whose running statistics stay anyway.

    Returns:
      An `Objective` with the terms `retain`, `forget` and, with layers, `attention`. It takes
      `data.forget_retain.Marked` for `batch.targets`, of which the labels of rows to forget are not
      read; `frozen["teacher"]` are the teacher's variables, `frozen["attention_weight"]` is beta.

    Cost: a forward and backward pass of the student, a forward pass of the teacher; of the
    activations only the maps are compared.

    Differences from the reference program:
      1. The single mean; the program takes the two means of the second form, in which batches need
         rows of both kinds.
      2. Inference mode of the teacher is chosen, not inherited from what was run before.

    References:
      A. K. Tarun, V. S. Chundawat, M. Mandal, M. Kankanhalli. Deep Regression Unlearning. ICML
      2023.
    """

    model: Model
    _: dataclasses.KW_ONLY
    layers: Layers = ()
    distance: Distance | None = None
    training_mode: bool = False
    teacher_in_training_mode: bool = False

    @property
    def rows_are_independent(self) -> bool:
        """Where both models are in inference mode: see `Objective`."""
        return not (self.training_mode or self.teacher_in_training_mode)

    @property
    def bounded(self) -> bool:
        """True: distances, none of which is raised."""
        return True

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        """The terms, and the student's variables."""
        teacher, teacher_key = frozen["teacher"], jax.random.fold_in(key, 1)
        teacher_mode = self.teacher_in_training_mode
        outputs, maps, variables = self._run(variables, batch.inputs, key, self.training_mode)
        wanted, teacher_maps, _ = self._run(teacher, batch.inputs, teacher_key, teacher_mode)

        batch, forget = _counted(self.model, batch), batch.targets.forget
        total = total_weight(batch.weight)
        to_retain, to_forget = (jnp.where(rows, batch.weight, 0) for rows in (~forget, forget))
        losses = _losses(self.model, self.distance, outputs, wanted, batch)
        terms = {
            "retain": Term(weighted_sum(losses, to_retain), total),
            "forget": Term(weighted_sum(losses, to_forget), total),
        }
        if self.layers:
            pairs = zip(maps, teacher_maps, strict=True)
            apart = jnp.stack([jnp.square(a - b).mean(1) for a, b in pairs]).sum(0)
            attention = weighted_sum(apart, to_forget)
            terms["attention"] = Term(attention, total, frozen["attention_weight"])
        return terms, variables

    def _run(
        self, variables: PyTree, inputs: PyTree, key: jax.Array, training: bool
    ) -> tuple[PyTree, list[jax.Array], PyTree]:
        """Outputs, attention maps, and the variables with their statistics moved."""
        model = self.model
        if not self.layers:
            outputs, variables = model.forward(variables, inputs, training=training, key=key)
            return outputs, [], variables
        params, state = model.split(variables)
        if training:
            outputs, seen, state = model.observe_train(params, state, inputs, key)  # type: ignore[misc]
        else:
            outputs, seen = model.observe(params, state, inputs)  # type: ignore[misc]
        maps = [attention_map(seen[name], axis) for name, axis in self.layers]
        return outputs, maps, model.join(params, state)


def attention_map(activation: jax.Array, axis: int) -> jax.Array:
    """`A(a)_i = q_i / max(||q_i||, 1e-12)`, where `q_i` is the mean of `a_i^2` over an axis.

    A row whose activations are all 0 has the map 0 and no gradient, where the derivative of the
    norm would give NaN.

    Args:
      activation: f32[B, ...].
      axis: the axis to average over, such as channels or time.

    Returns:
      f32[B, D], non-negative rows of length 1 (or 0), D the number of remaining positions.

    Example:
      >>> attention_map(jnp.array([[[2.0, 0.0]], [[0.0, 0.0]]]), 1)
      Array([[1., 0.],
             [0., 0.]], dtype=float32)
    """
    activation = activation.astype(jnp.promote_types(activation.dtype, jnp.float32))
    q = jnp.square(activation).mean(axis).reshape(activation.shape[0], -1)
    return q * jax.lax.rsqrt(jnp.maximum(jnp.square(q).sum(1, keepdims=True), 1e-24))


def attention_layers(
    model: Model,
    variables: PyTree,
    inputs: PyTree,
    axes: Mapping[str, int] | None = None,
    *,
    training_mode: bool = False,
) -> Layers:
    """Which activations Blindspot compares, and over which axis each is averaged.

    Args:
      model, variables: the model; linen and nnx name what a module sows, raw functions what
        `observe` returns.
      inputs: inputs of some examples; only their shape matters.
      axes: axis of each activation by name; `{}` for none. Default: every activation of three axes
        or more, averaged over time in [B, T, H] (1, as in the reference program) and over channels
        in [B, H, W, C] (-1). For a transformer's [B, T, H], -1 compares maps over positions. An
        activation [B, H] has a map of one number, always 1, so it is left out.
      training_mode: whether the student runs in it.

    Returns:
      `(name, axis)` of each, in a fixed order; none for a model without named activations.

    Raises:
      ValueError: unknown names, axes that are not there, activations that are not batch first.
    """
    if axes is not None and not axes:
        return ()
    observe = model.observe
    if observe is None and axes is None:
        return ()
    if observe is None or (training_mode and model.observe_train is None):
        raise ValueError(
            "expected a model with named activations in the mode of the student, found none: give "
            "from_function `observe`, set `observe_train` of the model, or compare no activations"
        )
    arguments = bare(variables), bare(inputs)
    seen = jax.eval_shape(lambda v, x: observe(*model.split(v), x)[1], *arguments)
    if axes is None:
        axes = {name: 1 if x.ndim == 3 else -1 for name, x in seen.items() if x.ndim > 2}
    rows = jax.tree.leaves(inputs)[0].shape[0]
    for name, axis in axes.items():
        shape = seen[name].shape if name in seen else None
        if shape is None or shape[0] != rows or axis not in {*range(1, len(shape)), -1}:
            raise ValueError(
                f"expected an activation [{rows}, ...] with an axis {axis} after the first, found "
                f"{name!r} of shape {shape} among {', '.join(seen)}: name one of these, batch first"
            )
    return tuple(axes.items())


def _counted(model: Model, batch: Batch) -> Batch:
    """Without rows to retain whose label the loss ignores; labels to forget are not read."""
    labels, forget = batch.targets
    kept = counted(model, batch._replace(targets=labels))
    weight = jnp.where(forget, batch.weight, kept.weight)
    return batch._replace(targets=batch.targets._replace(targets=kept.targets), weight=weight)


def _losses(
    model: Model, distance: Distance | None, outputs: PyTree, wanted: PyTree, batch: Batch
) -> jax.Array:
    """`e(f, y)` of rows to retain and `e(f, g)` of rows to forget, f32[B]."""
    labels, forget = batch.targets

    def overwrite(y, g):
        # Before the loss, not after it: the gradient of a loss at a label of NaN is NaN times 0.
        return jnp.where(forget.reshape(-1, *(1,) * (y.ndim - 1)), g, y)

    if distance is None and getattr(outputs, "size", None) == getattr(labels, "size", ()):
        labels = overwrite(labels, wanted.reshape(labels.shape))
        return model.per_example(outputs, batch._replace(targets=labels))
    distance = _between_softmaxes(labels) if distance is None else distance
    labels = jax.tree.map(lambda y: overwrite(y, jnp.zeros_like(y)), labels)
    retained = model.per_example(_moving(outputs, ~forget), batch._replace(targets=labels))
    other = dataclasses.replace(model, loss=distance)
    apart = other.per_example(_moving(outputs, forget), batch._replace(targets=wanted))
    return jnp.where(forget, apart, retained)


def _moving(outputs: PyTree, rows: jax.Array) -> PyTree:
    """The outputs, with a gradient in some rows only.

    The others are given targets that are not theirs, such as a mask of zeros to divide by, and a
    gradient of NaN times 0 would be NaN.
    """

    def leaf(x):
        return jnp.where(rows.reshape(-1, *(1,) * (x.ndim - 1)), x, jax.lax.stop_gradient(x))

    return jax.tree.map(leaf, outputs)


def _between_softmaxes(labels: PyTree) -> Distance:
    """The distance where the labels are classes."""
    if not all(jnp.issubdtype(y.dtype, jnp.integer) for y in jax.tree.leaves(labels)):
        raise ValueError(
            "expected labels of the size of the outputs, or integers, found float labels of "
            "another size: give the distance between two outputs"
        )
    return softmax_divergence
