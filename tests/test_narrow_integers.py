"""Labels and tokens in eight bits are the same ones, however many classes there are."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax import attribution, evaluation, token_losses
from mu_jax.evaluation import language
from mu_jax.objectives import uniform_label
from mu_jax.projected import Projected

N, CLASSES = 12, 300  # 44 in eight bits
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(N, CLASSES)).astype(np.float32)
LABELS = np.linspace(0, 127, N).astype(int)
TOKENS = RNG.integers(0, 128, size=(2, 5))
TOKEN_LOGITS = RNG.normal(size=(2, 5, CLASSES)).astype(np.float32)
HIDDEN = RNG.normal(size=(N, 3)).astype(np.float32)
WEIGHTS = RNG.normal(size=(3, CLASSES)).astype(np.float32) / 10


class Row(NamedTuple):
    tokens: np.ndarray
    mask: np.ndarray


def statistics(tokens):
    mask = np.ones(tokens.shape) * (np.arange(5) > 0)
    return language.token_statistics(TOKEN_LOGITS, Row(tokens, mask))


def in_chunks(tokens):
    mask = np.ones(tokens.shape) * (np.arange(5) > 0)
    hidden = HIDDEN[:10].reshape(2, 5, 3)
    return language.token_statistics_from_hidden(hidden, WEIGHTS.T, Row(tokens, mask), chunk=2)


def as_it_is(kernel, hidden):
    return hidden


def gradient(nll):
    def of(tokens):
        tokens = jnp.asarray(tokens)
        return jax.value_and_grad(lambda logits: nll(logits, tokens).sum())(TOKEN_LOGITS)

    return of


OF_LABELS = {
    "margins": lambda y: evaluation.margins(LOGITS, y),
    "losses": lambda y: evaluation.losses(LOGITS, y),
    "accuracy by class": lambda y: evaluation.accuracy_by_class(LOGITS, y),
    "membership": lambda y: evaluation.membership_scores(LOGITS, y),
    "el2n": lambda y: attribution.el2n(LOGITS[None], y),
    "left out": lambda y: attribution.softmax_without(HIDDEN, y, WEIGHTS, [0, 1], l2=1.0),
}
LABELS_OF_ALL = np.arange(N) * 11 + 6  # up to 127, the most that eight bits with a sign can hold
OF_LABELS["neighbors"] = lambda y: evaluation.knn_predict(
    HIDDEN, LABELS_OF_ALL.astype(y.dtype), HIDDEN, k=1
)
OF_TOKENS = {
    "nll": gradient(token_losses.token_nll),
    "chunked": gradient(
        lambda logits, tokens: token_losses.token_nll(Projected(logits, (), as_it_is, 2), tokens)
    ),
    "statistics": statistics,
    "in chunks": in_chunks,
}
CASES = {**OF_LABELS, **OF_TOKENS}


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("name", CASES)
def test_narrow_integers_are_the_same_integers(name, dtype):
    given = LABELS if name in OF_LABELS else TOKENS
    found, expected = (CASES[name](given.astype(kind)) for kind in (dtype, np.int32))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_labels_are_drawn_from_all_classes(dtype):
    """Also from those that the type of the labels cannot count."""
    seen = []

    def draw(key, label, classes):
        seen.append(label.dtype)
        return uniform_label(key, label, classes)

    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
    data = mu.batches(HIDDEN, LABELS.astype(dtype), batch_size=4)
    unlearn = mu.salun(model, optax.sgd(0.1), fraction=0.5, label_rule=draw)
    unlearn(jax.random.key(0), mu.Variables(jnp.asarray(WEIGHTS)), *mu.split(data, [1, 4]))
    assert set(seen) == {jnp.dtype(jnp.int32)}
