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
from mu_jax.data.checks import check_range

PyTree = Any
Names = str | tuple[str, ...] | None


class Term(NamedTuple):
    """One part of an objective: `scale * sum / weight`, sums over the examples of the batch."""

    sum: jax.Array
    weight: jax.Array
    scale: jax.Array | float = 1.0


Terms = dict[str, Term]
TermsFunction = Callable[[PyTree, Batch], tuple[Terms, PyTree]]


@dataclasses.dataclass(frozen=True)
class StepTerms:
    """The terms of a step of `mu.fit`, a function `(params, batch) -> (terms, aux)`.

    Attributes:
      function: `(params, batch, names) -> (terms, aux)`.
      key: PRNG key of the step; a seam that draws folds a number of its own into it.
      names: the terms that are computed; None for all.
    """

    function: Callable[[PyTree, Batch, tuple[str, ...] | None], tuple[Terms, PyTree]]
    key: jax.Array
    names: tuple[str, ...] | None = None

    def __call__(self, params: PyTree, batch: Batch) -> tuple[Terms, PyTree]:
        """The terms, and what the objective returned beside them."""
        return self.function(params, batch, self.names)


class Gradients(Protocol):
    """How to take the gradient of an objective: `plain`, `sam(rho)`, `per_term(combine)`, ...

    Equal objects reuse one compilation, and those that differ in the floats and arrays of a pytree.
    A fit calls it with `StepTerms`.
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


def parted(
    terms: TermsFunction, names: Names, params: PyTree, batch: Batch
) -> tuple[TermsFunction, TermsFunction | None]:
    """The named terms, and the other ones, each computed without the others where that can be.

    Args:
      terms: of the objective.
      names: of one term or several; None for all.
      params, batch: such as `terms` is called with.

    Returns:
      Two functions like `terms`; the second is None where nothing is left.

    Raises:
      ValueError: a name that is no term.
    """
    if names is None:
        return terms, None
    wanted = (names,) if isinstance(names, str) else tuple(names)
    known = tuple(jax.eval_shape(terms, params, batch)[0])
    for name in wanted:
        if name not in known:
            raise ValueError(
                f"expected a term among {', '.join(known)}, found {name!r}: name terms of the "
                "objective"
            )
    others = tuple(name for name in known if name not in wanted)
    return _only(terms, wanted), _only(terms, others) if others else None


def _only(terms: TermsFunction, names: tuple[str, ...]) -> TermsFunction:
    """Some of the terms; a program leaves out what only the others need."""
    if isinstance(terms, StepTerms):
        return dataclasses.replace(terms, names=names)

    def some(params: PyTree, batch: Batch) -> tuple[Terms, PyTree]:
        found, aux = terms(params, batch)
        return {name: found[name] for name in names}, aux

    return some


def displaced(params: PyTree, scale: jax.Array | float, direction: PyTree) -> PyTree:
    """`params + scale direction` in float32 at least; bfloat16 would round a small step away."""

    def leaf(param, step):
        kind = jnp.promote_types(param.dtype, jnp.float32)
        return param.astype(kind) + jnp.asarray(scale, kind) * step.astype(kind)

    return jax.tree.map(leaf, params, direction)


def like_params(grads: PyTree, params: PyTree) -> PyTree:
    """A gradient in the types of the parameters."""
    return jax.tree.map(lambda grad, param: grad.astype(param.dtype), grads, params)


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["rho", "gradients"], meta_fields=["term"]
)
@dataclasses.dataclass(frozen=True)
class sam:
    """Sharpness-aware: the gradient at `theta + rho g / |g|`, of all terms or of some.

    With a `term`, g is the gradient of that term alone, and the others stay where they are:

        g = grad l_term(theta)
        G = grad l_term(theta + rho g / |g|) + grad l_others(theta)

    with one norm over all trained parameters. `sam(rho, term="forget")` is that of Unlearn-Smooth:
    the model forgets in a neighborhood, not at a point, so that a few steps on some of what it
    forgot bring back less. Too large a rho forgets nothing: in a small case 0.2 % of the norm of
    the parameters helped, and 0.8 % stopped the forgetting.

    Args:
      rho: length of the step to the point of the gradient, may be traced; 0.01 published for
        language models of 7B parameters.
      term: names of the terms whose gradient is taken there, such as `"forget"` of the language
        methods (`mu.PairingRecipe(gradients=...)`) or a tuple of names; default all terms.
      gradients: how to take each gradient, such as `mu.loops.micro_batches(k)`; default `plain`.

    Raises:
      ValueError: a name that is no term of the objective.

    Cost: one more forward and backward pass of the terms. The moved parameters are float32, a
    second copy; a model that computes in bfloat16 from bfloat16 parameters would round a small step
    away, so give it no narrower type than float32 to compute in, or float32 parameters.

    Differences from the reference program (`OPTML-Group/Unlearn-Smooth`):
      1. A gradient of 0 moves nothing, and gives no NaN.
      2. The step is taken in float32; there in the type of the parameters.
      3. The gradients are those of the whole batch, also with micro-batches or several devices.

    References:
      P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur. Sharpness-Aware Minimization for Efficiently
      Improving Generalization. ICLR 2021.
      C. Fan, J. Jia, Y. Zhang, A. Ramakrishna, M. Hong, S. Liu. Towards LLM Unlearning Resilient to
      Relearning Attacks: A Sharpness-Aware Minimization Perspective and Beyond. ICML 2025.

    Example:
      >>> def terms(w, batch):
      ...     return {"forget": Term(-(w**2).sum(), 1.0), "retain": Term(w.sum(), 1.0)}, ()
      >>> sam(0.5, term="forget")(terms, jnp.array([3.0, 4.0]), None)[0].tolist()  # -2 w + 1
      [-4.400000095367432, -6.199999809265137]
    """

    rho: jax.Array | float
    term: Names = None
    _: dataclasses.KW_ONLY
    gradients: Gradients = plain

    def __post_init__(self) -> None:
        if isinstance(self.rho, int | float):
            check_range(0, rho=self.rho)

    def __call__(
        self, terms: TermsFunction, params: PyTree, batch: Batch
    ) -> tuple[PyTree, Terms, PyTree]:
        """The gradient there, and the terms at `theta`."""
        chosen, others = parted(terms, self.term, params, batch)
        grads, found, aux = self.gradients(chosen, params, batch)
        wide = jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), grads)
        scale = self.rho / jnp.maximum(optax.tree.norm(wide), 1e-12)
        grads, _, _ = self.gradients(chosen, displaced(params, scale, wide), batch)
        grads = like_params(grads, params)
        if others is not None:
            more, rest, _ = self.gradients(others, params, batch)
            grads, found = optax.tree.add(grads, more), found | rest
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
