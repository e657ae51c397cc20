"""ECO on a decoder: which prompts are corrupted, where, and what stays as it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import counted_compilations
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.data.tokens import Tokens, TokenTargets
from mu_jax.models import decoder as decoders
from mu_jax.suppression import Corruption, Prompts, Strength, corrupt, eco, gated, prompt_tokens

KEY = jax.random.key(0)
CONFIG = decoders.DecoderConfig(
    "llama",
    vocab_size=32,
    width=8,
    depth=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_width=16,
    max_positions=64,
)
DECODER = decoders.Decoder(CONFIG, scan_layers=True)
PARAMS = jax.tree.map(lambda x: 10 * x, DECODER.init(KEY).params)
LOSS = mu.token_losses.TokenCrossEntropy()
ROWS = jax.random.randint(jax.random.key(5), (3, 6), 0, 32)
ASKS = jnp.array([0.2, 0.999, 0.995])
STRENGTH = Strength(jax.random.key(1), 0.7, 3)


def test_the_gate_fires_above_its_threshold_and_leaves_the_last_token():
    found = gated(ROWS, ASKS, 0.995)
    assert found.corrupted.tolist() == [[False] * 6, [True] * 5 + [False], [False] * 6]
    mask = np.zeros((3, 6))
    mask[:, 2] = 1
    found = gated(ROWS, ASKS, token_mask=mask)
    assert found.corrupted.tolist() == [[False] * 6, mask[1].tolist(), mask[2].tolist()]


def packed(*fields):
    return Tokens(*(jnp.array([x]) for x in fields))


def test_prompts_of_padded_and_packed_rows():
    left = packed([0, 0, 5, 6, 7], [0, 0, 0, 1, 2], [0, 0, 1, 1, 1])
    assert prompt_tokens(left)[0].tolist() == [False, False, True, True, False]
    two = packed([5, 6, 7, 9, 8, 4, 3, 0], [0, 1, 2, 0, 1, 2, 3, 0], [1, 1, 1, 2, 2, 2, 2, 0])
    assert np.flatnonzero(prompt_tokens(two)[0]).tolist() == [0, 1, 3, 4, 5]
    mask = jnp.array([[0.0, 0, 1, 0, 0, 0, 1, 0]])  # answers at 2, and at 6
    found = prompt_tokens(two, TokenTargets(two.tokens, mask))
    assert np.flatnonzero(found[0]).tolist() == [0, 3, 4]
    mask = jnp.array([[0.0, 1, 1, 0, 1, 1, 1, 0]])  # prompts of one token
    assert not prompt_tokens(two, TokenTargets(two.tokens, mask)).any()


@pytest.mark.quick("reverse_order")
@pytest.mark.parametrize("kind", ["zero_out_top_k", "rand_noise_first_n", "reverse_order"])
def test_logits_are_those_of_corrupted_embeddings(kind):
    inputs = gated(ROWS, ASKS)
    model = eco(DECODER, LOSS, kind)
    found = model.apply(mu.Variables(PARAMS, STRENGTH), inputs)
    plain = DECODER.logits(PARAMS, ROWS)
    np.testing.assert_array_equal(found[0], plain[0])
    mask = np.asarray(prompt_tokens(ROWS))
    for row in (1, 2):
        own = jax.random.fold_in(STRENGTH.key, row)
        wanted = DECODER.logits(
            PARAMS,
            ROWS[row : row + 1],
            embedding_transform=lambda x, own=own, row=row: corrupt(
                own, x, mask[row : row + 1], 0.7, kind, dims=3
            ),
        )
        np.testing.assert_allclose(found[row], wanted[0], rtol=1e-4, atol=1e-5)
        assert np.abs(found[row] - plain[row]).max() > 1e-2


def test_noise_belongs_to_the_number_of_a_row_not_to_its_batch():
    model = eco(DECODER, LOSS)
    variables = mu.Variables(PARAMS, STRENGTH)
    whole = model.apply(variables, gated(ROWS, ASKS, draw=jnp.array([7, 8, 9])))
    alone = model.apply(variables, gated(ROWS[1:2], ASKS[1:2], draw=jnp.array([8])))
    np.testing.assert_allclose(alone[0], whole[1], rtol=1e-4, atol=1e-5)
    other = STRENGTH._replace(key=jax.random.key(2))
    again = model.apply(mu.Variables(PARAMS, other), gated(ROWS, ASKS, draw=jnp.array([7, 8, 9])))
    assert (again[1] != whole[1]).any() and (again[0] == whole[0]).all()


@pytest.mark.slow
def test_texts_are_read_corrupted_and_written_without():
    """The cache holds the corrupted prompt, and new tokens have their own embeddings."""
    inputs, new, length = gated(ROWS, ASKS), 4, ROWS.shape[1]
    kind = "zero_out_top_k"
    hook = Corruption.of(inputs, STRENGTH, kind)
    found = decoders.decode(DECODER, PARAMS, ROWS, max_new=new, embedding_transform=hook).tokens
    apply = jax.jit(eco(DECODER, LOSS, kind).apply)
    text, mask = (jnp.pad(x, ((0, 0), (0, new))) for x in (ROWS, inputs.corrupted))
    position = jnp.broadcast_to(jnp.arange(length + new), text.shape)
    for end in range(length, length + new):  # by one whole forward pass a token
        tokens = Tokens(text, position, (position < end).astype(int))
        logits = apply(mu.Variables(PARAMS, STRENGTH), Prompts(tokens, mask, inputs.draw))
        text = text.at[:, end].set(logits[:, end - 1].argmax(axis=-1))
    np.testing.assert_array_equal(found, text[:, length:])
    plain = decoders.decode(DECODER, PARAMS, ROWS, max_new=new).tokens
    assert (found[0] == plain[0]).all() and (found != plain).any()


def test_other_prompts_strengths_and_gates_compile_nothing():
    def texts(rows, asks, strength):
        hook = Corruption.of(gated(rows, asks), strength, "rand_noise_top_k")
        return decoders.decode(DECODER, PARAMS, rows, max_new=3, embedding_transform=hook).tokens

    texts(ROWS, ASKS, STRENGTH)
    other = jnp.flip(ROWS), jnp.flip(ASKS), STRENGTH._replace(strength=2.0)
    with counted_compilations() as events:
        found = texts(*other)
    assert not events and (np.asarray(found) >= 0).all()


@pytest.mark.slow
def test_strengths_map_in_one_program():
    model, inputs = eco(DECODER, LOSS, "rand_noise_first_n"), gated(ROWS, ASKS)

    def logits(strength):
        state = STRENGTH._replace(strength=strength)
        return model.apply(mu.Variables(PARAMS, state), inputs)

    many = jax.vmap(logits)(jnp.array([0.0, 3.0]))
    np.testing.assert_allclose(many[0], DECODER.logits(PARAMS, ROWS), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(many[1], logits(3.0), rtol=1e-4, atol=1e-5)


def test_a_set_of_prompts_is_evaluated_as_any_other():
    """The gate is data, so that batches and metrics take it as it is."""
    targets = TokenTargets(ROWS, jnp.zeros((3, 6)).at[:, -1].set(1))
    mask = prompt_tokens(ROWS, targets)
    inputs = gated(ROWS, ASKS, token_mask=mask)
    data = mu.batches(inputs, targets, batch_size=2)
    model, start = eco(DECODER, LOSS, "zero_out_first_n"), mu.Variables(PARAMS, STRENGTH)
    found = mu.outputs(model, start, data)
    np.testing.assert_allclose(found, model.apply(start, inputs), rtol=1e-4, atol=1e-5)


REFUSED = {
    "expected a kind among": lambda: eco(DECODER, LOSS, "noise"),
    "expected one probability for each of 3 rows": lambda: gated(ROWS, ASKS[:2]),
    "expected embeddings": lambda: eco(DECODER, LOSS).apply(
        mu.Variables(PARAMS, STRENGTH), gated(ROWS, ASKS)._replace(corrupted=jnp.ones((3, 4)))
    ),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(says):
    with pytest.raises(ValueError, match=says) as error:
        REFUSED[says]()
    assert is_one_sentence(str(error.value))
