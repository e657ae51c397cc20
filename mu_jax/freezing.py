"""Models of which only some leaves are trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax._callables import hashable
from mu_jax._tracing import cached
from mu_jax.model import Model, path_name

PyTree = Any


class _Named(NamedTuple):
    """A choice by names: of the trained leaves, and of all leaves that it is about."""

    trained: frozenset[str]
    known: frozenset[str]


Choice = Callable[[str], bool] | _Named


class _Restriction(NamedTuple):
    """How a model was restricted: the whole one, the choice, and what came out."""

    whole: Model
    choice: Choice
    restricted: Model


def restrict(model: Model, trainable: Callable[[str], bool] | PyTree) -> Model:
    """The same model with fewer trainable leaves; the others count as state and never move.

    Args:
      model: a model.
      trainable: `name -> bool` over names such as `Dense_0/kernel`, or a tree of bools shaped like
        the parameters.

    Returns:
      A `Model` whose `params` has None in place of every frozen leaf: statistics, optimizers and
      edits do not see those, and no gradient is taken for them.

    Raises:
      TypeError: masks of array elements, which no model can express; for those end the optimizer
        with `mu.edits.where(mask)`.
      ValueError: a tree of bools of other parameters, or one that chooses none, when the model is
        given its variables.
    """
    if callable(trainable):
        return _restrict(model, hashable(trainable))
    leaves = jax.tree_util.tree_leaves_with_path(trainable)
    if any(jnp.ndim(leaf) for _, leaf in leaves):
        raise TypeError(
            "expected one bool per leaf, found masks of array elements: end the optimizer with "
            "mu.edits.where(mask), or pass the transform through it"
        )
    named = [(path_name(path), leaf) for path, leaf in leaves]
    trained = frozenset(name for name, leaf in named if leaf)
    return _restrict(model, _Named(trained, frozenset(name for name, _ in named)))


def settled(model: Model, variables: PyTree) -> Model:
    """The model with its trainable leaves chosen by name, where a function has chosen them.

    Two functions are never equal, even if they are written alike, and so are models restricted by
    them. Once the variables are known the names are, which compare by value: models of which the
    same leaves are trained are then the same model, and compile once.

    Args:
      model: any model; one that is not restricted comes back as it is.
      variables: its variables, of which the structure matters alone.
    """
    restriction: _Restriction | None = getattr(model.split, "restriction", None)
    if restriction is None:
        return model
    whole, choice, made = restriction
    if dataclasses.replace(model, loss=made.loss) != made:  # changed since
        return model
    whole = settled(whole, variables)
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(whole.params(variables)))
    known = frozenset(map(path_name, paths))
    names = frozenset(filter(_chooser(choice), known))
    if callable(choice) and names:  # `split` refuses a choice of nothing
        choice = _Named(names, known)
    same = _restrict(whole, choice)
    return dataclasses.replace(same, loss=model.loss)


def check_names_of_mask(params: PyTree, given: Iterable[str]) -> None:
    """Refuse a mask of other parameters.

    Args:
      params: the parameters, None where a leaf is not trained. given: the names in the mask, of all
        leaves or of the trained ones.

    Raises:
      ValueError: a trained leaf that the mask lacks, or a name that is no leaf.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: x is None)
    own = {path_name(path): leaf is not None for path, leaf in leaves}
    trained = {name for name, is_trained in own.items() if is_trained}
    given = set(given)
    for name in sorted((trained - given) | (given - own.keys())):
        where = "lacks" if name in own else "is of another tree, with"
        raise ValueError(
            f"expected a mask of the tree of the parameters, found one that {where} {name!r}: "
            "give a leaf for every trained leaf"
        )


def whole_of(model: Model) -> Model:
    """The model of which this one was restricted; itself if it was not."""
    restriction: _Restriction | None = getattr(model.split, "restriction", None)
    return model if restriction is None else whole_of(restriction.whole)


def _chooser(choice: Choice) -> Callable[[str], bool]:
    return choice if callable(choice) else choice.trained.__contains__


@cached(maxsize=64)
def _restrict(model: Model, choice: Choice) -> Model:
    choose = _chooser(choice)

    def split(variables):
        params, state = model.split(variables)
        if isinstance(choice, _Named):
            check_names_of_mask(params, choice.known)
        chosen = jax.tree_util.tree_map_with_path(lambda p, _: choose(path_name(p)), params)
        if not any(jax.tree.leaves(chosen)):
            names = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
            raise ValueError(
                "expected at least one trainable leaf, found that the mask chooses none of "
                f"{', '.join(names[:4])}, ...: check the names"
            )
        kept = jax.tree.map(lambda x, keep: x if keep else None, params, chosen)
        frozen = jax.tree.map(lambda x, keep: None if keep else x, params, chosen)
        return kept, (frozen, state)

    def whole(p, q):
        return jax.tree.map(lambda a, b: b if a is None else a, p, q, is_leaf=lambda x: x is None)

    def lift(function):
        """A function of the whole model's parameters and state as one of the restricted ones."""
        return function and (lambda p, state, *args: function(whole(p, state[0]), state[1], *args))

    def lift_train(function):
        def lifted(params, state, inputs, key):
            *found, moved = function(whole(params, state[0]), state[1], inputs, key)
            return *found, (state[0], moved)

        return function and lifted

    def refresh(variables, fresh):
        frozen = split(variables)[1][0]
        params, (_, state) = split(model.refresh(variables, fresh))
        return lift(model.join)(params, (frozen, state))

    restricted = dataclasses.replace(
        model,
        refresh=refresh,
        predict=lift(model.predict),
        predict_train=lift_train(model.predict_train),
        split=split,
        join=lift(model.join),
        observe=lift(model.observe),
        observe_train=lift_train(model.observe_train),
        project=lift(model.project),
    )
    split.restriction = _Restriction(model, choice, restricted)  # type: ignore[attr-defined]
    return restricted
