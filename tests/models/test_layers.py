"""Layers of the reference architectures against other ways to compute them."""

import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mu_jax.models import CNN, MLP, AllCNN, RegressionCNN, ResNet9, ViTTiny
from mu_jax.models.cnn import ConvBatchNorm
from mu_jax.models.resnet import BasicBlock, _max_pool
from mu_jax.models.vit import Block, SelfAttention


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def normalize(y, norm, mean, variance):
    return norm["scale"] * (y - mean) / np.sqrt(variance + 1e-5) + norm["bias"]


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 1, 1, 3), (2, 4, 4, 3)])
def test_running_variance_collects_the_biased_variance_not_pytorchs(shape):
    layer, x = ConvBatchNorm(3, kernel_size=1), normal(*shape)
    variables = layer.init(jax.random.key(0), x)
    convolved = x.reshape(-1, 3) @ np.asarray(variables["params"]["conv"]["kernel"])[0, 0]
    _, state = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    collected = (state["batch_stats"]["norm"]["var"] - 0.9) / 0.1
    n = len(convolved)
    np.testing.assert_allclose(collected, convolved.var(axis=0), rtol=1e-4)
    np.testing.assert_allclose(collected * n / (n - 1), convolved.var(axis=0, ddof=1), rtol=1e-4)


def test_batch_norm_moves_by_a_tenth(filled):
    x = normal(8, 6, 6, 3)
    layer = ConvBatchNorm(5, kernel_size=1)
    variables = filled(layer, x)
    norm, before = variables["params"]["norm"], variables["batch_stats"]["norm"]
    y = x @ variables["params"]["conv"]["kernel"][0, 0]
    mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))

    inferred = jax.jit(layer.apply)(variables, x)
    expected = normalize(y, norm, before["mean"], before["var"])
    np.testing.assert_allclose(inferred, expected, rtol=1e-4, atol=1e-4)

    train = jax.jit(partial(layer.apply, train=True, mutable=["batch_stats"]))
    trained, state = train(variables, x)
    expected = normalize(y, norm, mean, variance)
    np.testing.assert_allclose(trained, expected, rtol=1e-4, atol=1e-4)
    after = state["batch_stats"]["norm"]
    np.testing.assert_allclose(after["mean"], 0.9 * before["mean"] + 0.1 * mean, atol=1e-5)
    # The biased variance: an unbiased one would be 288 / 287 times as large.
    np.testing.assert_allclose(after["var"], 0.9 * before["var"] + 0.1 * variance, atol=1e-5)
    unbiased = y.var((0, 1, 2), ddof=1)
    assert np.abs(after["var"] - (0.9 * before["var"] + 0.1 * unbiased)).max() > 1e-4
    for module in (ConvBatchNorm, RegressionCNN):  # as somebody who comes from there must know
        said = " ".join(module.__doc__.split())
        assert re.search(r"biased variances?\b.*PyTorch", said), module


def test_strided_layers_pad_both_sides(filled):
    # A kernel of ones counts the pixels it sees: one padded row and column at the top left only.
    layer = ConvBatchNorm(1, stride=2)
    x = np.ones((1, 4, 4, 1), np.float32)
    variables = filled(layer, x)
    variables["params"]["conv"]["kernel"] = np.ones((3, 3, 1, 1), np.float32)
    norm, statistics = variables["params"]["norm"], variables["batch_stats"]["norm"]
    counts = np.array([[4, 6], [6, 9]])[None, :, :, None]
    expected = normalize(counts, norm, statistics["mean"], statistics["var"])
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), expected, rtol=1e-5)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (2, 3)])
def test_max_pool_values_and_gradients(size):
    x = normal(2, *size, 3)

    @partial(jax.jit, static_argnums=0)
    def value_and_gradient(pool, x):
        y, pull = jax.vjp(pool, x)
        return y, pull(jnp.cos(y))

    found = value_and_gradient(_max_pool, x)
    expected = value_and_gradient(partial(nn.max_pool, window_shape=(2, 2), strides=(2, 2)), x)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(("stride", "features"), [(1, 3), (2, 3), (1, 4)])
def test_basic_block_is_its_shortcut_when_the_branch_is_zero(filled, stride, features):
    x = normal(2, 6, 6, 3)
    block = BasicBlock(features, stride=stride)
    variables = filled(block, x)
    params, statistics = variables["params"], variables["batch_stats"]
    params["conv_1"]["norm"] = jax.tree.map(np.zeros_like, params["conv_1"]["norm"])
    shortcut = x
    if (stride, features) == (1, 3):
        assert "conv_shortcut" not in params
    else:
        layer, running = params["conv_shortcut"], statistics["conv_shortcut"]["norm"]
        y = x[:, ::stride, ::stride] @ layer["conv"]["kernel"][0, 0]
        shortcut = normalize(y, layer["norm"], running["mean"], running["var"])
    found = jax.jit(block.apply)(variables, x)
    np.testing.assert_allclose(found, np.maximum(shortcut, 0), rtol=1e-4, atol=1e-4)


def test_mlp_is_the_formula(filled):
    x = normal(4, 2, 3)
    module = MLP((5, 6), 3)
    params = filled(module, x)["params"]
    hidden = x.reshape(4, 6)
    for name in ("dense_0", "dense_1"):
        hidden = np.maximum(hidden @ params[name]["kernel"] + params[name]["bias"], 0)
    expected = hidden @ params["head"]["kernel"] + params["head"]["bias"]
    found = jax.jit(module.apply)({"params": params}, x)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def layer(variables, name, x, stride=1, padding=1):
    """Convolution, normalization with the running statistics and ReLU, by XLA's convolution."""
    params, running = variables["params"][name], variables["batch_stats"][name]["norm"]
    y = lax.conv_general_dilated(
        x,
        params["conv"]["kernel"],
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return nn.relu(normalize(y, params["norm"], running["mean"], running["var"]))


def test_cnn_is_its_stages(filled):
    x = normal(2, 9, 9, 3)
    module = CNN((4, 5), 3)
    variables = filled(module, x)

    @jax.jit
    def reference(x):
        x = layer(variables, "conv_1", layer(variables, "conv_0", x), stride=2).mean((1, 2))
        head = variables["params"]["head"]
        return x @ head["kernel"] + head["bias"]

    found = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(found, reference(x), rtol=1e-4, atol=1e-4)


def test_allcnn_is_the_published_sequence(filled):
    x = normal(2, 9, 9, 3)
    module = AllCNN(width=2)
    variables = filled(module, x)

    @jax.jit
    def reference(x):
        for block, stride in enumerate((1, 1, 2, 1, 1, 2, 1)):
            x = layer(variables, f"conv_{block}", x, stride=stride)
        x = layer(variables, "conv_7", x, padding=0).mean((1, 2))
        head = variables["params"]["head"]
        return x @ head["kernel"] + head["bias"]

    found = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(found, reference(x), rtol=1e-4, atol=1e-4)


def test_resnet9_is_the_published_sequence(filled):
    x = normal(2, 13, 13, 3)
    module = ResNet9(width=2)
    variables = filled(module, x)

    def conv(i, x, **options):
        return layer(variables, f"conv_{i}", x, **options)

    @jax.jit
    def reference(x):
        x = conv(1, conv(0, x), stride=2, padding=2)
        x = nn.max_pool(conv(4, x + conv(3, conv(2, x))), (2, 2), (2, 2))
        x = conv(7, x + conv(6, conv(5, x)), padding=0)
        return 0.2 * x.max((1, 2)) @ variables["params"]["head"]["kernel"]

    found = jax.jit(module.apply)(variables, x)
    np.testing.assert_allclose(found, reference(x), rtol=1e-4, atol=1e-4)


def test_resnet9_needs_eleven_pixels():
    module = ResNet9(width=2)
    shape = jax.eval_shape(module.init_with_output, jax.random.key(0), jnp.ones((2, 11, 11, 3)))[0]
    assert shape.shape == (2, 10)
    with pytest.raises(ValueError, match="at least 11"):
        module.init(jax.random.key(0), jnp.ones((2, 10, 11, 3)))


def test_attention_equals_that_of_flax(filled):
    x = normal(2, 5, 12)
    ours = SelfAttention(num_heads=3, dtype=None)
    theirs = nn.MultiHeadDotProductAttention(num_heads=3)
    params = filled(ours, x)["params"]
    joint = params["query_key_value"]
    kernels = np.split(joint["kernel"].reshape(12, 3 * 3, 4), 3, axis=1)
    biases = np.split(joint["bias"].reshape(3 * 3, 4), 3)
    same = {
        name: {"kernel": kernel, "bias": bias}
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases)
    }
    same["out"] = {
        "kernel": params["out"]["kernel"].reshape(3, 4, 12),
        "bias": params["out"]["bias"],
    }
    theirs_sowing = partial(theirs.apply, sow_weights=True, mutable=["intermediates"])
    expected, expected_sown = jax.jit(theirs_sowing)({"params": same}, x)
    found, sown = jax.jit(partial(ours.apply, mutable=["intermediates"]))({"params": params}, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(
        sown["intermediates"]["weights"][0],
        expected_sown["intermediates"]["attention_weights"][0],
        atol=1e-5,
    )


def test_vision_transformer_sows_attention_weights_of_every_block(filled):
    module = ViTTiny(width=12, depth=2)
    x = normal(2, 8, 8, 3)
    variables = filled(module, x)
    _, sown = jax.jit(partial(module.apply, mutable=["intermediates"]))(variables, x)
    for block in ("block_0", "block_1"):
        (weights,) = sown["intermediates"][block]["attention"]["weights"]
        assert weights.shape == (2, 3, 5, 5)
        np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)


def test_transformer_block_normalizes_first_and_adds(filled):
    x = normal(2, 5, 12)
    block = Block(num_heads=3, mlp_ratio=2, dropout=0.0, dtype=None)
    params = filled(block, x)["params"]

    @jax.jit
    def reference(x):
        def norm(name, x):
            return nn.LayerNorm().apply({"params": params[name]}, x)

        def dense(name, x):
            return x @ params[name]["kernel"] + params[name]["bias"]

        attention = SelfAttention(3, None)
        x = x + attention.apply({"params": params["attention"]}, norm("norm_0", x))
        hidden = dense("dense_0", norm("norm_1", x))
        return x + dense("dense_1", hidden * jax.scipy.stats.norm.cdf(hidden))

    found = jax.jit(block.apply)({"params": params}, x)
    np.testing.assert_allclose(found, reference(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("pool", "token"), [("cls", 0), ("mean", slice(None))])
def test_pooling(filled, pool, token):
    x = normal(2, 8, 8, 3)
    module = ViTTiny(width=12, depth=1, pool=pool)
    variables = filled(module, x)
    sown = jax.jit(partial(module.apply, mutable=["intermediates"]))(variables, x)[1]
    (tokens,) = sown["intermediates"]["tokens_0"]
    normed = nn.LayerNorm().apply({"params": variables["params"]["norm"]}, tokens)
    expected = normed[:, token].reshape(2, -1, 12).mean(1)
    np.testing.assert_allclose(sown["intermediates"]["features"][0], expected, atol=1e-5)


def test_patch_embedding_is_a_strided_convolution(filled):
    module = ViTTiny(width=12, depth=0, pool="mean")
    x = normal(2, 8, 12, 3)
    variables = filled(module, x)
    params = variables["params"]
    embedding = {
        "kernel": params["patch_embedding"]["kernel"].reshape(4, 4, 3, 12),
        "bias": params["patch_embedding"]["bias"],
    }
    tokens = nn.Conv(12, (4, 4), strides=4).apply({"params": embedding}, x).reshape(2, 6, 12)
    normed = nn.LayerNorm().apply({"params": params["norm"]}, tokens + params["position_embedding"])
    _, sown = jax.jit(partial(module.apply, mutable=["intermediates"]))(variables, x)
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
