"""Adapters as trees: what they add to kernels, and what is refused."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trees import assert_close, is_one_sentence

import mu_jax as mu
from mu_jax import adapters as lora
from mu_jax.data.tokens import Tokens
from mu_jax.models import decoder as decoders

KEY = jax.random.key(0)
CONFIG = decoders.DecoderConfig(
    "qwen2",
    vocab_size=32,
    width=8,
    depth=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_width=16,
    max_positions=64,
)
ROWS = jax.random.randint(jax.random.key(5), (4, 6), 0, 32)


def normal(key, tree):
    """A tree of these shapes with no entry zero."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    drawn = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves)]
    return jax.tree.unflatten(structure, drawn)


def decoder_with_adapters(scan_layers, rank=2):
    """A decoder, its parameters, and adapters of all of its linear layers."""
    decoder = decoders.Decoder(CONFIG, scan_layers=scan_layers)
    params = decoder.init(KEY).params
    params = jax.tree.map(lambda x: 10 * x, params)
    found = lora.new_adapters(KEY, params, rank=rank, chosen=decoders.is_linear)
    return decoder, params, normal(jax.random.key(1), found)


@functools.partial(jax.jit, static_argnums=0)
def logits(decoder, params, rows):
    return decoder.logits(params, rows)


def unstacked(adapters):
    """Adapters of stacked blocks as those of blocks apart."""
    return {
        name.replace("blocks", f"block_{k}"): jax.tree.map(lambda x, k=k: x[k], pair)
        for name, pair in adapters.items()
        for k in range(CONFIG.depth)
    }


def test_new_adapters_are_of_matrices_and_start_at_zero():
    params = {"w": jnp.ones((3, 5)), "b": jnp.ones(5), "stack": jnp.ones((4, 3, 5), jnp.bfloat16)}
    found = lora.new_adapters(KEY, params, rank=2)
    assert jax.tree.map(jnp.shape, found) == {
        "w": lora.LowRank((2, 3), (2, 5)),
        "stack": lora.LowRank((4, 2, 3), (4, 2, 5)),
    }
    for pair in found.values():
        assert pair.a.dtype == pair.b.dtype == jnp.float32
        assert (pair.b == 0).all() and len(np.unique(pair.a)) == pair.a.size
        assert np.abs(pair.a).max() <= 3**-0.5
    assert np.abs(found["stack"].a).max() > 0.4  # of a uniform draw up to 0.577


@pytest.mark.slow
def test_the_linear_layers_of_a_decoder_are_those_of_the_publication():
    for scan_layers, folder, times in ((True, "blocks", 1), (False, "block_1", CONFIG.depth)):
        _, _, found = decoder_with_adapters(scan_layers)
        kinds = "attention/query attention/key attention/value attention/out mlp/gate mlp/up"
        wanted = {f"{folder}/{kind}" for kind in [*kinds.split(), "mlp/down"]}
        assert wanted <= set(found) and len(found) == 7 * times


def assert_same_logits(found, wanted):
    """Equal but for rounding, whose size is that of the largest logit on every processor."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-4 * np.abs(wanted).max())


def test_a_merged_kernel_is_the_sum():
    rng = np.random.default_rng(0)
    kernel, a, b = (rng.normal(size=s) for s in ((4, 3, 5), (4, 2, 3), (4, 2, 5)))
    pair = lora.LowRank(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    params = {"w": jnp.asarray(kernel, jnp.float32), "other": jnp.ones(3)}
    found = lora.merged(params, {"w": pair}, 0.75)
    wanted = np.stack([w + 0.75 * x.T @ y for w, x, y in zip(kernel, a, b)])
    np.testing.assert_allclose(found["w"], wanted, rtol=1e-5, atol=1e-6)
    assert found["other"] is params["other"]


@pytest.mark.quick("True")
@pytest.mark.parametrize("scan_layers", [False, True])
def test_a_factored_decoder_is_the_merged_one(scan_layers):
    decoder, params, adapters = decoder_with_adapters(scan_layers)
    before = logits(decoder, params, ROWS)
    wanted = logits(decoder, lora.merged(params, adapters, 0.3), ROWS)
    found = logits(decoder, lora.factored(params, adapters, 0.3), ROWS)
    assert np.abs(wanted - before).max() > 0.1
    assert_same_logits(found, wanted)


def test_a_gate_gives_each_row_its_share():
    decoder, params, adapters = decoder_with_adapters(True)
    weight = jnp.array([0.0, 0.35, 1.0, 1.2])
    wanted = [
        logits(decoder, lora.merged(params, adapters, 0.3 * w), ROWS[k : k + 1])[0]
        for k, w in enumerate(weight)
    ]
    found = logits(decoder, lora.factored(params, adapters, 0.3, weight), ROWS)
    assert_same_logits(found, np.stack(wanted))
    np.testing.assert_allclose(found[0], logits(decoder, params, ROWS)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_gated_texts_are_those_of_merged_kernels():
    decoder, params, adapters = decoder_with_adapters(True)
    weight = jnp.array([0.0, 1.0, 0.4, 1.2])
    found = decoders.decode(
        decoder, lora.factored(params, adapters, 0.3, weight), ROWS, max_new=5
    ).tokens
    for k, w in enumerate(weight):
        alone = lora.merged(params, adapters, 0.3 * w)
        wanted = decoders.decode(decoder, alone, ROWS[k : k + 1], max_new=5).tokens
        np.testing.assert_array_equal(found[k], wanted[0])
    plain = decoders.decode(decoder, params, ROWS, max_new=5).tokens
    assert (found[0] == plain[0]).all() and (found != plain).any()


@pytest.mark.slow
def test_padding_and_packing_stay_what_they_are_under_a_gate():
    decoder, params, adapters = decoder_with_adapters(False)
    gated = lora.factored(params, adapters, 0.3, jnp.array([0.7]))
    packed = Tokens(*(jnp.array([x]) for x in ([5, 6, 9, 8, 0], [0, 1, 0, 1, 0], [1, 1, 2, 2, 0])))
    found = logits(decoder, gated, packed)
    assert_same_logits(found[:, 2:4], logits(decoder, gated, jnp.array([[9, 8]])))


@pytest.mark.slow
def test_a_step_of_factored_adapters_costs_fewer_operations_than_of_merged_ones():
    decoder = decoders.Decoder(
        decoders.DecoderConfig(
            **{**CONFIG.__dict__, "width": 64, "mlp_width": 256, "vocab_size": 32}
        )
    )
    params = decoder.init(KEY).params
    adapters = lora.new_adapters(KEY, params, rank=2, chosen=decoders.is_linear)
    rows = jnp.zeros((8, 32), jnp.int32)

    def operations(put):
        def loss(adapters, params):
            return decoder.logits(put(params, adapters, 0.3), rows).sum()

        program = jax.jit(jax.grad(loss)).lower(adapters, params).compile()
        return program.cost_analysis()["flops"]

    assert operations(lora.factored) < 0.8 * operations(lora.merged)


def test_orthogonality_is_the_sum_of_squared_products():
    rng = np.random.default_rng(0)

    def drawn(rank):
        return {
            name: lora.LowRank(
                jnp.asarray(rng.normal(size=(*stack, rank, 6)), jnp.float32),
                jnp.zeros((*stack, rank, 4)),
            )
            for name, stack in (("up", ()), ("blocks/down", (3,)))
        }

    first, second = drawn(2), drawn(3)
    wanted = np.square(np.asarray(first["up"].a) @ np.asarray(second["up"].a).T).sum()
    for k in range(3):
        pair = (np.asarray(x["blocks/down"].a)[k] for x in (first, second))
        wanted += np.square(np.matmul(next(pair), next(pair).T)).sum()
    np.testing.assert_allclose(lora.orthogonality(first, second), wanted, rtol=1e-5)
    np.testing.assert_allclose(lora.orthogonality(second, first), wanted, rtol=1e-5)


def test_stacked_blocks_have_the_penalty_and_the_layers_of_blocks_apart():
    stacked = decoder_with_adapters(True)[2]
    other = normal(jax.random.key(3), stacked)
    apart = unstacked(stacked)
    assert set(apart) == set(decoder_with_adapters(False)[2])
    np.testing.assert_allclose(
        lora.orthogonality(stacked, other), lora.orthogonality(apart, unstacked(other)), rtol=1e-5
    )
    assert lora.num_layers(stacked) == lora.num_layers(apart) == CONFIG.depth


def test_half_precision_kernels_keep_their_type():
    params = {"w": jnp.ones((3, 5), jnp.bfloat16)}
    adapters = normal(KEY, lora.new_adapters(KEY, params, rank=1))
    assert lora.merged(params, adapters, 1.0)["w"].dtype == jnp.bfloat16
    x = jnp.ones((2, 3), jnp.bfloat16)
    found = x @ lora.factored(params, adapters, 1.0)["w"].astype(x.dtype)
    assert found.dtype == jnp.bfloat16
    assert_close(found, x @ lora.merged(params, adapters, 1.0)["w"], rtol=2e-2, atol=2e-2)


PARAMS = {"w": jnp.ones((3, 5)), "b": jnp.ones(5)}
PAIR = lora.LowRank(jnp.ones((1, 3)), jnp.ones((1, 5)))
REFUSED = {
    "expected a rank of at least 1": lambda: lora.new_adapters(KEY, PARAMS, rank=0),
    "expected at least one kernel": lambda: lora.new_adapters(
        KEY, PARAMS, chosen=lambda name: name == "x"
    ),
    "choose matrices alone": lambda: lora.new_adapters(KEY, PARAMS, chosen=lambda name: True),
    "found one of v, which it lacks": lambda: lora.merged(PARAMS, {"v": PAIR}, 1.0),
    r"found one of \(3, 4\)": lambda: lora.merged(
        PARAMS, {"w": PAIR._replace(b=jnp.ones((1, 4)))}, 1.0
    ),
    "adapters of the same kernels": lambda: lora.orthogonality({"w": PAIR}, {"v": PAIR}),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_does_not_fit_is_refused_in_one_sentence(says):
    with pytest.raises(ValueError, match=says) as error:
        REFUSED[says]()
    assert is_one_sentence(str(error.value))


def test_the_room_is_public():
    assert mu.adapters is lora
