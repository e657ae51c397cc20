"""Layers of the reference architectures against other ways to compute them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.models import ResNet9, ViTTiny
from mu_jax.models.cnn import ConvBatchNorm
from mu_jax.models.resnet import BasicBlock, _max_pool
from mu_jax.models.vit import SelfAttention


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_batch_norm_moves_by_a_tenth():
    x = normal(8, 6, 6, 3)
    layer = ConvBatchNorm(5, kernel_size=1)
    variables = layer.init(jax.random.key(0), x)
    y = x @ variables["params"]["conv"]["kernel"][0, 0]
    mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))

    found, state = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(found, (y - mean) / jnp.sqrt(variance + 1e-5), rtol=1e-3, atol=1e-4)
    moved = state["batch_stats"]["norm"]
    np.testing.assert_allclose(moved["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved["var"], 0.9 + 0.1 * variance, rtol=1e-4)

    inferred = layer.apply({**variables, **state}, x)
    expected = (y - moved["mean"]) / jnp.sqrt(moved["var"] + 1e-5)
    np.testing.assert_allclose(inferred, expected, rtol=1e-3, atol=1e-4)


def test_strided_layers_pad_both_sides():
    # A kernel of ones counts the pixels it sees: one padded row and column at the top left only.
    layer = ConvBatchNorm(1, stride=2)
    x = jnp.ones((1, 4, 4, 1))
    variables = layer.init(jax.random.key(0), x)
    variables["params"]["conv"]["kernel"] = jnp.ones((3, 3, 1, 1))
    counts = layer.apply(variables, x)[0, :, :, 0] * jnp.sqrt(1 + 1e-5)
    np.testing.assert_allclose(counts, [[4, 6], [6, 9]], rtol=1e-5)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3)])
def test_max_pool_values_and_gradients(size):
    x = normal(2, *size, 3)
    expected, pull_expected = jax.vjp(lambda x: nn.max_pool(x, (2, 2), (2, 2)), x)
    found, pull_found = jax.vjp(_max_pool, x)
    np.testing.assert_array_equal(found, expected)
    cotangent = normal(*expected.shape)
    np.testing.assert_array_equal(pull_found(cotangent)[0], pull_expected(cotangent)[0])


@pytest.mark.parametrize(("stride", "features"), [(1, 3), (2, 3), (1, 4)])
def test_basic_block_is_its_shortcut_when_the_branch_is_zero(stride, features):
    x = normal(2, 6, 6, 3)
    block = BasicBlock(features, stride=stride)
    variables = block.init(jax.random.key(0), x)
    variables["params"]["conv_1"]["norm"]["scale"] *= 0
    found = block.apply(variables, x)
    if (stride, features) == (1, 3):
        assert "conv_shortcut" not in variables["params"]
        shortcut = x
    else:
        kernel = variables["params"]["conv_shortcut"]["conv"]["kernel"][0, 0]
        shortcut = x[:, ::stride, ::stride] @ kernel / jnp.sqrt(1 + 1e-5)
    np.testing.assert_allclose(found, jnp.maximum(shortcut, 0), rtol=1e-4, atol=1e-5)


def test_resnet9_needs_eleven_pixels():
    module = ResNet9(width=2)
    shape = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.ones((2, 11, 11, 3)))[0]
    assert shape.shape == (2, 10)
    with pytest.raises(ValueError, match="at least 11"):
        module.init(jax.random.key(0), jnp.ones((2, 10, 11, 3)))


def test_attention_equals_that_of_flax():
    x = normal(2, 5, 12)
    ours = SelfAttention(num_heads=3, dtype=None)
    theirs = nn.MultiHeadDotProductAttention(num_heads=3)
    params = ours.init(jax.random.key(0), x)["params"]
    joint = params["query_key_value"]
    kernels = jnp.split(joint["kernel"].reshape(12, 3 * 3, 4), 3, axis=1)
    biases = jnp.split(normal(3 * 3, 4), 3)
    joint["bias"] = jnp.concatenate(biases).reshape(-1)
    same = {
        name: {"kernel": kernel, "bias": bias}
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases)
    }
    same["out"] = {
        "kernel": params["out"]["kernel"].reshape(3, 4, 12),
        "bias": params["out"]["bias"],
    }
    expected, expected_sown = theirs.apply(
        {"params": same}, x, sow_weights=True, mutable=["intermediates"]
    )
    found, sown = ours.apply({"params": params}, x, mutable=["intermediates"])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(
        sown["intermediates"]["weights"][0],
        expected_sown["intermediates"]["attention_weights"][0],
        atol=1e-5,
    )


def test_vision_transformer_sows_attention_weights_of_every_block():
    module = ViTTiny(width=12, depth=2)
    x = normal(2, 8, 8, 3)
    variables = module.init(jax.random.key(0), x)
    _, sown = module.apply(variables, x, mutable=["intermediates"])
    for block in ("block_0", "block_1"):
        (weights,) = sown["intermediates"][block]["attention"]["weights"]
        assert weights.shape == (2, 3, 5, 5)
        np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)


def test_patch_embedding_is_a_strided_convolution():
    module = ViTTiny(width=12, depth=0, pool="mean")
    x = normal(2, 8, 12, 3)
    variables = module.init(jax.random.key(0), x)
    params = variables["params"]
    embedding = {
        "kernel": params["patch_embedding"]["kernel"].reshape(4, 4, 3, 12),
        "bias": params["patch_embedding"]["bias"],
    }
    tokens = nn.Conv(12, (4, 4), strides=4).apply({"params": embedding}, x).reshape(2, 6, 12)
    normed = nn.LayerNorm().apply({"params": params["norm"]}, tokens + params["position_embedding"])
    _, sown = module.apply(variables, x, mutable=["intermediates"])
    np.testing.assert_allclose(sown["intermediates"]["features"][0], normed.mean(1), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "shape", "message"),
    [
        ({}, (2, 8, 10, 3), r"multiples of patch_size 4, found shape \(2, 8, 10, 3\)"),
        ({}, (8, 8, 3), r"found shape \(8, 8, 3\)"),
        ({"num_heads": 5}, (2, 8, 8, 3), "multiple of num_heads 5, found 192"),
        ({"pool": "max"}, (2, 8, 8, 3), "'cls' or 'mean', found 'max'"),
    ],
)
def test_vision_transformer_refuses_what_does_not_fit(fields, shape, message):
    with pytest.raises(ValueError, match=message):
        ViTTiny(**fields).init(jax.random.key(0), jnp.ones(shape))
