"""Objectives of label-agnostic forgetting: autoencoders of embeddings, extractor and alignment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mu_jax.data.batches import Batch, describe
from mu_jax.data.partners import partners
from mu_jax.loops.gradients import Term, Terms
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.model import Model
from mu_jax.objectives import autoencoder
from mu_jax.objectives.autoencoder import Decoder
from mu_jax.statistics.layers import Layer, with_inputs

PyTree = Any
Array = jax.Array

_LEAST = 1e-12


@dataclasses.dataclass(frozen=True)
class Embedding:
    """The embedding of a model in inference mode, `(variables, inputs) -> f[B, d]`.

    Attributes:
      model: the model.
      source: a function of that kind, the name of an activation that the model names, or the layer
        of which it is the input.
    """

    model: Model
    source: Callable[[PyTree, PyTree], Array] | str | Layer

    def __call__(self, variables: PyTree, inputs: PyTree) -> Array:
        """Embeddings of all rows, every row as a vector.

        Raises:
          ValueError: an activation that the model does not name; no embedding of each row.
        """
        rows = jax.tree.leaves(inputs)[0].shape[0]
        found = self._found(variables, inputs)
        if getattr(found, "shape", ())[:1] != (rows,):
            raise ValueError(
                f"expected an embedding of each of the {rows} rows, found {describe(found)}: let "
                "embed(variables, inputs) return an array [rows, numbers]"
            )
        return found.reshape(rows, -1)

    def _found(self, variables: PyTree, inputs: PyTree) -> Array:
        model, source = self.model, self.source
        if isinstance(source, Layer):
            return with_inputs(model.apply, [source], variables, inputs)[1][0][0]
        if not isinstance(source, str):
            return source(variables, inputs)
        named: dict[str, Array] = {}
        if model.observe is not None:
            named = model.observe(*model.split(variables), inputs)[1]
        if source not in named:
            raise ValueError(
                f"expected the name of an activation among {', '.join(named) or 'none'}, found "
                f"{source!r}: name one that the model gives in `observe`, or give a function"
            )
        return named[source]


@dataclasses.dataclass(frozen=True)
class reconstruction:
    """The loss of an autoencoder of embeddings, `mean_i (|d_i - h_i|^2 + beta KL_i)`.

    Reads `frozen["original"]`, the variables of the embedding, and `frozen["kl_weight"]`, beta.
    Its own variables are the autoencoder's, `mu.Variables`.
    """

    embedding: Embedding
    decoder: Decoder = "linear"

    @property
    def rows_are_independent(self) -> bool:
        """A row sees no other."""
        return True

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: Array
    ) -> tuple[Terms, PyTree]:
        """The term, and the variables."""
        vectors = self.embedding(frozen["original"], batch.inputs)
        noise = draws(key, batch.index, variables.params)
        losses = autoencoder_losses(
            variables.params, vectors, noise, frozen["kl_weight"], self.decoder
        )
        term = Term(weighted_sum(losses, batch.weight), total_weight(batch.weight))
        return {"loss": term}, variables


def autoencoder_losses(
    params: PyTree, vectors: Array, noise: Array, kl_weight: Array | float, decoder: Decoder
) -> Array:
    """`|d_i - h_i|^2 + kl_weight KL_i` of each row, f[B]."""
    coded = autoencoder.apply(params, vectors, noise, decoder)
    return autoencoder.squared_errors(coded, vectors) + kl_weight * autoencoder.divergences(coded)


def draws(key: Array, index: Array, params: PyTree) -> Array:
    """Standard normal noise for the code of each row, which follows the row's id."""
    like = params["mean"]["bias"]

    def draw(row: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(key, row), like.shape, like.dtype)

    return jax.vmap(draw)(index)


@dataclasses.dataclass(frozen=True)
class extractor:
    """`sum_r phi(r_r) - sum_u phi(r_u)`: what is retained stays known, what is forgotten gets odd.

    r is the squared error of the autoencoder of each set at the model's embedding h, and
    `phi(r) = exp(r / (r + 1))`.

    Args:
      embedding: of the model. decoder: of the autoencoders. retain_rows: for each row to forget.

    Returns:
      An `Objective` of a batch of rows to forget. It reads `frozen["retain"]`, all retained rows as
      one `Batch`, and `frozen["retain_vae"]`, `frozen["forget_vae"]`.
    """

    embedding: Embedding
    decoder: Decoder = "linear"
    retain_rows: int = 1

    @property
    def rows_are_independent(self) -> bool:
        """True: it is a sum over rows."""
        return True

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: Array
    ) -> tuple[Terms, PyTree]:
        """The terms, and the variables."""
        drawn = partners(jax.random.fold_in(key, 1), batch, frozen["retain"], self.retain_rows)
        terms = {}
        for number, (name, rows, sign) in enumerate(
            (("retain", drawn, 1.0), ("forget", batch, -1.0))
        ):
            params = frozen[f"{name}_vae"]
            noise = draws(jax.random.fold_in(key, 2 + number), rows.index, params)
            vectors = self.embedding(variables, rows.inputs)
            found = oddness(params, vectors, noise, self.decoder)
            terms[name] = Term(weighted_sum(found, rows.weight), jnp.ones(()), sign)
        return terms, variables


def oddness(params: PyTree, vectors: Array, noise: Array, decoder: Decoder) -> Array:
    """`exp(r / (r + 1))` with the squared error r of an autoencoder at each row, f[B]."""
    errors = autoencoder.squared_errors(autoencoder.apply(params, vectors, noise, decoder), vectors)
    return jnp.exp(errors / (errors + 1))


@dataclasses.dataclass(frozen=True)
class alignment:
    """`sum_r (c_r - log sum_u exp(c_u / T))` with `c = 1 - cos(h, h0)`.

    h is the embedding of the model, h0 that of the original one: retained rows keep theirs,
    forgotten ones turn away.

    Args:
      embedding: of the model. retain_rows: for each row to forget.

    Returns:
      An `Objective` of a batch of rows to forget. It reads `frozen["retain"]`, all retained rows as
      one `Batch`; `frozen["original"]`, the variables of h0; `frozen["temperature"]`, T.
    """

    embedding: Embedding
    retain_rows: int = 1

    @property
    def rows_are_independent(self) -> bool:
        """True: rows of weight 0 are in no sum."""
        return True

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: Array
    ) -> tuple[Terms, PyTree]:
        """The term, and the variables."""
        drawn = partners(jax.random.fold_in(key, 1), batch, frozen["retain"], self.retain_rows)

        def turns(rows: Batch) -> Array:
            now, then = (self.embedding(v, rows.inputs) for v in (variables, frozen["original"]))
            return turned(now, then)

        value = aligned(
            (turns(drawn), drawn.weight), (turns(batch), batch.weight), frozen["temperature"]
        )
        return {"loss": Term(value, jnp.ones(()))}, variables


def turned(now: Array, then: Array) -> Array:
    """`1 - cos` of the angle between vectors, f[B]; 1e-12 is added to each squared length."""
    lengths = [jnp.sqrt(jnp.sum(jnp.square(x), 1) + _LEAST) for x in (now, then)]
    return 1 - jnp.sum(now * then, 1) / (lengths[0] * lengths[1])


def aligned(
    retain: tuple[Array, Array], forget: tuple[Array, Array], temperature: Array | float
) -> Array:
    """`sum_r w_r (c_r - log sum_u w_u exp(c_u / T))`, f[], of pairs of c and weights."""
    (c, weight), (apart, own) = retain, forget
    apart = jnp.where(own > 0, apart / temperature, 0)
    spread = jax.nn.logsumexp(apart, b=own.astype(apart.dtype))
    return weighted_sum(c, weight) - jnp.sum(weight).astype(c.dtype) * spread
