"""How to take the gradient of an objective: plain, sharpness-aware, by term, in micro-batches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from mu_jax.data.batches import Batch

PyTree = Any


class Term(NamedTuple):
    """One part of an objective: `scale * sum / weight`, sums over the examples of the batch."""

    sum: jax.Array
    weight: jax.Array
    scale: jax.Array | float = 1.0


Terms = dict[str, Term]
TermsFunction = Callable[[PyTree, Batch], tuple[Terms, PyTree]]


class Gradients(Protocol):
    """How to take the gradient of an objective: `plain`, `sam(rho)`, `per_term(combine)`, ...

    Equal objects reuse one compilation, and those that differ in the floats and arrays of a pytree.
    """

    def __call__(
        self, terms: TermsFunction, params: PyTree, batch: Batch
    ) -> tuple[PyTree, Terms, PyTree]:
        """The descent gradient, the terms, and what `terms` returned beside them."""


def total(terms: Terms) -> jax.Array:
    """`sum_t scale_t sum_t / weight_t`; a term without examples counts 0."""

    def part(term):
        dtype = jnp.result_type(term.sum)
        scale, weight = (jnp.asarray(x, dtype) for x in (term.scale, term.weight))
        return scale * term.sum / jnp.where(weight > 0, weight, 1)

    parts = [part(term) for term in terms.values()]
    return functools.reduce(jnp.add, parts)


def plain(terms: TermsFunction, params: PyTree, batch: Batch) -> tuple[PyTree, Terms, PyTree]:
    """The gradient of the objective."""

    def value(params):
        found, aux = terms(params, batch)
        return total(found), (found, aux)

    grads, (found, aux) = jax.grad(value, has_aux=True)(params)
    return grads, found, aux


@functools.partial(jax.tree_util.register_dataclass, data_fields=["rho"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class sam:
    """Sharpness-aware: the gradient at `theta + rho g / ||g||`; two passes.

    Args:
      rho: length of the step to the point of the gradient, may be traced.

    References:
      P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur. Sharpness-Aware Minimization for Efficiently
      Improving Generalization. ICLR 2021.
    """

    rho: jax.Array | float

    def __call__(
        self, terms: TermsFunction, params: PyTree, batch: Batch
    ) -> tuple[PyTree, Terms, PyTree]:
        """The gradient there, and the terms at `theta`."""
        grads, found, aux = plain(terms, params, batch)
        scale = self.rho / jnp.maximum(optax.tree.norm(grads), 1e-12)
        grads, _, _ = plain(terms, optax.tree.add_scale(params, scale, grads), batch)
        return grads, found, aux


@functools.partial(jax.tree_util.register_dataclass, data_fields=["combine"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class per_term:
    """One gradient per term of the objective, combined by `combine` (projection, bargaining).

    Args:
      combine: `{term: gradient} -> gradient`.

    Cost: one forward pass, and one backward pass per term.
    """

    combine: Callable[[dict[str, PyTree]], PyTree]

    def __call__(
        self, terms: TermsFunction, params: PyTree, batch: Batch
    ) -> tuple[PyTree, Terms, PyTree]:
        """The combined gradient, the terms, and what `terms` returned beside them."""

        def values(params):
            found, aux = terms(params, batch)
            return {name: total({name: term}) for name, term in found.items()}, (found, aux)

        value, pull_back, (found, aux) = jax.vjp(values, params, has_aux=True)

        def gradient(name):
            seeds = {other: jnp.where(other == name, 1.0, 0.0) for other in value}
            seeds = {other: seed.astype(value[other].dtype) for other, seed in seeds.items()}
            return pull_back(seeds)[0]

        return self.combine({name: gradient(name) for name in value}), found, aux


@dataclasses.dataclass(frozen=True)
class micro_batches:
    """The same gradient as `plain`, from `number` parts of the batch one after another.

    Sums are accumulated over the parts and divided by the weight of the whole batch, so nothing
    changes but memory (one part's activations). In training mode, batch statistics are those of
    the parts, and the last part's move the running ones.

    Args:
      number: parts of a batch; it divides the number of rows.
    """

    number: int

    def __call__(
        self, terms: TermsFunction, params: PyTree, batch: Batch
    ) -> tuple[PyTree, Terms, PyTree]:
        """The gradient, the terms of the whole batch, and what the last part moved."""
        number = self.number
        if batch.weight.shape[0] % number:
            raise ValueError(
                f"expected a batch that divides into {number} parts, found one of "
                f"{batch.weight.shape[0]} rows: give a batch size that is a multiple"
            )
        parts = jax.tree.map(lambda x: x.reshape(number, -1, *x.shape[1:]), batch)
        sums = jax.lax.map(lambda part: terms(params, part)[0], parts)
        whole = jax.tree.map(lambda x: x.sum(axis=0), sums)
        whole = {name: term._replace(scale=sums[name].scale[0]) for name, term in whole.items()}

        def value(params, part):
            found, aux = terms(params, part)
            found = {name: term._replace(weight=whole[name].weight) for name, term in found.items()}
            return total(found), aux

        def add(grads, part):
            more, aux = jax.grad(value, has_aux=True)(params, part)
            return optax.tree.add(grads, more), aux

        grads, auxes = jax.lax.scan(add, optax.tree.zeros_like(params), parts)
        return grads, whole, jax.tree.map(lambda x: x[-1], auxes)
