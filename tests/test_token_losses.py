"""Losses of tokens: one shift, padding, packing, parts of the sequence, and their means."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import is_one_sentence

import mu_jax as mu
from mu_jax import token_losses as tl
from mu_jax.data.tokens import Tokens, TokenTargets
from mu_jax.projected import Projected

ROWS, LENGTH, WORDS = 3, 7, 5


def draws(rows=ROWS, length=LENGTH):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(rows, length, WORDS)), jnp.float32)
    tokens = jnp.asarray(rng.integers(WORDS, size=(rows, length)))
    mask = jnp.asarray(rng.integers(2, size=(rows, length)), jnp.float32).at[:, -1].set(1)
    return logits, TokenTargets(tokens, mask)


def test_a_token_is_scored_by_the_position_before_it():
    logits, targets = draws()
    found = tl.token_nll(logits, targets.tokens)
    probabilities = np.exp(np.asarray(logits)) / np.exp(np.asarray(logits)).sum(-1, keepdims=True)
    for row in range(ROWS):
        for t in range(1, LENGTH):
            expected = -np.log(probabilities[row, t - 1, targets.tokens[row, t]])
            np.testing.assert_allclose(found[row, t], expected, rtol=1e-5)
    assert not found[:, 0].any()


def test_a_constant_on_all_logits_of_a_position_changes_nothing():
    logits, targets = draws()
    moved = logits + jnp.arange(LENGTH)[:, None]
    np.testing.assert_allclose(
        tl.token_nll(moved, targets.tokens), tl.token_nll(logits, targets.tokens), atol=2e-6
    )
    for direction in ("forward", "reverse"):
        found = tl.token_kl(moved, logits, direction=direction)
        np.testing.assert_allclose(found, 0, atol=2e-6)


def test_a_token_outside_the_vocabulary_is_never_taken_for_another_one():
    logits, targets = draws()
    for bad in (-1, WORDS):
        tokens = targets.tokens.at[1, 3].set(bad)
        found, grads = jax.value_and_grad(lambda z, x: tl.token_nll(z, x).sum())(logits, tokens)
        assert jnp.isnan(found) and jnp.isnan(grads[1, 2]).all()
        masked = TokenTargets(tokens, targets.mask.at[1, 3].set(0))
        grads = jax.grad(lambda z, y: tl.scored_nll(z, y)[0].sum())(logits, masked)
        assert jnp.isfinite(grads).all()


def test_bfloat16_logits_are_summed_in_float32():
    logits, targets = draws()
    found = tl.token_nll(logits.astype(jnp.bfloat16), targets.tokens)
    assert found.dtype == jnp.float32
    rounded = logits.astype(jnp.bfloat16).astype(jnp.float32)
    np.testing.assert_allclose(found, tl.token_nll(rounded, targets.tokens), rtol=1e-6)


def padded(side, logits, targets, size=4):
    pads = (size, 0) if side == "left" else (0, size)
    junk = ((0, 0), pads)
    tokens = jnp.pad(targets.tokens, junk, constant_values=-100)
    mask = jnp.pad(targets.mask.at[:, 0].set(0), junk)
    return jnp.pad(logits, (*junk, (0, 0)), constant_values=9.0), TokenTargets(tokens, mask)


@pytest.mark.quick("right")
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(side):
    logits, targets = draws()
    loss = tl.TokenCrossEntropy()
    expected = tl.sequence_nll(logits, targets)
    found = tl.sequence_nll(*padded(side, logits, targets))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(
        loss(*padded(side, logits, targets)), expected[0] / expected[1], rtol=1e-6
    )


def test_documents_of_a_packed_row_have_the_sums_of_rows():
    logits, targets = draws(rows=2)
    targets = targets._replace(mask=targets.mask.at[:, 0].set(0))

    def packed(x):
        return jnp.concatenate([x[0], x[1], jnp.zeros_like(x[0, :2])])[None]

    segment = jnp.repeat(jnp.arange(1, 4), jnp.array([LENGTH, LENGTH, 2])).at[-2:].set(0)[None]
    row = TokenTargets(packed(targets.tokens), packed(targets.mask))
    found = tl.sequence_nll(packed(logits), row, segment, documents=3)
    expected = tl.sequence_nll(logits, targets)
    np.testing.assert_allclose(found[0], [[*expected[0], 0]], rtol=1e-6)
    np.testing.assert_array_equal(found[1], [[*expected[1], 0]])


def product(kernel, hidden):
    return hidden @ kernel


@pytest.mark.quick("10")
@pytest.mark.parametrize("chunk", [1, 3, 7, 10])
def test_parts_of_the_sequence_give_the_same_values_and_gradients(chunk):
    rng = np.random.default_rng(1)
    hidden = jnp.asarray(rng.normal(size=(ROWS, LENGTH, 4)), jnp.float32)
    matrix = jnp.asarray(rng.normal(size=(4, WORDS)), jnp.float32)
    tokens = draws()[1].tokens

    def whole(hidden, matrix):
        found = tl.token_nll(hidden @ matrix, tokens)
        return jnp.sin(found).sum(), found

    def in_parts(hidden, matrix):
        found = tl.token_nll(Projected(hidden, matrix, product, chunk), tokens)
        return jnp.sin(found).sum(), found

    (grads, expected), (others, found) = (
        jax.grad(f, (0, 1), has_aux=True)(hidden, matrix) for f in (whole, in_parts)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(grads, others):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_parts_of_the_sequence_never_hold_logits_of_a_whole_row():
    rows, length, width, words, chunk = 2, 512, 8, 1000, 32

    def temporaries(nll):
        def value(hidden, matrix, tokens):
            return nll(hidden, matrix, tokens).sum()

        shapes = (
            jax.ShapeDtypeStruct((rows, length, width), jnp.float32),
            jax.ShapeDtypeStruct((width, words), jnp.float32),
            jax.ShapeDtypeStruct((rows, length), jnp.int32),
        )
        compiled = jax.jit(jax.grad(value, (0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    def in_parts(hidden, matrix, tokens):
        return tl.token_nll(Projected(hidden, matrix, product, chunk), tokens)

    logits = 4 * rows * length * words
    assert temporaries(lambda h, w, x: tl.token_nll(h @ w, x)) > logits
    assert temporaries(in_parts) < logits / 4


def test_means_over_rows_are_means_over_tokens():
    targets = draws()[1]
    model = mu.from_function(lambda w, state, x: w[x], tl.TokenCrossEntropy())
    table = jnp.asarray(np.random.default_rng(2).normal(size=(WORDS, WORDS)), jnp.float32)
    start = mu.Variables(table)

    def mean(table):
        nll, mask = tl.scored_nll(table[targets.tokens], targets)
        return (nll * mask).sum() / mask.sum()

    for size in (1, 2, 3):
        data = mu.batches(targets.tokens, targets, batch_size=size)
        found = mu.collect(mu.statistics.mean_gradient(model), start, data).value
        np.testing.assert_allclose(found, jax.grad(mean)(table), rtol=1e-5, atol=1e-6)


def test_a_row_without_scored_tokens_counts_for_nothing():
    logits, targets = draws()
    empty = targets._replace(mask=targets.mask.at[1].set(0))
    loss = tl.TokenCrossEntropy()
    assert float(loss(logits, empty)[1]) == 0 == float(loss.counts(empty)[1])


def test_targets_without_a_mask_are_refused_in_one_sentence():
    with pytest.raises(TypeError, match="expected TokenTargets") as error:
        tl.TokenCrossEntropy()(*draws()[:1], jnp.zeros((ROWS, LENGTH), int))
    assert is_one_sentence(str(error.value))


@pytest.mark.slow
def test_reference_scores_of_rows_and_of_packed_documents():
    logits, targets = draws(rows=4)
    model = mu.from_function(lambda w, state, x: w[x.tokens], tl.TokenCrossEntropy())
    start = mu.Variables(logits[0, :WORDS])
    segment = jnp.where(jnp.arange(LENGTH) < 3, 1, 2) * jnp.ones((4, 1), int)
    inputs = Tokens(targets.tokens, jnp.zeros_like(segment), segment)
    data = mu.batches(inputs, targets, batch_size=3)
    whole = mu.objectives.reference_nll(model, start, data)
    parts = mu.objectives.reference_nll(model, start, data, documents=2)
    assert parts.shape == (4, 2)
    np.testing.assert_allclose(parts.sum(axis=1), whole, rtol=1e-6)
    expected = tl.sequence_nll(start.params[targets.tokens], targets)[0]
    np.testing.assert_allclose(whole, expected, rtol=1e-6)
