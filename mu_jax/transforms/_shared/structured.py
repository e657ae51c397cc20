"""Models of several heads and targets of several parts, where a method cannot use them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mu_jax.data.batches import Batches, describe
from mu_jax.data.forget_retain import Data
from mu_jax.data.rows import shapes_of_rows
from mu_jax.mesh.shards import bare
from mu_jax.model import Model

PyTree = Any


def check_one_output(model: Model, variables: PyTree, examples: Batches, what: str) -> None:
    """Refuse a model whose outputs are several arrays.

    Raises:
      TypeError: a tuple or dictionary of outputs.
    """
    found = _outputs(model, variables, examples.inputs)
    if not hasattr(found, "shape"):
        raise TypeError(
            f"expected outputs that are one array for {what}, found {describe(found)} in a "
            f"{type(found).__name__}: give a model of one head, such as one whose `predict` "
            "returns this head alone"
        )


def check_no_tokens(model: Model, variables: PyTree, examples: Data, targets: PyTree) -> None:
    """Refuse integer labels of several positions, each one of many classes: token ids.

    Raises:
      TypeError: targets int[B, ..., T] of outputs [B, ..., T, K].
    """
    integers = hasattr(targets, "ndim") and jnp.issubdtype(targets.dtype, jnp.integer)
    if not integers or targets.ndim < 2:
        return
    found = outputs_of_one(model, variables, examples)
    if hasattr(found, "ndim") and found.ndim > targets.ndim:
        raise TypeError(
            f"expected labels that are quantities, of which a mean makes sense, found "
            f"{targets.dtype}[B,{','.join(map(str, targets.shape[1:]))}] with {found.shape[-1]} "
            "classes at every position, such as token ids: choose another method, or targets that "
            "are numbers"
        )


def with_masks(drawn: PyTree, targets: PyTree) -> PyTree:
    """The drawn labels, but where the targets have truth values, these: masks are no labels."""
    return jax.tree.map(
        lambda new, old: old if old.dtype == jnp.bool_ else new,
        drawn,
        targets,
    )


def outputs_of_one(model: Model, variables: PyTree, examples: Data) -> Any:
    """Shapes and types of the outputs of one example, `[1, ...]`."""
    if isinstance(examples, Batches):
        inputs = examples.inputs
    else:
        one = examples.source[int(examples.rows[0])][0]
        inputs = jax.tree.map(lambda x: jnp.asarray(x)[None], one)
    return _outputs(model, variables, inputs)


def _outputs(model: Model, variables: PyTree, inputs: PyTree) -> Any:
    row = shapes_of_rows(inputs, 1)
    return jax.eval_shape(model.apply, bare(variables), row)
