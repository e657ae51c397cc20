from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from jax.test_util import check_grads

import mu_jax as mu
from mu_jax._target import forward_only
from mu_jax.models import convolution_by_backend, patch_convolution

NHWC = ("NHWC", "HWIO", "NHWC")


def arrays(*shapes, dtype=np.float32):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def uses_xla_convolution(function, *args):
    return "conv_general_dilated" in str(jax.make_jaxpr(function)(*args))


@pytest.mark.quick(
    "float32-1e-05-kernel1-strides1-SAME",
    "float32-1e-05-kernel3-strides3-VALID",
    "float32-1e-05-kernel4-strides4-padding4",
    "float32-1e-05-kernel6-strides6-SAME",
    "float64-1e-12-kernel0-strides0-SAME",
    "float64-1e-12-kernel2-strides2-SAME_LOWER",
    "float64-1e-12-kernel3-strides3-VALID",
    "float64-1e-12-kernel5-strides5-padding5",
    "float64-1e-12-kernel7-strides7-VALID",
)
@pytest.mark.parametrize(
    ("kernel", "strides", "padding"),
    [
        ((3, 3), (1, 1), "SAME"),
        ((3, 3), (2, 2), "SAME"),
        ((3, 3), (2, 1), "SAME_LOWER"),
        ((5, 3), (1, 2), "VALID"),
        ((5, 5), (2, 2), ((2, 2), (2, 2))),
        ((2, 3), (3, 2), ((0, 1), (2, 0))),
        ((1, 1), (1, 1), "SAME"),
        ((1, 1), (2, 2), "VALID"),
        ((4, 4), (4, 4), "VALID"),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_values_and_gradients_equal_those_of_lax(kernel, strides, padding, dtype, tolerance):
    with jax.enable_x64(dtype == np.float64):
        x, k = arrays((2, 9, 8, 3), (*kernel, 3, 5), dtype=dtype)
        options = {"window_strides": strides, "padding": padding, "dimension_numbers": NHWC}
        ours = partial(patch_convolution, **options)
        native = partial(lax.conv_general_dilated, **options)
        assert not uses_xla_convolution(ours, x, k)

        @partial(jax.jit, static_argnums=0)
        def outputs_and_gradients(convolve, x, k):
            y, pull = jax.vjp(convolve, x, k)
            return y, pull(jnp.cos(y))

        found = outputs_and_gradients(ours, x, k)
        expected = outputs_and_gradients(native, x, k)
        pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected))
        for value, reference in pairs:
            assert value.dtype == dtype
            scale = float(np.abs(reference).max())
            np.testing.assert_allclose(value, reference, rtol=0, atol=tolerance * scale)


def test_derivatives_of_both_orders_and_modes():
    with jax.enable_x64(True):
        x, k = arrays((1, 4, 4, 2), (3, 3, 2, 2), dtype=np.float64)
        convolve = partial(
            patch_convolution, window_strides=(2, 2), padding="SAME", dimension_numbers=NHWC
        )
        check_grads(jax.jit(convolve), (x, k), order=2, modes=["fwd", "rev"])


@pytest.mark.parametrize(
    ("x_shape", "k_shape", "options"),
    [
        ((2, 6, 6, 4), (3, 3, 2, 6), {"feature_group_count": 2}),
        ((4, 6, 6, 2), (3, 3, 2, 6), {"batch_group_count": 2}),
        ((2, 8, 8, 2), (3, 3, 2, 3), {"rhs_dilation": (2, 1)}),
        ((2, 8, 8, 2), (3, 3, 2, 3), {"lhs_dilation": (1, 2)}),
        ((2, 2, 8, 8), (3, 2, 3, 3), {"dimension_numbers": None}),
        ((2, 2, 8, 8), (3, 3, 2, 3), {"dimension_numbers": ("NCHW", "HWIO", "NCHW")}),
    ],
)
def test_what_is_not_plain_goes_to_lax(x_shape, k_shape, options):
    options = {"dimension_numbers": NHWC, **options}
    x, k = arrays(x_shape, k_shape)
    options.update(window_strides=(1, 1), padding=((1, 1), (2, 0)))
    ours = partial(patch_convolution, **options)
    native = partial(lax.conv_general_dilated, **options)
    assert uses_xla_convolution(ours, x, k)
    np.testing.assert_array_equal(ours(x, k), native(x, k))


@pytest.mark.parametrize("rank", [1, 3])
def test_other_ranks_go_to_lax(filled, rank):
    (x,) = arrays((2, *(5,) * rank, 3))
    plain = nn.Conv(4, (3,) * rank)
    ours = nn.Conv(4, (3,) * rank, conv_general_dilated=patch_convolution)
    variables = filled(plain, x)
    np.testing.assert_array_equal(ours.apply(variables, x), plain.apply(variables, x))


def test_mixed_types_and_unknown_options_fail_as_in_lax():
    x, k = arrays((2, 6, 6, 3), (3, 3, 3, 5))
    with pytest.raises(TypeError, match="dtype"):
        patch_convolution(x, k.astype(jnp.bfloat16), (1, 1), "SAME", dimension_numbers=NHWC)
    with pytest.raises(TypeError, match="strides_of_window"):
        patch_convolution(x, k, (1, 1), "SAME", dimension_numbers=NHWC, strides_of_window=2)


def test_preferred_element_type_is_the_type_of_the_output():
    x, k = arrays((2, 6, 6, 3), (3, 3, 3, 5), dtype=jnp.bfloat16)
    y = patch_convolution(
        x, k, (1, 1), "SAME", dimension_numbers=NHWC, preferred_element_type=jnp.float32
    )
    expected = patch_convolution(
        x.astype(np.float32), k.astype(np.float32), (1, 1), "SAME", dimension_numbers=NHWC
    )
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_empty_batch():
    (k,) = arrays((3, 3, 3, 5))
    y = patch_convolution(jnp.zeros((0, 6, 6, 3)), k, (2, 2), "SAME", dimension_numbers=NHWC)
    assert y.shape == (0, 3, 3, 5)


@pytest.mark.parametrize("strides", [1, 2])
def test_linen_and_nnx_layers_accept_it(filled, strides):
    (x,) = arrays((2, 7, 7, 3))
    options = {"kernel_size": (3, 3), "strides": strides, "padding": 1}
    linen = nn.Conv(5, **options)
    variables = filled(linen, x)
    expected = jax.jit(linen.apply)(variables, x)
    ours = partial(nn.Conv(5, **options, conv_general_dilated=patch_convolution).apply, variables)
    assert not uses_xla_convolution(ours, x)
    np.testing.assert_allclose(jax.jit(ours)(x), expected, atol=1e-5)

    layer = nnx.Conv(3, 5, **options, conv_general_dilated=patch_convolution, rngs=nnx.Rngs(0))
    layer.kernel.set_value(variables["params"]["kernel"])
    layer.bias.set_value(variables["params"]["bias"])
    assert not uses_xla_convolution(layer, x)
    np.testing.assert_allclose(jax.jit(lambda x: layer(x))(x), expected, atol=1e-5)


def test_vmap_over_kernels_is_the_loop():
    x, kernels = arrays((2, 6, 6, 3), (4, 3, 3, 3, 5))

    def gradient(k):
        convolve = partial(patch_convolution, window_strides=(1, 1), padding="SAME")
        return jax.grad(lambda k: (convolve(x, k, dimension_numbers=NHWC) ** 2).sum())(k)

    looped = np.stack([jax.jit(gradient)(k) for k in kernels])
    together = jax.jit(jax.vmap(gradient))(kernels)
    np.testing.assert_allclose(together, looped, rtol=1e-5, atol=1e-3)
    assert not uses_xla_convolution(jax.vmap(gradient), kernels)


@pytest.mark.parametrize("axis_type", list(jax.sharding.AxisType)[:2])
def test_per_example_gradients_of_a_sharded_batch(axis_type):
    if jax.device_count() < 2:
        pytest.skip("needs two devices")
    x, k = arrays((4, 6, 6, 3), (3, 3, 3, 5))

    @jax.jit
    @partial(jax.vmap, in_axes=(None, 0))
    def gradients(k, x):
        convolve = partial(patch_convolution, window_strides=(2, 2), padding="SAME")
        return jax.grad(lambda k: (convolve(x[None], k, dimension_numbers=NHWC) ** 2).sum())(k)

    expected = gradients(k, x)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,), devices=jax.devices()[:2])
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        found = gradients(jax.device_put(k, NamedSharding(mesh, PartitionSpec())), sharded)
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-5, atol=1e-4)


def test_choice_by_backend(monkeypatch):
    x, k = arrays((2, 6, 6, 3), (3, 3, 3, 5))
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC}
    on_cpu = convolution_by_backend(x, k, **options)
    # A new function each time: traces are cached by function.
    assert not uses_xla_convolution(lambda *a: convolution_by_backend(*a, **options), x, k)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert uses_xla_convolution(lambda *a: convolution_by_backend(*a, **options), x, k)
    np.testing.assert_allclose(convolution_by_backend(x, k, **options), on_cpu, atol=1e-5)


def test_outputs_of_one_model_take_the_convolution_of_xla_and_gradients_never_do():
    options = {"window_strides": (1, 1), "padding": "SAME", "dimension_numbers": NHWC}
    convolve = partial(convolution_by_backend, **options)
    x, k = arrays((2, 5, 5, 3), (3, 3, 3, 4))
    with forward_only():
        forward = jax.jit(convolve)  # as what `jit` inside a model keeps
        assert uses_xla_convolution(forward, x, k)
    patches = partial(patch_convolution, **options)
    np.testing.assert_allclose(forward(x, k), patches(x, k), rtol=1e-5, atol=1e-5)
    for argument in (0, 1):

        def gradient(convolve, argument=argument):
            return jax.grad(lambda *given: jnp.sin(convolve(*given)).sum(), argument)

        np.testing.assert_allclose(
            gradient(forward)(x, k), gradient(patches)(x, k), rtol=1e-5, atol=1e-5
        )
        assert not uses_xla_convolution(gradient(forward), x, k)


def test_predictions_of_one_model_and_of_many_choose_their_convolutions(monkeypatch):
    module = nn.Conv(4, (3, 3), conv_general_dilated=convolution_by_backend)
    model = mu.from_linen(module, lambda outputs, targets: outputs.mean((1, 2, 3)))
    (x,) = arrays((6, 5, 5, 3))
    data = mu.batches(x, np.zeros(6), batch_size=3)
    many = jax.vmap(lambda key: module.init(key, x))(jax.random.split(jax.random.key(0), 2))

    def predict(variables):
        return mu.outputs(model, variables, data)

    first, called = jax.tree.map(lambda leaf: leaf[0], many), []
    native = lax.conv_general_dilated
    monkeypatch.setattr(
        lax, "conv_general_dilated", lambda *args, **rest: called.append(1) or native(*args, **rest)
    )
    together = jax.vmap(predict)(many)
    assert not called
    np.testing.assert_allclose(predict(first), together[0], rtol=1e-5, atol=1e-5)
    assert called
