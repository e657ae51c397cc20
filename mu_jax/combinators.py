"""Transforms of transforms: one after another, masked, scaled, through an optax transformation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from mu_jax import edits
from mu_jax.mesh.shards import on_automatic_axes
from mu_jax.model import Model, restrict
from mu_jax.transforms._shared.transform import Info, Transform, Unlearn, report

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Chain:
    """Transforms one after another; `info` is a tuple with one entry for each."""

    members: tuple[Transform, ...]

    @property
    def words(self) -> str:
        """The members and their hyper-parameters as a call."""
        return f"chain({', '.join(member.words for member in self.members)})"

    def __repr__(self) -> str:
        return f"Chain{self.words.removeprefix('chain')}"

    def __call__(
        self, key: jax.Array, variables: PyTree, forget: Any, retain: Any
    ) -> tuple[PyTree, tuple[Info, ...]]:
        """Unlearn with each member in turn, member `i` under `fold_in(key, i)`."""
        infos = []
        for number, member in enumerate(self.members):
            member_key = jax.random.fold_in(key, number)
            variables, info = member(member_key, variables, forget, retain)
            infos.append(info)
        return variables, tuple(infos)

    def restricted(self, restriction: Callable[[Model], Model]) -> Chain:
        """The chain of restricted members."""
        return Chain(tuple(member.restricted(restriction) for member in self.members))


def chain(*transforms: Transform) -> Chain:
    """One transform after another, each starting from what the last one left.

    (`optax.chain` composes within one step, which is something else: a pruning and an SSD chained
    there compute the importances of the unpruned weights.)

    Example:
      >>> import optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> tune = mu.finetune(model, optax.sgd(1e-2))
      >>> len(mu.chain(mu.ssd(model, alpha=2.0), tune).members)
      2
    """
    if not transforms:
        raise ValueError("expected at least one transform to chain, found none: pass some")
    return Chain(transforms)


def masked(transform: Transform, trainable: Callable[[str], bool] | PyTree) -> Transform:
    """The transform, allowed to change the chosen leaves only.

    The others are bit-identical afterwards, momentum and weight decay notwithstanding, and take no
    part in statistics, norms or thresholds. (`optax.masked` alone passes the updates of unmasked
    leaves through unchanged.)

    Args:
      transform: any transform.
      trainable: `name -> bool` over names such as `Dense_0/kernel`, or a tree of bools shaped like
        the parameters, True where the transform may change a leaf.
    """
    return transform.restricted(lambda model: restrict(model, trainable))


def scaled(transform: Transform, scale: jax.Array | float) -> Transform:
    """The transform with its change of the parameters multiplied by `scale`, may be traced."""
    return through(transform, optax.stateless(lambda u, _: optax.tree.scale(scale, u)))


def through(transform: Transform, transformation: optax.GradientTransformation) -> Transform:
    """The transform with its change of the parameters sent through an optax transformation.

    `params + transformation(after - before)`: clip the edit by its norm, mask it element by
    element, scale it. For a method that fits, this acts on the whole displacement.
    """
    if isinstance(transform, Chain):
        raise TypeError(
            "expected a single transform, found a chain: send its members through one by one"
        )

    def send(updates: PyTree, before: PyTree) -> PyTree:
        return transformation.update(updates, transformation.init(before), before)[0]

    def method(model: Model) -> Unlearn:
        def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
            after, info = transform.method(model)(key, variables, forget, retain)
            params, state = model.split(after)
            before = model.params(variables)
            updates = on_automatic_axes(send, optax.tree.sub(params, before), before, like=before)
            after = model.join(edits.apply(before, updates), state)
            return report(
                model,
                variables,
                after,
                (forget, retain),
                steps=info.steps,
                example_passes=info.example_passes,
                details=info.details,
            )

        return unlearn

    method.words = f"through({transform.words})"  # type: ignore[attr-defined]
    return Transform(transform.model, method)
