"""Learning-rate-free optimizers are for objectives that have a lower bound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
import optax.contrib

from mu_jax.data.batches import Batch, Batches, is_concrete
from mu_jax.mesh.shards import bare

PyTree = Any

# The states by which these optimizers of `optax.contrib` are known, wherever they stand in a chain.
_KNOWN = {
    "COCOBState": "cocob",
    "DAdaptAdamWState": "dadapt_adamw",
    "DoGState": "dog",
    "DoWGState": "dowg",
    "MechanicState": "mechanize",
    "MomoAdamState": "momo_adam",
    "MomoState": "momo",
    "ProdigyState": "prodigy",
}
_STATES = {
    state: name for each, name in _KNOWN.items() if (state := getattr(optax.contrib, each, None))
}


def learning_rate_free(opt_state: optax.OptState) -> tuple[str, ...]:
    """The optimizers of `optax.contrib` in a state that infer their step size from the way taken.

    They are found by the types of their states: in chains, under masks and in groups. Others that
    do the same cannot be told from those that do not.

    Example:
      >>> import optax
      >>> chained = optax.chain(optax.clip(1.0), optax.contrib.prodigy())
      >>> [learning_rate_free(each.init({"w": np.ones(2)})) for each in (chained, optax.adam(0.1))]
      [('prodigy',), ()]
    """
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda x: type(x) in _STATES)
    return tuple(dict.fromkeys(_STATES[type(leaf)] for leaf in leaves if type(leaf) in _STATES))


def refuse_unbounded(
    objective: Any,
    opt_state: optax.OptState,
    variables: PyTree,
    batches: Batches | Iterable[Batch],
    frozen: dict[str, PyTree],
    key: jax.Array,
) -> None:
    """Refuse a learning-rate-free optimizer where the objective may fall without end.

    These methods take the distance that was traveled for a sign of how far the minimum is. Where
    a term is raised, there is none, and the step grows faster than at any fixed rate. An objective
    is taken as bounded if it says so (`bounded`, see `mu.loops.Objective`), else if the scale of
    each of its terms is known to be 0 or more.

    Raises:
      ValueError: such an optimizer, and an objective that is not bounded, or not known to be.

    Cost: none for other optimizers; for these the objective is traced once.
    """
    found = learning_rate_free(opt_state)
    declared = getattr(objective, "bounded", None)
    if not found or declared:
        return
    name = found[0]
    if declared is False:
        raise ValueError(_sentence(name, "that says that it is not bounded"))
    for term, scale in _scales(objective, variables, batches, frozen, key).items():
        if not is_concrete(scale):
            raise ValueError(
                f"expected an objective that is known to be bounded for {name}, found a scale of "
                f"its term {term!r} that is traced: give numbers outside jit, say `bounded = True` "
                "in the objective, or take an optimizer with a learning rate"
            )
        if np.any(np.asarray(scale) < 0):
            raise ValueError(_sentence(name, f"whose term {term!r} is raised without a bound"))


def _sentence(name: str, what: str) -> str:
    return (
        f"expected an optimizer with a learning rate for an objective {what}, found {name}, whose "
        "step grows with the way taken and there without end: give adam or sgd, or a bounded "
        "objective such as one with a cap"
    )


def _scales(
    objective: Any, variables: PyTree, batches: Any, frozen: dict[str, PyTree], key: jax.Array
) -> dict[str, Any]:
    """The scales of the terms, as numbers where the objective or `frozen` give numbers."""
    batch = batches.at(0) if isinstance(batches, Batches) else next(iter(batches))
    leaves, treedef = jax.tree.flatten(frozen)
    large = {n: leaf for n, leaf in enumerate(leaves) if np.ndim(leaf)}
    small = {n: _number(leaf) for n, leaf in enumerate(leaves) if n not in large}
    found = {}

    def probe(variables, batch, large, key):
        both = small | large
        given = jax.tree.unflatten(treedef, [both[n] for n in range(len(leaves))])
        terms, _ = objective(variables, batch, given, key)
        found.update({name: term.scale for name, term in terms.items()})

    jax.eval_shape(probe, *bare((variables, batch, large, key)))
    return found


def _number(leaf: Any) -> Any:
    """A scalar as a number that arithmetic leaves known while JAX traces."""
    known = is_concrete(leaf) and getattr(leaf, "is_fully_addressable", True)
    return np.asarray(leaf) if known else leaf
