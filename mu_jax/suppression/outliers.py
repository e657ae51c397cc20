"""How familiar an input is, from the features that any encoder has of it."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mu_jax.data.batches import is_concrete

Array = jax.Array
_SIMILARITY = 1000.0


class Familiarity(NamedTuple):
    """Scores of inputs by their distance from the features of a set; made by `fit_familiarity`.

    Attributes:
      mean: f32[L, d], of the features of each layer.
      whitening: f32[L, d, d], W of each layer with `W W^T` the inverse of their covariance.
      bank: f32[L, n, d], the features of the set, of length 1.
      layer_mean: f32[L], of the scores of the layers. layer_whitening: f32[L, L], of these.
    """

    mean: Array
    whitening: Array
    bank: Array
    layer_mean: Array
    layer_whitening: Array

    def layers(self, features: Array) -> Array:
        """The score of every layer, f32[m, L].

        `-1/2 (f - mu)^T Sigma^-1 (f - mu) - 1000 max_i cos(f, f_i)`, as published.

        Args:
          features: f32[m, L, d].

        Cost: n cosines for each input and layer.
        """
        nearest = jnp.einsum("mld,lnd->mln", _unit(features), self.bank).max(axis=-1)
        return _layer_scores(self.mean, self.whitening, features, nearest)

    def __call__(self, features: Array) -> Array:
        """Familiarity f32[m], at most 0: minus the distance of the layers' scores from their mean.

        Args:
          features: f32[m, L, d], of the layers of an encoder; O3 takes 12, without the embeddings.
        """
        return _score(self.layers(features), self.layer_mean, self.layer_whitening)


def fit_familiarity(features: Array, *, ridge: float = 1e-3) -> Familiarity:
    """What the inputs of one request look like to an encoder (the scorer of O3).

    The score of an input is `-|(z - m) W|`, the Mahalanobis distance of the scores z of its layers
    from those of the set. High scores look like the set. `mu.suppression.fit_soft_gate` makes a
    gate of the scores.

    Args:
      features: f32[n, L, d], of the forget set, from any encoder: such as the mean over the tokens
        of hidden states of L layers. The encoder is the user's to train.
      ridge: part of the mean variance that is added to every variance, so that fewer examples than
        dimensions are enough.

    Raises:
      ValueError: features of another shape, fewer than three examples, numbers that are not finite.

    Cost: a Cholesky factor of d x d and n x n cosines for each layer.

    Differences from the reference program (`GCYZSL/O3-LLM-UNLEARNING`):
      1. The Mahalanobis distance of the layers' scores; there the score of a linear one-class
         support vector machine (nu = 0.1), fitted to the same numbers.
      2. An example of the set is compared with the others, not with itself.
      3. Features of any encoder; there RoBERTa-large, trained with adapters by masked language
         modelling and a contrast to a frozen copy, padding in the mean.

    References:
      C. Gao, L. Wang, K. Ding, C. Weng, X. Wang, Q. Zhu. On Large Language Model Continual
      Unlearning. ICLR 2025.

    Example:
      >>> own = jax.random.normal(jax.random.key(0), (100, 2, 3)) + jnp.array([4.0, 0.0, 0.0])
      >>> score = fit_familiarity(own)
      >>> found = score(jnp.stack([own[0] + 0.1, -own[0]]))
      >>> bool(found[0] > -4), bool(found[1] < -20)
      (True, True)
    """
    features = jnp.asarray(features)
    shape = features.shape
    if features.ndim != 3 or shape[0] < 3:
        raise ValueError(
            f"expected features [n, L, d] of at least 3 examples, found shape {shape}: give those "
            "of every layer for every example"
        )
    if is_concrete(features) and not bool(jnp.isfinite(features).all()):
        raise ValueError("expected finite features, found NaN or infinity: check the encoder")
    by_layer = jnp.swapaxes(features.astype(jnp.promote_types(features.dtype, jnp.float32)), 0, 1)
    mean, whitening = jax.vmap(lambda x: _gaussian(x, ridge))(by_layer)
    bank = _unit(by_layer)
    others = jnp.einsum("lmd,lnd->lmn", bank, bank)
    others = jnp.where(jnp.eye(shape[0], dtype=bool), -jnp.inf, others).max(axis=-1)
    scores = _layer_scores(mean, whitening, jnp.swapaxes(by_layer, 0, 1), others.T)
    return Familiarity(mean, whitening, bank, *_gaussian(scores, ridge))


def _layer_scores(mean: Array, whitening: Array, features: Array, nearest: Array) -> Array:
    white = jnp.einsum("mld,lde->mle", features - mean, whitening)
    return -0.5 * jnp.square(white).sum(axis=-1) - _SIMILARITY * nearest


def _score(scores: Array, mean: Array, whitening: Array) -> Array:
    return -jnp.linalg.norm((scores - mean) @ whitening, axis=-1)


def _gaussian(x: Array, ridge: float) -> tuple[Array, Array]:
    """The mean, and W with `W W^T` the inverse of the covariance, of rows [n, d]."""
    centered = x - x.mean(axis=0)
    covariance = centered.T @ centered / len(x)
    width = x.shape[1]
    room = ridge * jnp.trace(covariance) / width + jnp.finfo(x.dtype).tiny
    lower = jnp.linalg.cholesky(covariance + room * jnp.eye(width, dtype=x.dtype))
    inverse = jax.scipy.linalg.solve_triangular(lower, jnp.eye(width, dtype=x.dtype), lower=True)
    return x.mean(axis=0), inverse.T


def _unit(x: Array) -> Array:
    length = jnp.linalg.norm(x, axis=-1, keepdims=True)
    return x / jnp.where(length > 0, length, 1)
