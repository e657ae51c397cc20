"""The sentence-pair LSTM: padding, sharing, and the recursion in plain arithmetic."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.models import SentencePairLSTM

LSTM = SentencePairLSTM(
    num_words=9, embedding_size=5, hidden_size=4, features=(6, 5, 3), dropout=0.0
)
WORDS = np.array([[[0, 0, 3, 8], [0, 1, 5, 2]], [[7, 6, 5, 4], [0, 0, 0, 3]]], np.int32)


@partial(jax.jit, static_argnums=0)
def observe(module, variables, inputs):
    outputs, sown = module.apply(variables, inputs, mutable=["intermediates"])
    return outputs, {name: value[0] for name, value in sown["intermediates"].items()}


@pytest.fixture(scope="module")
def lstm(filled):
    return filled(LSTM, WORDS)


def test_lstm_is_the_recursion(lstm):
    params = jax.device_get(lstm["params"])
    step = jax.jit(nn.OptimizedLSTMCell(4).apply)

    def read(codes):
        carry = (np.zeros(4, np.float32), np.zeros(4, np.float32))
        for code in [code for code in codes if code]:
            vector = params["embedding"]["embedding"][code]
            carry, _ = step({"params": params["lstm"]["cell"]}, carry, vector)
        return carry[1]

    outputs, _ = observe(LSTM, lstm, WORDS)
    assert outputs.shape == (2, 1) and outputs.dtype == jnp.float32
    for pair, output in zip(WORDS.tolist(), outputs):
        x = np.concatenate([read(sentence) for sentence in pair])
        for name in ("dense_0", "dense_1", "dense_2"):
            x = np.maximum(x @ params[name]["kernel"] + params[name]["bias"], 0)
        expected = x @ params["head"]["kernel"] + params["head"]["bias"]
        np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def shifted(words, before, after):
    """The same sentences with the padding elsewhere, and more of it."""
    longest = words.shape[-1]
    moved = np.zeros((*words.shape[:2], before + longest + after), np.int32)
    for i, j in np.ndindex(*words.shape[:2]):
        kept = words[i, j][words[i, j] > 0]
        moved[i, j, before : before + len(kept)] = kept
    return moved


@pytest.mark.quick("0-0")
@pytest.mark.parametrize(("before", "after"), [(0, 0), (3, 0), (2, 4)])
def test_padding_changes_nothing(lstm, before, after):
    def loss(params, words):
        return (LSTM.apply({"params": params}, words) ** 2).sum()

    value_and_gradient = jax.jit(jax.value_and_grad(loss))
    expected = value_and_gradient(lstm["params"], WORDS)
    found = value_and_gradient(lstm["params"], shifted(WORDS, before, after))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)
    assert not np.any(expected[1]["embedding"]["embedding"][0])
    # The map of attention transfer over hidden units: mean square over time, normalized.
    maps = []
    for words in (WORDS, shifted(WORDS, before, after)):
        squares = (observe(LSTM, lstm, words)[1]["sentence_0"] ** 2).mean(1)
        maps.append(squares / np.linalg.norm(squares, axis=1, keepdims=True))
    np.testing.assert_allclose(*maps, rtol=1e-5, atol=1e-6)


def test_a_sentence_of_padding_alone_is_the_initial_state(lstm):
    words = np.zeros((1, 2, 4), np.int32)
    outputs, sown = observe(LSTM, lstm, words)
    assert np.isfinite(outputs).all() and not np.any(sown["sentence_0"])
    gradient = jax.jit(jax.grad(lambda v: LSTM.apply(v, words).sum()))(lstm)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_word_vectors_are_the_same_as_their_codes(lstm):
    module = LSTM.clone(num_words=None)
    params = dict(lstm["params"])
    table = params.pop("embedding")["embedding"]
    vectors = np.where(WORDS[..., None] > 0, table[WORDS], 0)
    found = jax.jit(module.apply)({"params": params}, vectors)
    np.testing.assert_allclose(found, jax.jit(LSTM.apply)(lstm, WORDS), rtol=1e-5, atol=1e-6)


def test_both_sentences_are_read_by_one_lstm(lstm):
    swapped = observe(LSTM, lstm, WORDS[:, ::-1])[1]
    sown = observe(LSTM, lstm, WORDS)[1]
    np.testing.assert_allclose(swapped["sentence_0"], sown["sentence_1"], rtol=1e-6)
    assert sown["sentence_0"].shape == (2, 4, 4)
    assert [sown[name].shape for name in ("linear_0", "linear_1")] == [(2, 6), (2, 5)]
    assert (sown["linear_0"] < 0).any()  # before ReLU


def test_defaults_are_those_of_the_reference():
    module = SentencePairLSTM()
    vectors = jnp.zeros((1, 2, 10, 300))
    params = jax.eval_shape(module.init, jax.random.key(0), vectors)["params"]
    counts = 4 * 64 * (300 + 64 + 1), 129 * 64, 65 * 32, 33 * 16, 17
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == sum(counts)


@pytest.mark.parametrize(
    ("module", "inputs", "message"),
    [
        (LSTM, np.zeros((2, 3, 4), np.int32), r"found int32\[2, 3, 4\]: stack the two"),
        (LSTM, np.zeros((2, 2, 4), np.float32), r"found float32\[2, 2, 4\]"),
        (SentencePairLSTM(), WORDS, "expected num_words for word codes, found None"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(module, inputs, message):
    with pytest.raises(ValueError, match=message):
        module.init(jax.random.key(0), inputs)


def test_examples_do_not_meet(lstm):
    changed = WORDS.copy()
    changed[1, 0] = 3
    outputs, _ = observe(LSTM, lstm, WORDS)
    others, _ = observe(LSTM, lstm, changed)
    assert outputs[0] == others[0] and outputs[1] != others[1]
    reversed_outputs, _ = observe(LSTM, lstm, WORDS[::-1])
    np.testing.assert_allclose(reversed_outputs, outputs[::-1], rtol=1e-6)


@pytest.mark.slow
def test_training_draws_dropout_and_gives_finite_gradients(lstm):
    dropping = LSTM.clone(dropout=0.5)

    @jax.jit
    def gradient(key):
        def loss(params):
            rngs = {"dropout": key}
            return (dropping.apply({"params": params}, WORDS, train=True, rngs=rngs) ** 2).sum()

        return jax.value_and_grad(loss)(lstm["params"])

    values = [gradient(jax.random.key(seed)) for seed in (0, 0, 1)]
    assert values[0][0] == values[1][0] != values[2][0]
    leaves = jax.tree.leaves(values[0])
    assert all(np.isfinite(leaf).all() for leaf in leaves) and any(map(np.any, leaves[1:]))
    assert "random_bits" not in str(jax.make_jaxpr(dropping.apply)(lstm, WORDS))


def test_half_precision_keeps_float32_parameters_and_outputs():
    half = LSTM.clone(dtype=jnp.bfloat16)
    variables = jax.eval_shape(half.init, jax.random.key(0), WORDS)
    outputs, sown = jax.eval_shape(partial(observe, half), variables, WORDS)
    assert outputs.dtype == jnp.float32 and sown["features"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_importance_on_a_mesh_is_that_of_one_device(lstm):
    if jax.device_count() < 2:
        pytest.skip("needs two devices")

    def loss(outputs, targets):
        return (outputs**2).reshape(len(targets), -1).sum(1)

    statistic = mu.statistics.importance(mu.from_linen(LSTM, loss))
    data = mu.batches(WORDS, np.zeros(len(WORDS), np.float32), batch_size=2)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("data",), axis_types=auto, devices=jax.devices()[:2])
    one, two = (mu.collect(statistic, lstm, d).value for d in (data, data.replace(mesh=mesh)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, two)
