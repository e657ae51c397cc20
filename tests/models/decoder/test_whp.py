"""WHP at decoding: golden numbers, and texts that are written by two models."""

from __future__ import annotations

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import counted_compilations
from golden_files import load
from trees import is_one_sentence

from mu_jax.data.tokens import TokenTargets
from mu_jax.loops.gradients import total
from mu_jax.models.decoder import decode, whp
from mu_jax.objectives.token_terms import token_cross_entropy


def cross_entropy(logits, tokens, mask):
    """The mean over the scored tokens of all rows."""
    targets = TokenTargets(jnp.asarray(tokens), jnp.asarray(mask, float))
    return total({"": token_cross_entropy(logits, targets, jnp.ones(len(tokens)))})


def test_the_number_of_a_small_case():
    """B=2, T=6, V=7: L are the logits of the base, R those of the over-trained model."""
    b, t, v = np.meshgrid(*map(np.arange, (2, 6, 7)), indexing="ij")
    base = 2 * np.sin(0.7 * b + 1.3 * t + 0.9 * v)
    over = 2 * np.cos(0.5 * b + 1.1 * t + 0.4 * v)
    tokens = (3 * b + 2 * t + 1)[..., 0] % 7
    mask = np.array([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]])
    with jax.enable_x64(True):
        plain = cross_entropy(jnp.asarray(base), tokens, mask)
        np.testing.assert_allclose(plain, 2.724925, atol=1e-6)
        found = whp(5.0)(jnp.asarray(base), jnp.asarray(over))
        np.testing.assert_allclose(found, base - 5 * np.maximum(over - base, 0), rtol=1e-14)
        np.testing.assert_allclose(cross_entropy(found, tokens, mask), 3.787184, atol=1e-6)
        np.testing.assert_array_equal(whp(0.0)(jnp.asarray(base), jnp.asarray(over)), base)


def test_the_published_program():
    found = load("lm_objectives.npz")
    with jax.enable_x64(True):
        over, base = (jnp.asarray(found[f"forget/{name}"]) for name in ("ref_logits", "logits"))
        tokens, mask = found["forget/tokens"], found["forget/labels"] != -100
        change = whp(float(found["hp/whp_alpha"]))
        cases = [(base, over), (over, base)]
        chosen = [np.allclose(change(*case), found["whp/logits"], rtol=1e-12) for case in cases]
        assert chosen.count(True) == 1
        base, over = cases[chosen.index(True)]

        def loss(base):
            return cross_entropy(change(base, over), tokens, mask)

        value, grads = jax.value_and_grad(loss)(base)
        np.testing.assert_allclose(value, found["whp/loss"], rtol=1e-9)
        np.testing.assert_allclose(grads, found["whp/grad_baseline"], rtol=1e-9, atol=1e-13)


@pytest.mark.slow
def test_texts_are_those_of_both_models_and_alpha_may_be_traced(tiny):
    decoder, params = tiny("qwen3", scan_layers=True)
    over = jax.tree.map(lambda x: 1.2 * x, params)
    prompts = jnp.asarray(checkpoints.rows()[:2, :6])

    def texts(alpha):
        transform = whp(alpha)
        return decode(
            decoder, params, prompts, max_new=6, logits_transform=transform, also=[over]
        ).tokens

    def without_cache(alpha):
        rows = prompts
        for _ in range(6):
            logits = (decoder.logits(p, rows)[:, -1] for p in (params, over))
            base, more = logits
            token = (base - alpha * jax.nn.relu(more - base)).argmax(-1)
            rows = jnp.concatenate([rows, token[:, None].astype(rows.dtype)], axis=1)
        return rows[:, 6:]

    plain = decode(decoder, params, prompts, max_new=6).tokens
    np.testing.assert_array_equal(texts(0.0), plain)
    with counted_compilations() as count:
        texts(1.0)
    assert count == []
    np.testing.assert_array_equal(texts(2.0), without_cache(2.0))
    assert (texts(2.0) != plain).any()
    grid = jax.jit(jax.vmap(texts))(jnp.array([0.0, 2.0]))
    np.testing.assert_array_equal(grid, [plain, texts(2.0)])


def test_bfloat16_logits_are_combined_in_float32():
    base, over = (jnp.array([x], jnp.bfloat16) for x in (1.0, 1.0078125))
    found = whp(0.5)(base, over)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, [1 - 0.5 * 0.0078125])


def test_models_of_two_vocabularies_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="logits of one shape from both models") as error:
        whp(1.0)(jnp.zeros((2, 7)), jnp.zeros((2, 8)))
    assert is_one_sentence(str(error.value))
    with pytest.raises(ValueError, match="expected alpha >= 0"):
        whp(-1.0)
