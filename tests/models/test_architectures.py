"""Laws that every reference architecture obeys."""

from functools import cache
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mu_jax.models import CNN, MLP, AllCNN, ResNet9, ResNet18, ViTTiny

SMALL = {
    "mlp": (MLP, {"features": (8, 6), "num_outputs": 3}),
    "cnn": (CNN, {"features": (4, 8), "num_outputs": 3}),
    "allcnn": (AllCNN, {"num_outputs": 3, "width": 2}),
    "resnet9": (ResNet9, {"num_outputs": 3, "width": 2}),
    "resnet18": (ResNet18, {"num_outputs": 3, "width": 2}),
    "vit": (ViTTiny, {"num_outputs": 3, "width": 12, "depth": 2}),
}
CONVOLUTIONAL = ["cnn", "allcnn", "resnet9", "resnet18"]
QUICK = ["mlp", "cnn", "vit"]  # quick to compile, for the laws that need programs of their own
IMAGES = np.random.default_rng(0).normal(size=(4, 12, 12, 3)).astype(np.float32)


def build(name, **fields):
    kind, defaults = SMALL[name]
    return kind(**{**defaults, **fields})


def infer(module, variables, inputs):
    return module.apply(variables, inputs, mutable=["batch_stats", "intermediates"])


def train(module, variables, inputs, key=None):
    rngs = None if key is None else {"dropout": key}
    return module.apply(variables, inputs, train=True, mutable=["batch_stats"], rngs=rngs)


@pytest.fixture(scope="session")
def run(filled):
    """Returns a function that infers and trains in one program: each model compiles once."""

    @cache
    def observed(name):
        module = build(name)
        variables = filled(module, IMAGES)
        program = jax.jit(lambda x: (*infer(module, variables, x), *train(module, variables, x)))
        names = ("logits", "inferred", "trained_logits", "trained")
        results = dict(zip(names, program(IMAGES)))
        return SimpleNamespace(program=program, variables=variables, **results)

    return observed


def shapes(name, **fields):
    module = build(name, **fields)

    def program():
        variables = module.init(jax.random.key(0), IMAGES)
        return variables, infer(module, variables, IMAGES), train(module, variables, IMAGES)

    return jax.eval_shape(program)


@pytest.mark.parametrize(
    ("module", "shape", "parameters"),
    [
        (MLP((512, 512), 10), (1, 64), 64 * 512 + 512 * 512 + 512 * 10 + 512 + 512 + 10),
        (
            CNN((32, 64, 128), 10),
            (1, 32, 32, 3),
            9 * (3 * 32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128) + 128 * 10 + 10,
        ),
        (
            AllCNN(),
            (1, 32, 32, 3),
            9 * (3 * 96 + 96 * 96 + 96 * 192 + 4 * 192 * 192)
            + 192 * 192
            + 2 * (2 * 96 + 6 * 192)
            + 193,
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
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == parameters


@pytest.mark.quick("mlp", "cnn", "allcnn", "resnet9", "vit")
@pytest.mark.parametrize("name", SMALL)
def test_logits_are_finite_and_float32(run, name):
    logits = run(name).logits
    assert logits.shape == (4, 3) and logits.dtype == jnp.float32
    assert jnp.isfinite(logits).all() and (logits.std(axis=0) > 0).all()


@pytest.mark.parametrize("name", SMALL)
def test_modules_are_hashable_and_compare_by_fields(name):
    assert hash(build(name)) == hash(build(name)) and build(name) == build(name)
    assert build(name) != build(name, num_outputs=4)


@pytest.mark.quick("cnn", "vit")
@pytest.mark.parametrize("name", SMALL)
def test_examples_meet_in_the_training_statistics_only(run, name):
    changed = IMAGES.copy()
    changed[3] += 1.0
    logits, _, trained_logits, _ = run(name).program(changed)
    np.testing.assert_array_equal(logits[:3], run(name).logits[:3])
    assert not np.array_equal(logits[3], run(name).logits[3])
    meets = not np.array_equal(trained_logits[:3], run(name).trained_logits[:3])
    assert meets == (name in CONVOLUTIONAL)


@pytest.mark.quick("cnn", "resnet9")
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_statistics_rest_in_inference_and_move_in_training(run, name):
    before = run(name).variables["batch_stats"]
    kept, moved = run(name).inferred["batch_stats"], run(name).trained["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(kept) == jax.tree.structure(moved)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, kept))
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, before, moved)))


@pytest.mark.parametrize("name", ["mlp", "vit"])
def test_models_without_statistics_are_the_same_in_training(run, name):
    assert list(run(name).variables) == ["params"] and not run(name).trained
    np.testing.assert_allclose(run(name).trained_logits, run(name).logits, rtol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_half_precision_keeps_float32_arrays_and_logits(name):
    variables, (logits, inferred), trained = shapes(name, dtype=jnp.bfloat16)
    arrays = (variables, logits, inferred.get("batch_stats"), trained)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(arrays))
    assert inferred["intermediates"]["features"][0].dtype == jnp.bfloat16


@pytest.mark.parametrize("name", QUICK)
def test_half_precision_is_near_single_precision(run, name):
    module = build(name, dtype=jnp.bfloat16)
    half = jax.jit(module.apply)(run(name).variables, IMAGES)
    single = run(name).logits
    assert not np.array_equal(half, single)
    np.testing.assert_allclose(half, single, rtol=0, atol=0.05 * float(np.abs(single).max()))


@pytest.mark.quick("mlp")
@pytest.mark.parametrize("name", QUICK)
def test_vmap_over_an_ensemble_is_the_loop(filled, name):
    module = build(name)

    def gradient(variables):
        def loss(params):
            return (module.apply({**variables, "params": params}, IMAGES) ** 2).mean()

        return jax.grad(loss)(variables["params"])

    members = [filled(module, IMAGES, seed) for seed in range(3)]
    together = jax.jit(jax.vmap(gradient))(jax.tree.map(lambda *leaves: np.stack(leaves), *members))
    alone = jax.jit(gradient)(members[1])
    for stacked, single in zip(jax.tree.leaves(together), jax.tree.leaves(alone)):
        tolerance = 1e-4 * float(np.abs(single).max()) + 1e-7
        np.testing.assert_allclose(np.asarray(stacked)[1], single, rtol=0, atol=tolerance)


@pytest.mark.quick("cnn", "resnet9")
@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_convolution_field_reaches_every_layer(run, name):
    calls = []

    def spy(lhs, rhs, *args, **kwargs):
        calls.append(rhs.shape)
        return lax.conv_general_dilated(lhs, rhs, *args, **kwargs)

    module, variables = build(name, convolution=spy), run(name).variables
    jax.eval_shape(module.apply, variables, IMAGES)
    kernels = [leaf.shape for leaf in jax.tree.leaves(variables["params"]) if leaf.ndim == 4]
    assert sorted(calls) == sorted(kernels)


def test_convolution_field_changes_nothing_else(run):
    found = jax.jit(build("cnn", convolution=lax.conv_general_dilated).apply)(
        run("cnn").variables, IMAGES
    )
    np.testing.assert_allclose(found, run("cnn").logits, rtol=1e-4, atol=1e-5)


@pytest.mark.quick("cnn", "vit")
@pytest.mark.parametrize("name", SMALL)
def test_features_are_the_input_of_the_head(run, name):
    (features,) = run(name).inferred["intermediates"]["features"]
    head = run(name).variables["params"]["head"]
    expected = (0.2 if name == "resnet9" else 1.0) * features @ head["kernel"]
    expected += head.get("bias", 0.0)
    np.testing.assert_allclose(run(name).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("mlp", {"hidden_0": (4, 8), "hidden_1": (4, 6)}),
        ("cnn", {"stage_0": (4, 12, 12, 4), "stage_1": (4, 6, 6, 8)}),
        (
            "allcnn",
            {f"block_{i}": (4, 12, 12, 2) for i in (0, 1)}
            | {f"block_{i}": (4, 6, 6, 4) for i in (2, 3, 4)}
            | {f"block_{i}": (4, 3, 3, 4) for i in (5, 6, 7)},
        ),
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
    sown = shapes(name)[1][1]["intermediates"]
    found = {k: v[0].shape for k, v in sown.items() if isinstance(v, tuple) and k != "features"}
    assert found == names


@pytest.mark.quick("cnn", "vit")
@pytest.mark.parametrize("name", SMALL)
def test_dropout_is_drawn_in_training_only(run, name):
    module, variables = build(name, dropout=0.5), run(name).variables
    draws = "random_bits"
    assert draws in str(
        jax.make_jaxpr(lambda k: train(module, variables, IMAGES, k))(jax.random.key(0))
    )
    assert draws not in str(jax.make_jaxpr(lambda x: infer(module, variables, x))(IMAGES))
    with pytest.raises(Exception, match="dropout"):
        jax.eval_shape(lambda x: train(module, variables, x), IMAGES)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_images_without_their_axes_are_refused(name):
    with pytest.raises(ValueError, match=r"found shape \(12, 12, 3\)"):
        build(name).init(jax.random.key(0), IMAGES[0])


def test_training_steps_inside_a_scan_reduce_the_loss(run):
    module, labels = build("cnn"), jnp.array([0, 1, 2, 0])

    def loss(params, state):
        logits, state = train(module, {"params": params, **state}, IMAGES)
        return -jnp.take_along_axis(nn.log_softmax(logits), labels[:, None], 1).mean(), state

    def step(carry, _):
        params, state = carry
        (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params, state)
        return (jax.tree.map(lambda p, g: p - 0.5 * g, params, gradient), state), value

    variables = dict(run("cnn").variables)
    start = (variables.pop("params"), variables)
    _, losses = jax.jit(lambda carry: lax.scan(step, carry, length=30))(start)
    assert losses[-1] < 0.5 * losses[0]
