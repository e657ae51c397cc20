"""Objectives on tokens from hidden states and a head, a part of the row at a time."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.data.tokens import Preference, TokenTargets
from mu_jax.objectives import distillation, preference, segments, token_terms, weighted
from mu_jax.objectives.pairing import dealt, joined
from mu_jax.projected import Projected, at_positions
from mu_jax.token_losses import position_kl, token_nll

ROWS, LENGTH, WIDTH, WORDS = 3, 9, 4, 7
WEIGHT = jnp.array([1.0, 0.5, 2.0])


def product(kernel, hidden):
    return hidden @ kernel


def targets(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(WORDS, size=(ROWS, LENGTH))
    mask, secret = rng.integers(2, size=(2, ROWS, LENGTH)).astype(float)
    mask[:, -1] = 1
    tokens[mask == 0] = -100
    return TokenTargets(*map(jnp.asarray, (tokens, mask, secret, rng.normal(size=ROWS) + 9)))


Y, OTHER = targets(0), targets(1)
TERMS = {
    "cross entropy": lambda z, r: token_terms.token_cross_entropy(z, Y, WEIGHT),
    "npo": lambda z, r: preference.npo(z, Y, WEIGHT, beta=0.3),
    "simnpo": lambda z, r: preference.simnpo(z, Y, WEIGHT, beta=2.0, delta=0.1),
    "dpo": lambda z, r: preference.dpo(
        Preference(z, scaled(z)), Preference(Y, OTHER), WEIGHT, beta=0.3
    ),
    "wga": lambda z, r: weighted.wga(z, Y, WEIGHT, beta=0.5),
    "satimp": lambda z, r: weighted.satimp(z, Y, WEIGHT, beta1=2.0, beta2=0.5),
    "ce_u": lambda z, r: weighted.ce_u(z, Y, WEIGHT),
    "pdu": lambda z, r: weighted.flatness(z, Y, WEIGHT),
    "pdu, not shifted": lambda z, r: weighted.flatness(z, Y, WEIGHT, shifted=False),
    "kl": lambda z, r: distillation.reference_kl(z, r, Y, WEIGHT),
    "kl, reverse": lambda z, r: distillation.reference_kl(z, r, Y, WEIGHT, direction="reverse"),
    "kl, all positions": lambda z, r: distillation.reference_kl(z, r, Y, WEIGHT, positions="all"),
    "undial": lambda z, r: distillation.undial(z, r, Y, WEIGHT, beta=3.0),
    "code_eraser": lambda z, r: segments.erase(z, r, Y, WEIGHT, gamma=0.5, strength=0.4),
    "code_eraser, kept": lambda z, r: segments.keep(z, r, Y, WEIGHT, strength=0.4),
}


def scaled(outputs):
    return outputs.with_hidden(0.5 * outputs.hidden) if has_head(outputs) else 0.5 * outputs


def has_head(outputs):
    return isinstance(outputs, Projected)


def values_and_gradients(name, chunk, dtype):
    """The terms and their gradients in hidden states and head; `chunk` None: of whole logits."""
    rng = np.random.default_rng(2)
    hidden, before = jnp.asarray(rng.normal(size=(2, ROWS, LENGTH, WIDTH)), dtype)
    kernel = jnp.asarray(2 * rng.normal(size=(WIDTH, WORDS)), dtype)

    @functools.partial(jax.jit, static_argnums=2)
    def compute(hidden, kernel, chunk):
        def total(hidden, kernel):
            outputs = [Projected(x, kernel, product, chunk or 1) for x in (hidden, before)]
            outputs = outputs if chunk else [x.logits for x in outputs]
            terms = TERMS[name](*outputs)
            terms = terms if isinstance(terms, dict) else {"one": terms}
            parts = {k: (t.sum / t.weight * t.scale, t.weight) for k, t in terms.items()}
            return sum(value for value, _ in parts.values()), parts

        return jax.value_and_grad(total, (0, 1), has_aux=True)(hidden, kernel)

    return compute(hidden, kernel, chunk)


@pytest.mark.quick("npo", "dpo")
@pytest.mark.parametrize("name", TERMS)
def test_parts_of_the_sequence_give_the_same_terms_and_gradients(name):
    """With a last part that is filled up; in float32 and in float64."""
    for dtype, tolerance in ((jnp.float32, 1e-6), (jnp.float64, 1e-10)):
        with jax.enable_x64(dtype == jnp.float64):
            found = values_and_gradients(name, 4, dtype)
            expected = values_and_gradients(name, None, dtype)
        for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            assert one.dtype == other.dtype and np.abs(other).max() > 0
            size = np.abs(other).max()
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * size)


def test_rows_that_are_no_longer_than_a_part_are_the_bits_of_whole_logits():
    for one, other in zip(
        *(jax.tree.leaves(values_and_gradients("npo", chunk, jnp.float32)) for chunk in (9, None))
    ):
        np.testing.assert_array_equal(one, other)


def test_heads_of_two_widths_and_other_arrays_go_along():
    rng = np.random.default_rng(3)
    small, large = (jnp.asarray(rng.normal(size=(2, 5, d)), jnp.float32) for d in (2, 6))
    heads = [jnp.asarray(rng.normal(size=(d, WORDS)), jnp.float32) for d in (2, 6)]
    tokens = jnp.asarray(rng.integers(WORDS, size=(2, 5)))
    both = [Projected(x, w, product, chunk) for x, w, chunk in zip((small, large), heads, (9, 2))]
    np.testing.assert_allclose(
        position_kl(*both), position_kl(*(x.logits for x in both)), rtol=1e-5, atol=1e-6
    )

    def pick(logits, tokens, factor):
        return {"found": jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0] * factor}

    factor = jnp.arange(10.0).reshape(2, 5)
    found = at_positions(pick, both[1], tokens, factor)
    expected = pick(both[1].logits, tokens, factor)["found"]
    np.testing.assert_allclose(found["found"], expected, rtol=1e-5)


def test_rows_are_dealt_and_joined_and_heads_are_not():
    hidden = jnp.arange(24.0).reshape(4, 3, 2)
    outputs = Projected(hidden, jnp.eye(2), product, chunk=2)
    parts = dealt(outputs, 2)
    np.testing.assert_array_equal(parts[1].hidden, hidden[1::2])
    assert parts[1].kernel.shape == (2, 2)
    np.testing.assert_array_equal(joined(parts).hidden, hidden)
    assert token_nll(joined(parts), jnp.zeros((4, 3), int)).shape == (4, 3)
