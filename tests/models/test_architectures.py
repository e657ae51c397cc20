"""Laws that every reference architecture obeys."""

from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mu_jax.models import CNN, MLP, ResNet9, ResNet18, ViTTiny

SMALL = {
    "mlp": (MLP, {"features": (8, 6), "num_outputs": 3}),
    "cnn": (CNN, {"features": (4, 8), "num_outputs": 3}),
    "resnet9": (ResNet9, {"num_outputs": 3, "width": 2}),
    "resnet18": (ResNet18, {"num_outputs": 3, "width": 2}),
    "vit": (ViTTiny, {"num_outputs": 3, "width": 12, "depth": 2}),
}
CONVOLUTIONAL = ["cnn", "resnet9", "resnet18"]
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 12, 12, 3)), jnp.float32)


def build(name, **fields):
    kind, defaults = SMALL[name]
    module = kind(**{**defaults, **fields})
    return module, jax.jit(module.init)(jax.random.key(0), IMAGES)


def apply_in_training(module, variables, rate_key=None):
    rngs = None if rate_key is None else {"dropout": rate_key}
    mutable = [name for name in variables if name != "params"]
    return module.apply(variables, IMAGES, train=True, mutable=mutable, rngs=rngs)


def count(module, shape):
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


@pytest.mark.parametrize(
    ("module", "shape", "parameters"),
    [
        (MLP((512, 512), 10), (1, 64), 64 * 512 + 512 * 512 + 512 * 10 + 512 + 512 + 10),
        (
            CNN((32, 64, 128), 10),
            (1, 32, 32, 3),
            9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128) + 128 * 10 + 10,
        ),
        (ResNet9(), (1, 32, 32, 3), 2_274_880),
        (ResNet18(), (1, 32, 32, 3), 11_173_962),
        (ResNet18(100), (1, 32, 32, 3), 11_173_962 + 90 * 513),
        (ViTTiny(), (1, 32, 32, 3), 5_362_762),
        (ViTTiny(pool="mean"), (1, 32, 32, 3), 5_362_762 - 2 * 192),
        # The published size of DeiT-Ti: 224 pixels, patches of 16, a thousand classes.
        (ViTTiny(1000, patch_size=16), (1, 224, 224, 3), 5_717_416),
    ],
)
def test_parameter_counts(module, shape, parameters):
    assert count(module, shape) == parameters


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_finite_and_float32(name):
    module, variables = build(name)
    logits = module.apply(variables, IMAGES)
    assert logits.shape == (4, 3) and logits.dtype == jnp.float32
    assert jnp.isfinite(logits).all() and (logits.std(axis=0) > 0).all()


@pytest.mark.parametrize("name", SMALL)
def test_modules_are_hashable_and_compare_by_fields(name):
    kind, fields = SMALL[name]
    assert hash(kind(**fields)) == hash(kind(**fields)) and kind(**fields) == kind(**fields)
    assert kind(**fields) != kind(**{**fields, "num_outputs": 4})


@pytest.mark.parametrize("name", SMALL)
def test_inference_treats_examples_one_by_one(name):
    module, variables = build(name)
    apply = jax.jit(module.apply)
    one_by_one = jax.vmap(lambda image: module.apply(variables, image[None])[0])
    np.testing.assert_allclose(
        jax.jit(one_by_one)(IMAGES), apply(variables, IMAGES), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_statistics_rest_in_inference_and_move_in_training(name):
    module, variables = build(name)
    _, kept = module.apply(variables, IMAGES, mutable=["batch_stats"])
    _, moved = apply_in_training(module, variables)
    before = jax.tree.leaves(variables["batch_stats"])
    assert all(map(np.array_equal, before, jax.tree.leaves(kept["batch_stats"])))
    assert not any(map(np.array_equal, before, jax.tree.leaves(moved["batch_stats"])))
    assert jax.tree.structure(moved["batch_stats"]) == jax.tree.structure(variables["batch_stats"])


@pytest.mark.parametrize("name", ["mlp", "vit"])
def test_models_without_statistics_have_parameters_only(name):
    module, variables = build(name)
    assert list(variables) == ["params"]
    trained, _ = apply_in_training(module, variables)
    np.testing.assert_array_equal(trained, module.apply(variables, IMAGES))


@pytest.mark.parametrize("name", SMALL)
def test_half_precision_keeps_float32_arrays_and_logits(name):
    module, variables = build(name, dtype=jnp.bfloat16)
    single, _ = build(name)
    (logits, state), sown = (
        apply_in_training(module, variables),
        module.apply(variables, IMAGES, mutable=["intermediates"])[1]["intermediates"],
    )
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, state, logits)))
    assert sown["features"][0].dtype == jnp.bfloat16
    reference = single.apply(variables, IMAGES)
    half = module.apply(variables, IMAGES)
    assert not np.array_equal(half, reference)
    np.testing.assert_allclose(half, reference, atol=0.1 * float(jnp.abs(reference).max()))


@pytest.mark.parametrize("name", SMALL)
def test_vmap_over_an_ensemble_is_the_loop(name):
    module, _ = build(name)
    keys = jax.random.split(jax.random.key(1), 3)
    members = jax.jit(jax.vmap(module.init, in_axes=(0, None)))(keys, IMAGES)

    def gradient(member):
        def loss(params):
            return (module.apply({**member, "params": params}, IMAGES) ** 2).mean()

        return jax.grad(loss)(member["params"])

    together = jax.jit(jax.vmap(gradient))(members)
    alone = jax.jit(gradient)(jax.tree.map(lambda leaf: leaf[1], members))
    for stacked, single in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
        scale = float(jnp.abs(single).max()) + 1e-6
        np.testing.assert_allclose(stacked[1], single, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolution_field_is_used_and_changes_nothing_else(name):
    calls = Counter()

    def native(*args, **kwargs):
        calls["native"] += 1
        return lax.conv_general_dilated(*args, **kwargs)

    module, variables = build(name)
    other, same = build(name, convolution=native)
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, same))
    expected, state = apply_in_training(module, variables)
    calls.clear()
    found, other_state = apply_in_training(other, variables)
    kernels = [leaf for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
    assert calls["native"] == len(kernels)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    for value, reference in zip(jax.tree.leaves(other_state), jax.tree.leaves(state)):
        np.testing.assert_allclose(value, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_features_are_the_input_of_the_head(name):
    module, variables = build(name)
    logits, sown = module.apply(variables, IMAGES, mutable=["intermediates"])
    (features,) = sown["intermediates"]["features"]
    head = variables["params"]["head"]
    expected = (0.2 if name == "resnet9" else 1.0) * features @ head["kernel"]
    np.testing.assert_allclose(logits, expected + head.get("bias", 0.0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("mlp", {"hidden_0": (4, 8), "hidden_1": (4, 6)}),
        ("cnn", {"stage_0": (4, 12, 12, 4), "stage_1": (4, 6, 6, 8)}),
        (
            "resnet9",
            {"stem": (4, 12, 12, 2), "stage_1": (4, 6, 6, 4), "stage_2": (4, 3, 3, 8)},
        ),
        (
            "resnet18",
            {"stem": (4, 12, 12, 2)}
            | {f"stage_{i}": (4, s, s, 2 * 2**i) for i, s in enumerate((12, 6, 3, 2))},
        ),
        ("vit", {"tokens_0": (4, 10, 12), "tokens_1": (4, 10, 12)}),
    ],
)
def test_named_activations(name, names):
    module, variables = build(name)
    _, sown = module.apply(variables, IMAGES, mutable=["intermediates"])
    shapes = {k: v[0].shape for k, v in sown["intermediates"].items() if isinstance(v, tuple)}
    assert {k: v for k, v in shapes.items() if k != "features"} == names


@pytest.mark.parametrize("name", SMALL)
def test_dropout_acts_in_training_only(name):
    module, variables = build(name, dropout=0.5)
    first, _ = apply_in_training(module, variables, jax.random.key(1))
    again, _ = apply_in_training(module, variables, jax.random.key(1))
    other, _ = apply_in_training(module, variables, jax.random.key(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    plain, _ = build(name)
    np.testing.assert_array_equal(module.apply(variables, IMAGES), plain.apply(variables, IMAGES))


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_images_without_their_axes_are_refused(name):
    module, variables = build(name)
    with pytest.raises(ValueError, match=r"found shape \(12, 12, 3\)"):
        module.apply(variables, IMAGES[0])


def test_training_steps_inside_a_scan_reduce_the_loss():
    module, variables = build("cnn")
    labels = jnp.array([0, 1, 2, 0])

    def loss(params, state):
        logits, new_state = module.apply(
            {"params": params, **state}, IMAGES, train=True, mutable=["batch_stats"]
        )
        return -jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], 1).mean(), new_state

    def step(carry, _):
        params, state = carry
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params, state)
        return (jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient), state), value

    start = (variables["params"], {"batch_stats": variables["batch_stats"]})
    _, losses = jax.jit(lambda carry: lax.scan(step, carry, length=10))(start)
    assert losses[-1] < 0.5 * losses[0]
