"""What a subspace is, and the model of which its coordinates are trained."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import jax

from mu_jax import adapters
from mu_jax._at_once import as_array
from mu_jax._callables import with_numbers, without_numbers
from mu_jax._tracing import cached
from mu_jax.adapters.lifting import Adapted
from mu_jax.loops.update_masks import restored
from mu_jax.model import Model
from mu_jax.reparameterized import check_kind, reparameterized
from mu_jax.subspaces.lora import LoRA

PyTree = Any


class Subspace(Protocol):
    """A set of parameters that contains the present ones, with coordinates of its own.

    Pure functions; an equal object reuses its compilation, so subspaces are frozen dataclasses. One
    that is a pytree (`jax.tree_util.register_dataclass`) has its floats and arrays as arguments,
    which may be traced. A field `chosen`, a function of names, is read by `init` alone.
    """

    def init(self, key: jax.Array, params: PyTree) -> PyTree:
        """Coordinates z of the parameters themselves: `expand(init(key, p), p) == p` exactly."""

    def expand(self, z: PyTree, params: PyTree) -> PyTree:
        """The parameters at z, a tree like `params`, which are those at the start."""


class Lifted(NamedTuple):
    """The variables of a model in a subspace.

    Attributes:
      z: the coordinates, what is trained and edited.
      numbers: the floats and arrays of the subspace.
      base: the variables of the model at the start, which never move (but for statistics of
        normalizations in training mode).
    """

    z: PyTree
    numbers: tuple
    base: PyTree


def attach(key: jax.Array, model: Model, variables: PyTree, subspace: Subspace) -> Lifted | Adapted:
    """The variables in a subspace; outputs stay as they are.

    Args:
      key: a PRNG key, for coordinates that are drawn. model, variables: without the subspace.
      subspace: such as `SSF()`. Of `LoRA` they are the `Adapted` variables of `mu.adapters`.

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(lambda p, state, x: x @ p["w"], mu.losses.squared_error)
      >>> base, subspace = mu.Variables({"w": jnp.ones((3, 2))}), mu.subspaces.FLoRA(rank=1)
      >>> start = attach(jax.random.key(0), model, base, subspace)
      >>> bool((merge(model, start, subspace).params["w"] == 1).all())
      True
    """
    if isinstance(subspace, LoRA):
        subspace.check(model.params(variables))
        return adapters.attach(
            key,
            model,
            variables,
            rank=subspace.rank,
            alpha=subspace.alpha,
            chosen=subspace.chosen,
        )
    z = subspace.init(key, model.params(variables))
    numbers = without_numbers(_without_names(subspace))[1]
    return Lifted(z, tuple(map(as_array, numbers)), variables)


def lifted(model: Model, subspace: Subspace) -> Model:
    """The model of which the coordinates are trained, for variables that `attach` made.

    Returns:
      A `Model`. Equal arguments give the same one, and so do other numbers.

    Cost: that of `expand`, forwards and backwards, with the gradients of whole leaves.
    """
    if isinstance(subspace, LoRA):
        return adapters.adapted(model)
    return _lifted(model, without_numbers(_without_names(subspace))[0])


def merge(model: Model, variables: Any, subspace: Subspace) -> PyTree:
    """The variables of the model itself, with its parameters at the coordinates.

    Args:
      model: without the subspace. variables: of the model in it, `Lifted` or `Adapted`.
      subspace: the same as for `attach`; its numbers are those of the variables.

    What the base stored is gone from the result if nobody keeps the base beside it.
    """
    if isinstance(subspace, LoRA):
        return adapters.merge(model, variables)
    _check(variables)
    form, _ = without_numbers(_without_names(subspace))
    params = with_numbers(form, variables.numbers).expand(variables.z, model.params(variables.base))
    return model.with_params(variables.base, params)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["subspace", "masks"], meta_fields=["names"]
)
@dataclasses.dataclass(frozen=True)
class Held:
    """A subspace in which some entries keep every bit.

    Args:
      subspace: any other.
      names: of leaves. masks: of each, True where an entry may move.
    """

    subspace: Subspace
    names: tuple[str, ...]
    masks: tuple[jax.Array, ...]

    def init(self, key: jax.Array, params: PyTree) -> PyTree:
        """Those of the subspace."""
        return self.subspace.init(key, params)

    def expand(self, z: PyTree, params: PyTree) -> PyTree:
        """The parameters at z, with those at the start where the masks are False."""
        masks = dict(zip(self.names, self.masks, strict=True))
        return restored(params, self.subspace.expand(z, params), masks)


def _without_names(subspace: Any) -> Any:
    """The subspace without the choice that `init` alone reads, so that equal ones are equal."""
    if isinstance(subspace, Held):
        return dataclasses.replace(subspace, subspace=_without_names(subspace.subspace))
    if getattr(subspace, "chosen", None) is None:
        return subspace
    return dataclasses.replace(subspace, chosen=None)


def _check(variables: Any) -> None:
    check_kind(variables, Lifted, "mu.subspaces.attach(key, model, variables, subspace)")


@cached(maxsize=64)
def _lifted(model: Model, form: Any) -> Model:
    def computed(function, z, state, inputs, *key):
        numbers, base = state
        params, own = model.split(base)
        whole = with_numbers(form, numbers).expand(z, params)
        return function(whole, own, inputs, *key)

    return reparameterized(model, Lifted, _check, computed)
