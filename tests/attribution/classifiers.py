"""Small classifiers with hand-made checkpoints, and TRAK written out with explicit matrices."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

import mu_jax as mu

CLASSES, FEATURES, HIDDEN, EXAMPLES = 3, 4, 5, 60
LOSS = optax.softmax_cross_entropy_with_integer_labels


def _predict(params, state, inputs):
    hidden = jnp.tanh(inputs @ params["in"] + params["bias"])
    return hidden @ params["out"]


MODEL = mu.from_function(_predict, LOSS)
# Logits (0, x . w): logistic regression, whose margin is linear in w.
LOGISTIC = mu.from_function(
    lambda w, state, x: jnp.stack([jnp.zeros(len(x), w.dtype), x @ w], axis=-1), LOSS
)


def variables(seed: int, dtype=np.float64) -> mu.Variables:
    rng = np.random.default_rng(seed)
    shapes = {"in": (FEATURES, HIDDEN), "bias": (HIDDEN,), "out": (HIDDEN, CLASSES)}
    params = {name: rng.normal(size=shape).astype(dtype) for name, shape in shapes.items()}
    return mu.Variables(jax.device_put(params))


def data(n: int = EXAMPLES, *, seed: int = 0, batch_size: int = 16, dtype=np.float64):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(n, FEATURES)).astype(dtype)
    return mu.batches(inputs, rng.integers(CLASSES, size=n), batch_size=batch_size)


class Explicit(NamedTuple):
    """Everything about one checkpoint as dense float64 matrices."""

    logit_gradients: np.ndarray  # [n, K, p]
    gradients: np.ndarray  # [n, p], of margins
    residual: np.ndarray  # [n], 1 - p
    curvature: np.ndarray  # [n], p (1 - p)


def explicit(model: mu.Model, point: mu.Variables, examples: mu.Batches) -> Explicit:
    found = _explicit(model, point.params, examples.inputs, examples.targets)
    return Explicit(*map(np.asarray, found))


@partial(jax.jit, static_argnums=0)
def _explicit(model, params, inputs, targets):
    flat, unravel = ravel_pytree(params)

    def logits(flat):
        return model.predict(unravel(flat), (), inputs)

    def margin(flat):
        return mu_margins(logits(flat), targets)

    p = jax.nn.sigmoid(margin(flat))
    return jax.jacobian(logits)(flat), jax.jacobian(margin)(flat), 1 - p, p * (1 - p)


def mu_margins(logits, labels):
    """The definition, log(p / (1 - p))."""
    p = jnp.take_along_axis(jax.nn.softmax(logits), labels[:, None], 1)[:, 0]
    return jnp.log(p) - jnp.log1p(-p)


def matrix_of(projection, size: int) -> np.ndarray:
    """P, f[p, dim], row by row."""
    return np.asarray(_project_all(projection, np.eye(size)))


@jax.jit
def _project_all(projection, rows):
    return jax.vmap(projection.project)(rows)
