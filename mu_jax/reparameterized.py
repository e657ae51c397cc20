"""Models whose parameters are computed from others, which are trained in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mu_jax.model import Model

PyTree = Any
Computed = Callable[..., PyTree]


def check_kind(variables: Any, kind: type, made_by: str) -> None:
    """Refuse variables of another model than the one whose variables a call makes.

    Raises:
      TypeError: variables that are no `kind`.
    """
    if not isinstance(variables, kind):
        raise TypeError(
            f"expected {kind.__name__} variables, found {type(variables).__name__}: make them by "
            f"{made_by}"
        )


def reparameterized(
    model: Model, kind: Callable[..., Any], check: Callable[[Any], None], computed: Computed
) -> Model:
    """The model of which other arrays are trained than its parameters.

    Args:
      model: any model.
      kind: the variables of the new model, a NamedTuple of three: what is trained, numbers that
        belong to it, and the variables of the model, which never move (but for statistics of
        normalizations in training mode).
      check: refuses variables of another kind.
      computed: `(function, trained, state, inputs, *key) -> found`: what a function of the model,
        `(params, state, inputs, *key)`, gives; here the state is `(numbers, variables)`.
    """

    def split(variables):
        check(variables)
        trained, *state = variables
        return trained, tuple(state)

    def join(trained, state):
        return kind(trained, *state)

    def inference(function):
        def lifted(trained, state, inputs):
            return computed(function, trained, state, inputs)

        return function and lifted

    def in_training(function):
        def lifted(trained, state, inputs, key):
            *found, moved = computed(function, trained, state, inputs, key)
            numbers, base = state
            return *found, (numbers, model.join(model.params(base), moved))

        return function and lifted

    return Model(
        inference(model.predict),
        in_training(model.predict_train),
        model.loss,
        split,
        join,
        inference(model.observe),
        in_training(model.observe_train),
    )
