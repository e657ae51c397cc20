"""What a model gives for the inputs of a task, before anything is computed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

import mu_jax as mu
from experiments.lib.own_flags import LARGEST
from mu_jax.data.rows import shapes_of_rows

PyTree = Any


def shapes_of_outputs(
    model: mu.Model,
    init: Callable[[jax.Array, PyTree], PyTree],
    inputs: PyTree,
    *,
    name: str,
    place: str,
) -> PyTree:
    """Shapes of the outputs for the first example; nothing is computed.

    Args:
      model: how to compute. init: `(key, inputs of one example) -> variables`.
      inputs: arrays with a leading axis of examples.
      name: what the model is called. place: what is to be corrected where it fails.

    Raises:
      ValueError: the model cannot be initialized, is larger than a program takes, or does not
        compute on such inputs.
    """
    one = shapes_of_rows(inputs, 1)
    try:
        variables = jax.eval_shape(init, jax.random.key(0), one)
        largest = max((math.prod(leaf.shape) for leaf in jax.tree.leaves(variables)), default=0)
        if largest > LARGEST:
            raise ValueError(f"an array of {largest:.3g} numbers is more than a program takes")
        return jax.eval_shape(model.apply, variables, one)
    except Exception as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(
            f"expected a model that computes on the train inputs, found that {name} fails on them "
            f"({what}); correct {place}"
        ) from error
