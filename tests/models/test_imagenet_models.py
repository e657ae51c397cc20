"""The models for images of 224 pixels: published sizes, types, and what `remat` may not change."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mu_jax.models import ResNet50, ViT, ViTB16
from mu_jax.models.rematerialization import block_caller
from mu_jax.models.resnet import BottleneckBlock

IMAGES = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
SMALL = {
    "resnet50": (ResNet50, {"num_outputs": 3, "width": 2}),
    "vit": (ViT, {"num_outputs": 3, "patch_size": 8, "width": 12, "depth": 2, "num_heads": 3}),
}


def build(name, **fields):
    kind, defaults = SMALL[name]
    return kind(**{**defaults, **fields})


def resnet50_size():
    """Convolutions without bias, two numbers a channel for each normalization, a head with bias."""
    size = 7 * 7 * 3 * 64 + 2 * 64
    channels = 64
    for features, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        wide = 4 * features
        size += channels * wide + 2 * wide  # the shortcut of the first block
        for _ in range(blocks):
            size += channels * features + 9 * features**2 + features * wide
            size += 2 * (features + features + wide)
            channels = wide
    return size + 2048 * 1000 + 1000


def vit_b16_size():
    width, tokens = 768, 14 * 14 + 1
    attention = width * 3 * width + 3 * width + width * width + width
    perceptron = width * 4 * width + 4 * width + 4 * width * width + width
    block = attention + perceptron + 2 * 2 * width
    embedding = 16 * 16 * 3 * width + width + width + tokens * width
    return embedding + 12 * block + 2 * width + width * 1000 + 1000


@pytest.mark.parametrize(
    ("module", "size", "published"),
    [(ResNet50(), resnet50_size(), 25_557_032), (ViTB16(), vit_b16_size(), 86_567_656)],
)
def test_sizes_are_those_published(module, size, published):
    images = jnp.zeros((1, 224, 224, 3))
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    found = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert found == size == published


def test_resnet50_strides_in_the_middle_of_a_block():
    kernels = []

    def spy(lhs, rhs, strides, *args, **options):
        kernels.append((rhs.shape[0], tuple(strides)))
        return lax.conv_general_dilated(lhs, rhs, strides, *args, **options)

    jax.eval_shape(build("resnet50", convolution=spy).init, jax.random.key(0), IMAGES)
    assert kernels.count((3, (2, 2))) == 3 and kernels.count((7, (2, 2))) == 1
    assert kernels.count((1, (2, 2))) == 3  # the shortcuts
    assert len(kernels) == 53


def test_resnet50_sows_its_stages():
    module = build("resnet50")

    def program(x):
        return module.init_with_output(jax.random.key(0), x, mutable=True)[1]

    sown = jax.eval_shape(program, np.zeros((2, 64, 64, 3), np.float32))["intermediates"]
    sizes = {name: leaf[0].shape for name, leaf in sown.items()}
    assert sizes["stem"] == (2, 16, 16, 2) and sizes["features"] == (2, 64)
    assert [sizes[f"stage_{i}"] for i in range(4)] == [
        (2, 16, 16, 8), (2, 8, 8, 16), (2, 4, 4, 32), (2, 2, 2, 64)
    ]  # fmt: skip


@pytest.mark.quick("vit")
@pytest.mark.parametrize("name", SMALL)
def test_half_precision_keeps_parameters_statistics_and_logits_whole(name):
    module = build(name, dtype="bfloat16")

    def program(x):
        variables = module.init(jax.random.key(0), x)
        return variables, *module.apply(variables, x, train=True, mutable=["batch_stats"])

    found = jax.eval_shape(program, IMAGES)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    text = str(jax.make_jaxpr(program)(IMAGES))
    assert "bf16" in text  # the computation itself is in half precision


class Tower(nn.Module):
    """Two blocks of ResNet-50: all that `remat` touches, and quicker to compile."""

    remat: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        call = block_caller(remat=self.remat, train=train)
        for index in range(2):
            x = call(BottleneckBlock(2, stride=2 - index, name=f"block_{index}"), x)
        return x.mean((1, 2))


CASES = {
    "blocks": Tower,
    "vit": lambda **fields: build("vit", **fields),
    "resnet50": lambda **fields: build("resnet50", **fields),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "train"),
    [
        ("blocks", False),
        ("blocks", True),
        ("vit", True),
        pytest.param("resnet50", True, marks=pytest.mark.slow),
    ],
)
def test_remat_changes_neither_outputs_nor_gradients(filled, name, train):
    modules = [CASES[name](remat=remat) for remat in (False, True)]
    variables = filled(modules[0], IMAGES)

    def program(module):
        def loss(params):
            held = {**variables, "params": params}
            logits, moved = module.apply(held, IMAGES, train=train, mutable=["batch_stats"])
            return (logits**2).mean(), (logits, moved)

        return jax.value_and_grad(loss, has_aux=True)

    plain, again = map(program, modules)
    first, second = (jax.jit(f)(variables["params"]) for f in (plain, again))
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for one, other in zip(jax.tree.leaves(first), jax.tree.leaves(second)):
        tolerance = 1e-5 * float(np.abs(one).max()) + 1e-7
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "blocks"), [("resnet50", 16), ("vit", 2)])
def test_remat_is_of_every_block(name, blocks):
    def found(remat):
        module = build(name, remat=remat)
        shapes = jax.eval_shape(module.init, jax.random.key(0), IMAGES)
        program = jax.make_jaxpr(module.apply)(shapes, IMAGES)
        return sum(e.primitive.name.startswith("remat") for e in program.eqns)

    assert (found(False), found(True)) == (0, blocks)


def test_remat_keeps_the_names_of_parameters():
    for name in SMALL:
        shapes = [
            jax.eval_shape(build(name, remat=remat).init, jax.random.key(0), IMAGES)
            for remat in (False, True)
        ]
        assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
