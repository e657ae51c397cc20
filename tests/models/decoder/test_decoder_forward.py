"""Rows, blocks and forms of a decoder: what must not change its numbers, and what must."""

from __future__ import annotations

import functools

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.data.tokens import Tokens
from mu_jax.models.decoder import Decoder, DecoderConfig, stack_blocks, unstack_blocks

ROWS = checkpoints.rows()
KEY = jax.random.key(0)


def tokens_of(*documents, length, left=0):
    """One row of packed documents behind `left` tokens of padding."""
    row = np.full((3, length), 60)  # ids of padding are those of a real token
    row[1:] = 0
    start = left
    for number, document in enumerate(documents, 1):
        place = slice(start, start + len(document))
        row[0, place], row[1, place], row[2, place] = document, range(len(document)), number
        start += len(document)
    return Tokens(*(jnp.array(each[None], jnp.int32) for each in row))


@pytest.mark.parametrize("name", ["llama3", "mistral"])
def test_packed_and_padded_rows_are_single_rows(name, tiny, log_probabilities):
    decoder, params = tiny(name, scan_layers=True)
    first, second = ROWS[0, :7], ROWS[1, :12]
    rows = [
        tokens_of(first, second, length=24),
        tokens_of(first, length=24, left=17),
        tokens_of(first, length=24),
        tokens_of(second, length=24),
    ]
    rows = jax.tree.map(lambda *x: jnp.concatenate(x), *rows)
    packed, left, alone, other = log_probabilities(decoder, params, rows)
    np.testing.assert_allclose(packed[:7], alone[:7], atol=2e-5)
    np.testing.assert_allclose(packed[7:19], other[:12], atol=2e-5)
    np.testing.assert_allclose(left[17:], alone[:7], atol=2e-5)
    assert np.abs(packed[7:19] - alone[7:19]).max() > 1
    assert np.isfinite(packed).all() and np.isfinite(left).all()


@pytest.mark.parametrize("name", ["llama3", "qwen2"])
def test_scanned_blocks_are_unrolled_blocks(name, tiny, log_probabilities):
    found = [log_probabilities(*tiny(name, scan_layers=scan), ROWS) for scan in (False, True)]
    np.testing.assert_allclose(*found, atol=2e-5)


def test_stacking_and_its_inverse(tiny):
    _, params = tiny("qwen3")
    stacked = stack_blocks(params)
    assert "block_0" not in stacked and stacked["blocks"]["mlp"]["down"].shape == (3, 40, 24)
    jax.tree.map(np.testing.assert_array_equal, unstack_blocks(stacked), params)


@pytest.mark.parametrize("scan", [False, True])
def test_hidden_states_are_what_is_observed_and_no_further_block_is_run(scan, tiny):
    decoder, params = tiny("llama2", scan_layers=scan)
    model = decoder.model(mu.losses.cross_entropy)
    _, observed = jax.jit(model.observe)(params, (), as_rows())
    assert list(observed) == ["block_0", "block_1", "block_2"]
    broken = jax.tree.map(jnp.copy, params)
    behind = broken["blocks"] if scan else broken["block_2"]
    down = behind["mlp"]["down"]
    behind["mlp"]["down"] = down.at[2].set(jnp.nan) if scan else down * jnp.nan
    hidden = jax.jit(lambda p: decoder.hidden(p, as_rows(), stop=1))(broken)
    np.testing.assert_allclose(hidden, observed["block_1"], atol=2e-5)
    last = jax.jit(decoder.model(mu.losses.cross_entropy, head=False).observe)(
        broken, (), as_rows()
    )
    assert not np.isfinite(last[0]).any()


def as_rows():
    return tokens_of(ROWS[0], length=24)


def test_a_model_without_a_head_and_a_transform_of_embeddings(tiny):
    decoder, params = tiny("llama3", scan_layers=True)
    variables = mu.Variables(params)

    def of(head):
        model = decoder.model(mu.losses.cross_entropy, head=head)
        return np.asarray(jax.jit(model.apply)(variables, as_rows()))

    hidden, logits = of(head=False), of(head=True)
    assert hidden.shape == (1, 24, 24)
    piece = jax.jit(decoder.head)(params, hidden[:, 3:9])
    np.testing.assert_allclose(piece, logits[:, 3:9], atol=2e-5)
    double = {**params, "embedding": 2 * params["embedding"]}
    states = jax.jit(decoder.hidden, static_argnames="embedding_transform")
    by_hook = states(params, as_rows(), embedding_transform=lambda x: 2 * x)
    np.testing.assert_allclose(by_hook, states(double, as_rows()), atol=2e-5)
    assert np.abs(by_hook - hidden).max() > 0.1


def test_equal_decoders_give_one_model(tiny):
    loss = mu.losses.cross_entropy
    first, second = (tiny("llama3", remat=True)[0] for _ in range(2))
    assert first is not second and first.model(loss) is second.model(loss)
    assert first.model(loss) != first.model(loss, head=False)


@pytest.mark.slow
@pytest.mark.quick("True")
@pytest.mark.parametrize("scan", [False, True])
def test_rematerialized_blocks_have_the_same_gradient_and_keep_less(scan, tiny):
    def gradient(remat):
        decoder, params = tiny("qwen2", scan_layers=scan, remat=remat)

        def loss(params):
            return jnp.square(decoder.logits(params, ROWS)).mean()

        return jax.jit(jax.grad(loss)), params

    (plain, params), (again, _) = gradient(False), gradient(True)
    one, two = plain(params), again(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), one, two)
    text = [str(jax.make_jaxpr(each)(params)) for each in (plain, again)]
    assert ["remat" in each or "checkpoint" in each for each in text] == [False, True]


@pytest.mark.slow
def test_the_type_of_the_computation(tiny, log_probabilities):
    decoder, params = tiny("llama3", scan_layers=True, dtype=jnp.bfloat16)
    assert decoder.hidden(params, as_rows(), stop=0).dtype == jnp.bfloat16
    found = log_probabilities(decoder, params, ROWS)
    exact = log_probabilities(*tiny("llama3", scan_layers=True), ROWS)
    assert found.dtype == jnp.float32
    assert 1e-4 < np.abs(found - exact).mean() < 0.2


def test_ids_of_a_narrow_type():
    sizes = {"width": 4, "depth": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 4}
    config = DecoderConfig("llama", vocab_size=300, mlp_width=4, max_positions=8, **sizes)
    decoder = Decoder(config)
    shapes = jax.eval_shape(decoder.init, KEY).params
    params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes)
    params["embedding"] *= np.arange(300, dtype=np.float32)[:, None]
    hidden = jax.jit(functools.partial(decoder.hidden, stop=0))
    found = hidden(params, np.array([[5, 127]], np.int8))
    wanted = hidden(params, np.array([[5, 127]]))
    np.testing.assert_array_equal(found, wanted)


def test_the_form_of_new_variables(tiny):
    decoder, params = tiny("qwen3")
    found = jax.eval_shape(functools.partial(decoder.init, dtype=jnp.bfloat16), jax.random.key(0))
    assert jax.tree.map(jnp.shape, found.params) == jax.tree.map(jnp.shape, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(jnp.bfloat16)}


@pytest.mark.slow
def test_new_variables_are_the_same_stacked_and_unrolled(tiny):
    config = tiny("qwen2")[0].config
    both = (Decoder(config, scan_layers=scan) for scan in (False, True))
    one, two = (each.init(jax.random.key(3)).params for each in both)
    jax.tree.map(np.testing.assert_array_equal, stack_blocks(one), two)
    assert 0.018 < one["embedding"].std() < 0.022
    assert (one["norm"] == 1).all() and (one["block_1"]["attention"]["key_bias"] == 0).all()
    assert np.abs(two["blocks"]["mlp"]["up"][0] - two["blocks"]["mlp"]["up"][1]).max() > 0.01


@pytest.mark.slow
def test_an_ensemble_is_its_models(tiny, log_probabilities):
    decoder, params = tiny("llama2", scan_layers=True)
    both = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x]), params)
    found = jax.jit(jax.vmap(decoder.logits, (0, None)))(both, ROWS)
    one = log_probabilities(decoder, jax.tree.map(lambda x: 1.1 * x, params), ROWS)
    np.testing.assert_allclose(jax.nn.log_softmax(found[1]), one, atol=1e-4)


@pytest.mark.slow
def test_a_fine_tuning_step_through_the_library(tiny):
    decoder, params = tiny("llama3", scan_layers=True)

    def loss(logits, targets):
        values = jax.nn.log_softmax(logits)[:, :-1]
        return -jnp.take_along_axis(values, targets[:, 1:, None], axis=2).mean((1, 2))

    rows = jax.tree.map(lambda x: jnp.repeat(x, 4, 0), as_rows())
    data = mu.batches(rows, rows.tokens, batch_size=2)
    import optax

    tune = mu.finetune(decoder.model(loss), optax.sgd(0.1), epochs=3)
    variables = mu.Variables(params)
    after, _ = tune(jax.random.key(0), variables, *mu.split(data, [0]))
    batch = data.at(0)
    model = decoder.model(loss)
    assert model.losses(after, batch).mean() < 0.9 * model.losses(variables, batch).mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": 61}, "expected tokens from 0 to 60, found 61 in row 0, column 3"),
        ({"tokens": -1}, "expected tokens from 0 to 60, found -1 in row 0, column 3"),
        ({"position": 96}, "expected positions from 0 to 95, found 96 in row 0, column 3"),
    ],
)
def test_tokens_and_positions_beyond_the_model_are_refused_or_not_a_number(change, message, tiny):
    decoder, params = tiny("llama2", scan_layers=True)
    ((name, value),) = change.items()
    rows = as_rows()
    rows = rows._replace(**{name: getattr(rows, name).at[0, 3].set(value)})
    with pytest.raises(ValueError, match=message):
        decoder.logits(params, rows)
    if name == "tokens":
        found = jax.jit(decoder.logits)(params, rows)
        assert np.isnan(found[0, 3:]).all()
    padding = rows._replace(segment=rows.segment.at[0, 3].set(0))
    assert np.isfinite(jax.jit(decoder.logits)(params, padding)).all()


@pytest.mark.parametrize(
    ("case", "error", "message"),
    [
        ("long", ValueError, "expected rows of at most 96 tokens, found 97"),
        ("flat", ValueError, r"of one shape \[B, T\], found \(24,\)"),
        ("float", ValueError, "expected tokens of whole numbers, found float32"),
        ("variables", TypeError, "pass variables.params"),
        ("form", ValueError, "scan_layers=True, found .*: convert them by stack_blocks"),
        ("stop", IndexError, "expected stop from 0 to 2, found 3"),
    ],
)
def test_refused_in_one_sentence(case, error, message, tiny):
    decoder, params = tiny("llama2", scan_layers=True)
    rows, stop = ROWS, None
    if case == "long":
        rows = np.zeros((1, 97), np.int32)
    elif case == "flat":
        rows = ROWS[0]
    elif case == "float":
        rows = ROWS.astype(np.float32)
    elif case == "variables":
        params = mu.Variables(params)
    elif case == "form":
        params = tiny("llama2")[1]
    else:
        stop = 3
    with pytest.raises(error, match=message) as raised:
        decoder.hidden(params, rows, stop=stop)
    assert "\n" not in str(raised.value)
