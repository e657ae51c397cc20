"""Boundary expand: the forgotten rows go into a class that is made for them and then taken off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax._tracing import cached
from mu_jax.loops import update_masks
from mu_jax.loops.fit import fit
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.labels import check_labels
from mu_jax.model import Model
from mu_jax.objectives.boundary import aside
from mu_jax.statistics.layers import Head, find_head, with_inputs
from mu_jax.transforms._shared.transform import Unlearn, method, passes, report

PyTree = Any
Array = jax.Array
NewRow = Callable[[Array, int], tuple[Array, Array]]


class Row(NamedTuple):
    """The row of the head for one more class. weight: f[inputs]. bias: f[], or () without one."""

    weight: Array
    bias: Any


class Widened(NamedTuple):
    """The variables of a classifier and of one class more."""

    variables: PyTree
    row: Row


def uniform_row(key: Array, inputs: int) -> tuple[Array, Array]:
    """Weights f[inputs] and a bias f[], uniform from -1/sqrt(inputs) to 1/sqrt(inputs)."""
    drawn = jax.random.uniform(key, (inputs + 1,), minval=-1, maxval=1) / np.sqrt(inputs)
    return drawn[:-1], drawn[-1]


@method
def boundary_expand(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    epochs: int = 10,
    head: str | Sequence[str] | None = None,
    new_row: NewRow = uniform_row,
    batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
) -> Unlearn:
    """Boundary unlearning by expanding: what is forgotten goes into a class of its own.

    1. The head `z = h W + b` of C classes gets one column more, `z_C = h w + c`, drawn at random.
    2. `min mean_i l([z(x_i), z_C(x_i)], C)` over the forget set: every weight is trained, and all
       rows to forget have the new class as their label. The retain set is not read.
    3. w and c are taken off. The result has the tree of the start.

    The model is left as it is: h is read where it enters the head, whatever the framework.

    Args:
      model: a classifier with outputs f32[B, C], whose last layer is dense, and integer labels.
      optimizer: from a fresh state; SGD at 1e-5 with momentum 0.9 as published, at which little
        moves: search the rate upwards. Weight decay reaches the new column as well.
      epochs: passes over the forget set, 10 as published.
      head: name of the layer that makes the logits, such as "head" of `net/head/kernel`, or names
        of its kernel and its bias; of the kernel alone, the new class has no bias. Default: the
        layer that is used last, and what is added to its outputs.
      new_row: `(key, inputs) -> (w f[inputs], c f[])`; default uniform as in PyTorch.
      batch_size: examples per step, 64 as published; default that of the set.
      training_mode: move batch statistics and use dropout; default inference mode.
      gradients: how to take the gradient, see `mu.fit`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key draws the column and
      shuffles; `info.details` is a `mu.FitInfo`.

    Raises:
      ValueError: no classification, or labels that are no class of the model; a model that does not
        end with a dense layer, or whose outputs are not its outputs plus a bias; a name of no
        kernel.

    Cost: `epochs` passes over the forget set; memory of one optimizer state.

    It fails where training to the new class leaves the order of the old ones as it was: once the
    column is off, the second best class of a row to forget may still be its own.

    Differences from the reference programs (`TY-LEE-KR/Boundary-Unlearning-Code`, and the
    `boundary_ex` of `OPTML-Group/Unlearn-Saliency`):
      1. Any classifier; the first program is tied to one network.
      2. The column is taken off at the end, as the paper says; the second program keeps it, and a
         forgotten row counts as forgotten because a class wins that nobody asks for.
      3. Inference mode by default.

    References:
      M. Chen, W. Gao, G. Liu, K. Peng, C. Wang. Boundary Unlearning: Rapid Forgetting of Deep
      Networks via Shifting the Decision Boundary. CVPR 2023.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(3), jnp.arange(3), batch_size=3)
      >>> unlearn = mu.boundary_expand(model, optax.sgd(1.0), epochs=30)
      >>> unlearn = mu.watched(unlearn, False)  # class 0 stays first here, and a call would say so
      >>> start = mu.Variables(4 * jnp.eye(3))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, *mu.split(data, [0]))
      >>> unlearned.params.shape, bool(model.losses(unlearned, data.at(0))[0] > 0.1)
      ((3, 3), True)
    """

    def unlearn(key: Array, variables: PyTree, forget: Any, retain: Any):
        check_labels(model, variables, forget=forget)
        found = find_head(model, variables, forget, head)
        kernel = jax.tree.leaves(variables)[found.layer.leaf]
        row = _row(new_row, jax.random.fold_in(key, 0), found, kernel.dtype)
        state, info = fit(
            _widened(model, found),
            aside(_widened(model, found), found.layer.shape[2], training_mode),
            optimizer,
            Widened(variables, row),
            forget,
            key=jax.random.fold_in(key, 1),
            epochs=epochs,
            batch_size=batch_size,
            gradients=gradients,
            update_mask=_held(model, variables, row),
        )
        return report(
            model,
            variables,
            state.variables.variables,
            (forget, retain),
            steps=state.step,
            example_passes=passes(info.examples),
            details=info,
        )

    return unlearn


def _held(model: Model, variables: PyTree, row: Row) -> PyTree | None:
    """The masks in force around the method, for the wider model; the new row is free."""
    masks = update_masks.in_force(model, model.params(variables))
    return None if masks is None else (masks, jax.tree.map(lambda leaf: True, row))


def _row(new_row: NewRow, key: Array, head: Head, dtype: Any) -> Row:
    inputs = head.layer.shape[1]
    weight, bias = (jnp.asarray(x, dtype) for x in new_row(key, inputs))
    if weight.shape != (inputs,) or bias.shape != ():
        raise ValueError(
            f"expected a new row of {inputs} weights and one bias, found shapes {weight.shape} and "
            f"{bias.shape}: let new_row(key, inputs) return such arrays"
        )
    return Row(weight, bias if head.biased else ())


@cached(maxsize=64)
def _widened(model: Model, head: Head) -> Model:
    """The classifier with one logit more, whose variables are `Widened`."""

    def wider(logits: Array, entering: Array, row: Row) -> Array:
        features = entering.reshape(len(logits), -1)
        extra = features.astype(row.weight.dtype) @ row.weight
        extra = extra + row.bias if head.biased else extra
        return jnp.concatenate([logits, extra[:, None].astype(logits.dtype)], axis=1)

    def split(variables: Widened) -> tuple[PyTree, PyTree]:
        params, state = model.split(variables.variables)
        return (params, variables.row), state

    def join(params: PyTree, state: PyTree) -> Widened:
        return Widened(model.join(params[0], state), params[1])

    def predict(params: PyTree, state: PyTree, inputs: PyTree) -> Array:
        variables, row = join(params, state)
        logits, (entering,) = with_inputs(model.apply, [head.layer], variables, inputs)
        return wider(logits, entering, row)

    def predict_train(params: PyTree, state: PyTree, inputs: PyTree, key: Any):
        variables, row = join(params, state)
        found = with_inputs(model.apply_train, [head.layer], variables, inputs, key)
        (logits, moved), (entering,) = found
        return wider(logits, entering, row), model.split(moved)[1]

    return Model(predict, predict_train, model.loss, split, join)
