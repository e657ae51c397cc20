"""Transforms in which only some entries may move: the one place where entries are held."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from mu_jax.freezing import settled
from mu_jax.loops.update_masks import Masks, holding, restored
from mu_jax.model import Model
from mu_jax.transforms._shared.transform import Transform, Unlearn, passes, report

PyTree = Any
Choose = Callable[[Model, PyTree, Any], tuple[Masks, jax.Array | float]]


def held(transform: Transform, choose: Choose, text: str | None = None) -> Transform:
    """The transform, in which the entries that are not chosen keep every bit.

    Every fit of the model inside has the masks beside its own `update_mask`, so that the others
    learn with the held ones where they are; and at the end the held ones are those of before. A
    method of one step is restored alone, of which the masks of a fit are the limit.

    Args:
      transform: any single transform.
      choose: `(model, variables, forget) -> (masks, passes)`: which entries may move, and how many
        passes over examples were needed to know.
      text: the call that makes the transform, for its name; default that of the transform.
    """

    def method(model: Model) -> Unlearn:
        inner = transform.method(model)

        def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
            masks, read = choose(model, variables, forget)
            with holding(model, masks):
                after, info = inner(key, variables, forget, retain)
            params, state = model.split(after)
            params = restored(model.params(variables), params, masks)
            return report(
                model,
                variables,
                model.join(params, state),
                (forget, retain),
                steps=info.steps,
                example_passes=passes(info.example_passes, read),
                details=info.details,
            )

        return unlearn

    method.words = text or transform.words  # type: ignore[attr-defined]
    method.aim = transform.aim  # type: ignore[attr-defined]
    method.kept = getattr(transform.method, "kept", None)  # type: ignore[attr-defined]
    return dataclasses.replace(transform, method=method)


def zeros_kept(transform: Transform, variables: PyTree) -> Masks:
    """The masks that a transform that prunes leaves to those after it; none of another."""
    kept: Callable[[PyTree], Masks] | None = getattr(transform.method, "kept", None)
    model = settled(transform.model, variables)
    return {} if kept is None else kept(model.params(variables))
