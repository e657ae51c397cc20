"""Sums over per-example gradients against a loop of `jax.grad` over the examples."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mu_jax.statistics import per_example

SIZE = 6  # examples


class Case(NamedTuple):
    losses: Any
    params: Any
    rows: Any
    routes: dict[str, str]  # by the leaf's last name, words of all leaves of that name


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def labels(n_classes):
    return jax.random.randint(jax.random.key(9), (SIZE,), 0, n_classes)


def linen_case(net, inputs, **routes):
    """A linen classifier; its other collections get values that differ from the initial ones."""
    variables = net.init(jax.random.key(0), inputs[:1])
    params = variables.pop("params")
    state = jax.tree.map(lambda x: x + 0.3 * jnp.arange(x.size) / x.size, variables)

    def losses(params, rows):
        logits = net.apply({"params": params, **state}, rows[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[1])

    return Case(losses, params, (inputs, labels(3)), routes)


def raw_case(function, params, inputs=None, **routes):
    """`function(params, x)` of [B, 5] inputs; the loss is a nonlinear function of its outputs."""
    inputs = normal(1, SIZE, 5) if inputs is None else inputs

    def losses(params, x):
        return jnp.sin(function(params, x)).reshape(len(x), -1).sum(axis=1)

    return Case(losses, params, inputs, routes)


class MLP(nn.Module):
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(7, dtype=self.dtype)(x))
        return nn.Dense(3, dtype=self.dtype)(x)


class ConvNet(nn.Module):
    """Strided, SAME, VALID, dilated, circular, grouped and depthwise convolutions, BatchNorm."""

    conv: Any = None

    @nn.compact
    def __call__(self, x):
        options = {"conv_general_dilated": self.conv} if self.conv else {}
        x = nn.Conv(4, (3, 3), use_bias=False, **options)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x))
        x = nn.Conv(4, (3, 2), strides=(2, 1), padding="VALID", **options)(x)
        if self.conv is None:
            x = nn.Conv(4, (2, 2), kernel_dilation=2, padding="CIRCULAR")(nn.tanh(x))
            x = nn.Conv(4, (3, 3), feature_group_count=4)(x)
            x = nn.Conv(6, (1, 3), feature_group_count=2, use_bias=False)(nn.tanh(x))
            x = nn.ConvTranspose(3, (3, 3), strides=(2, 2))(x)
        return nn.Dense(3)(nn.tanh(x).mean((1, 2)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))
        return nn.Dense(3)(x.mean(1))


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return nn.tanh(nn.Dense(4)(x)), None


class ScannedLayers(nn.Module):
    remat: bool = False

    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Layer, prevent_cse=False) if self.remat else Layer
        layers = nn.scan(layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(3)(layers()(x, None)[0])


class LanguageModel(nn.Module):
    tied: bool = False

    @nn.compact
    def __call__(self, x):
        embed = nn.Embed(11, 4)
        x = nn.tanh(nn.Dense(4)(embed(x)))
        return embed.attend(x).mean(1)[:, :3] if self.tied else nn.Dense(3)(x.mean(1))


def im2col(lhs, rhs, window_strides, padding, **options):
    """A convolution as slices and one matrix product, as users write it for CPUs."""
    (kh, kw, _, out), (sh, sw) = rhs.shape, window_strides
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(lhs.shape[1:3], (kh, kw), window_strides, padding)
    x = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
    h, w = (x.shape[1] - kh) // sh + 1, (x.shape[2] - kw) // sw + 1
    cuts = [
        x[:, i : i + (h - 1) * sh + 1 : sh, j : j + (w - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    patches = jnp.concatenate(cuts, -1).reshape(len(x) * h * w, -1)
    return (patches @ rhs.reshape(-1, out)).reshape(len(x), h, w, out)


def nnx_case():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(5, 7, rngs=rngs)
            self.last = nnx.Linear(7, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(jax.nn.relu(self.first(x)))

    graph, params, rest = nnx.split(Net(nnx.Rngs(0)), nnx.Param, ...)

    def losses(params, rows):
        logits = nnx.merge(graph, params, rest)(rows[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[1])

    return Case(
        losses, params, (normal(1, SIZE, 5), labels(3)), {"kernel": "dense", "bias": "small"}
    )


def convolution_case(kernel, inputs, dimension_numbers, **options):
    def convolve(params, x):
        kernel = params["kernel"]
        return lax.conv_general_dilated(
            x, kernel, dimension_numbers=dimension_numbers, padding=options["padding"], **others
        )

    others = {key: value for key, value in options.items() if key != "padding"}
    return raw_case(convolve, {"kernel": kernel}, inputs, kernel="patches")


def recurrent(params, x):
    def step(h, x):
        return jnp.tanh(h @ params["hidden"] + x @ params["input"]), h

    steps = normal(3, 4, 1, 5) * x
    h, hs = lax.scan(step, jnp.zeros((len(x), 5), x.dtype), steps, reverse=True)
    return h + hs.sum(0)


@jax.custom_vjp
def clipped_product(x, kernel):
    """Its cotangent is not the true one: a rule that must be kept."""
    return x @ kernel


clipped_product.defvjp(
    lambda x, kernel: (x @ kernel, (x, kernel)),
    lambda saved, g: (jnp.clip(g @ saved[1].T, -0.1, 0.1), saved[0].T @ jnp.clip(g, -0.1, 0.1)),
)


@jax.custom_jvp
def straight_through(x):
    return jnp.round(x)


straight_through.defjvp(lambda x, t: (jnp.round(x[0]), t[0]))


def standardized(kernel):
    return (kernel - kernel.mean(0)) / (kernel.std(0) + 0.1)


CASES = {
    "mlp": lambda: linen_case(MLP(), normal(1, SIZE, 5), kernel="dense", bias="small"),
    "conv": lambda: linen_case(
        ConvNet(), normal(1, SIZE, 7, 6, 2), kernel="patches dense", scale="small", bias="small"
    ),
    "conv im2col": lambda: linen_case(ConvNet(im2col), normal(1, SIZE, 7, 6, 2), kernel="tokens dense", scale="small", bias="small"),
    "block": lambda: linen_case(Block(), normal(1, SIZE, 5, 4), kernel="tokens dense", scale="small", bias="small"),
    "remat": lambda: linen_case(nn.remat(MLP)(), normal(1, SIZE, 5), kernel="dense", bias="small"),
    "scanned layers": lambda: linen_case(ScannedLayers(), normal(1, SIZE, 4), kernel="dense", bias="small"),
    "scanned remat": lambda: linen_case(ScannedLayers(True), normal(1, SIZE, 4), kernel="dense", bias="small"),
    "lookup": lambda: linen_case(
        LanguageModel(), jax.random.randint(jax.random.key(1), (SIZE, 5), 0, 8), embedding="lookup", kernel="tokens dense", bias="small"
    ),
    "tied embedding": lambda: linen_case(
        LanguageModel(True),
        jax.random.randint(jax.random.key(1), (SIZE, 5), 0, 8),
        embedding="small",
        kernel="tokens",
        bias="small",
    ),
    "nnx": nnx_case,
    "recurrent": lambda: raw_case(
        recurrent,
        {"hidden": normal(1, 5, 5), "input": normal(2, 5, 5)},
        hidden="tokens",
        input="tokens",
    ),
    "kernel twice": lambda: raw_case(
        lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"], {"w": normal(2, 5, 5)}, w="tokens"
    ),
    "kernel and transpose": lambda: raw_case(
        lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T, {"w": normal(2, 5, 4)}, w="small"
    ),
    "kernel first": lambda: raw_case(
        lambda p, x: jnp.einsum("oi,bi->ob", p["w"].reshape(4, 5), x).T, {"w": normal(2, 20)}, w="dense"
    ),
    "kernel first, tokens": lambda: raw_case(
        lambda p, x: jnp.tensordot(p["w"], x, ((1, 2), (3, 1))),
        {"w": normal(2, 4, 3, 2)},
        normal(1, SIZE, 2, 5, 3),
        w="tokens",
    ),
    "experts": lambda: raw_case(
        lambda p, x: jnp.einsum("beti,eio->beto", x, p["w"]),
        {"w": normal(2, 3, 4, 2)},
        normal(1, SIZE, 3, 2, 4),
        w="tokens",
    ),
    "adapter": lambda: raw_case(
        lambda p, x: x @ p["a"] @ p["b"] + x @ (p["c"] @ p["d"]),
        {k: normal(ord(k), *((5, 2) if k in "ac" else (2, 5))) for k in "abcd"},
        a="dense",
        b="dense",
        c="small",
        d="small",
    ),
    "standardized": lambda: raw_case(
        lambda p, x: x @ standardized(p["w"]), {"w": normal(2, 5, 4)}, w="small"
    ),
    "standardized convolution": lambda: raw_case(
        lambda p, x: lax.conv(x, standardized(p["w"]), (1, 1), "SAME"),
        {"w": normal(2, 4, 2, 3, 3)},
        normal(1, SIZE, 2, 5, 5),
        w="small",
    ),
    "rows of a table": lambda: raw_case(
        lambda p, i: jnp.take(p["w"], i[:, :, 0], axis=0, mode="clip") * p["w"][i[:, :, 1]],
        {"w": normal(2, 9, 2, 2)},
        jax.random.randint(jax.random.key(3), (SIZE, 3, 2), -2, 12).at[..., 1].min(8),
        w="lookup",
    ),
    "entries of a table": lambda: raw_case(
        lambda p, i: p["w"][i[:, 0], i[:, 1]],
        {"w": normal(2, 9, 9)},
        jax.random.randint(jax.random.key(3), (SIZE, 2), 0, 9),
        w="small",
    ),
    "custom rules": lambda: raw_case(
        lambda p, x: clipped_product(straight_through(3 * x @ p["a"]), p["b"]),
        {"a": normal(2, 5, 4), "b": normal(3, 4, 3)},
        a="dense",
        b="small",
    ),
    "branches": lambda: raw_case(
        lambda p, x: lax.cond(x[0, 0] > 0, lambda w: x @ w, lambda w: jnp.cos(x @ w), p["w"]),
        {"w": normal(2, 5, 4)},
        w="small",
    ),
    "also in the output": lambda: raw_case(
        lambda p, x: x @ p["w"] + p["w"].sum(), {"w": normal(2, 5, 4)}, w="small"
    ),
    "unused": lambda: raw_case(
        lambda p, x: x @ p["w"], {"w": normal(2, 5, 4), "v": normal(3, 7)}, w="dense", v="unused"
    ),
    "one axis": lambda: convolution_case(
        normal(2, 3, 2, 4), normal(1, SIZE, 8, 2), ("NWC", "WIO", "NWC"),
        window_strides=(2,), padding=[(2, -1)],
    ),
    "three axes": lambda: convolution_case(
        normal(2, 3, 2, 2, 1, 2), normal(1, SIZE, 2, 4, 3, 3), ("NCDHW", "OIDHW", "NCDHW"),
        window_strides=(1, 2, 1), padding="SAME",
    ),
    "dilations": lambda: convolution_case(
        normal(2, 3, 2, 4, 2), normal(1, SIZE, 5, 6, 4), ("NHWC", "HWOI", "NCHW"),
        window_strides=(1, 2), padding=[(0, 1), (3, 2)], lhs_dilation=(2, 1), rhs_dilation=(1, 3),
    ),
}  # fmt: skip


def gradient_loop(case):
    """Gradients one example at a time, stacked."""
    gradient = jax.jit(jax.grad(lambda params, row: case.losses(params, row)[0]))
    gradients = [
        gradient(case.params, jax.tree.map(lambda x, i=i: x[i : i + 1], case.rows))
        for i in range(SIZE)
    ]
    return jax.tree.map(lambda *g: jnp.stack(g), *gradients)


def weighted(power, gradients, weight):
    return jax.tree.map(lambda g: jnp.tensordot(weight, power(g), 1), gradients)


def assert_close(found, expected, tolerance):
    """Equal up to `tolerance` of each leaf's largest entry."""

    def compare(found, expected):
        assert found.shape == expected.shape and found.dtype == expected.dtype
        error = np.abs(np.asarray(found) - np.asarray(expected)).max()
        assert error <= tolerance * np.abs(np.asarray(expected)).max(), (error, expected)

    jax.tree.map(compare, found, expected)


def cast(tree, dtype):
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def compare_with_loop(case, tolerance):
    weight = jnp.linspace(0.5, 2.0, SIZE, dtype=jax.tree.leaves(case.params)[0].dtype)
    gradients = gradient_loop(case)

    @jax.jit
    def statistics(params, rows, weight):
        arguments = case.losses, params, rows
        return (
            per_example.sum_of_squares(*arguments, weight),
            per_example.sum_of_magnitudes(*arguments, weight),
            per_example.squared_norms(*arguments),
        )

    squares, magnitudes, norms = statistics(case.params, case.rows, weight)
    assert_close(squares, weighted(jnp.square, gradients, weight), tolerance)
    assert_close(magnitudes, weighted(jnp.abs, gradients, weight), tolerance)
    flat = jnp.concatenate([g.reshape(SIZE, -1) for g in jax.tree.leaves(gradients)], axis=1)
    assert_close(norms, jnp.square(flat).sum(1), tolerance)


@pytest.mark.parametrize("name", CASES)
def test_equals_a_loop_in_double_precision(name):
    with jax.enable_x64(True):
        case = CASES[name]()
        case = case._replace(
            params=cast(case.params, jnp.float64), rows=cast(case.rows, jnp.float64)
        )
        compare_with_loop(case, 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_routes(name):
    case = CASES[name]()
    words = per_example.routes(case.losses, case.params, case.rows)
    assert jax.tree.structure(words) == jax.tree.structure(case.params)
    found = {}
    for path, word in jax.tree.leaves_with_path(words):
        name = re.findall(r"'(\w+)'", jax.tree_util.keystr(path))[-1]
        found.setdefault(name, set()).add(word)
    assert found == {name: set(words.split()) for name, words in case.routes.items()}


def test_large_leaves_fall_back():
    losses = raw_case(lambda p, x: x @ standardized(p["w"]), {}).losses
    params = {"w": jnp.ones((5, 4000))}
    assert per_example.routes(losses, params, jnp.ones((2, 5))) == {"w": "fallback"}


@pytest.mark.parametrize("name", ["mlp", "conv", "block"])
def test_equals_a_loop_in_single_precision(name):
    compare_with_loop(CASES[name](), 1e-5)


def test_low_precision_is_summed_in_single_precision():
    """Products are formed from bfloat16 inputs and cotangents, exactly."""
    case = linen_case(MLP(jnp.bfloat16), normal(1, SIZE, 5))
    compare_with_loop(case, 2e-2)
    words = per_example.routes(case.losses, case.params, case.rows)
    assert words["Dense_0"]["kernel"] == "dense"
    half = case._replace(params=cast(case.params, jnp.bfloat16))
    total = per_example.sum_of_squares(half.losses, half.params, half.rows, jnp.ones(SIZE))
    assert {x.dtype for x in jax.tree.leaves(total)} == {jnp.dtype("float32")}
    expected = per_example.sum_of_squares(case.losses, case.params, case.rows, jnp.ones(SIZE))
    assert_close(total, expected, 1e-1)


@pytest.mark.parametrize("name", ["mlp", "conv", "block", "lookup", "standardized convolution"])
def test_other_backends_agree(name, monkeypatch):
    """Accelerators run convolutions as they are, and form more gradients at a time."""
    case, weight = CASES[name](), jnp.ones(SIZE)
    expected = per_example.sum_of_squares(case.losses, case.params, case.rows, weight)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    total = per_example.sum_of_squares(case.losses, case.params, case.rows, weight)
    assert_close(total, expected, 1e-5)


@pytest.mark.parametrize("name", ["mlp", "conv", "block", "tied embedding", "lookup"])
def test_padding_adds_nothing(name):
    """Rows of weight 0, whose gradients are NaN: bit-identical to the same rows with zeros."""
    case, weight = CASES[name](), jnp.array([1.0, 2.0, 0.0, 0.5, 0.0, 1.0])
    spoil = jnp.where(weight == 0, jnp.nan, 1.0)

    def losses(params, rows):
        return case.losses(params, rows[0]) * rows[1]

    def total(factor):
        return per_example.sum_of_squares(losses, case.params, (case.rows, factor), weight)

    found = total(spoil)
    chex.assert_tree_all_finite(found)
    chex.assert_trees_all_equal(found, total(jnp.ones(SIZE)))
    nothing = per_example.sum_of_squares(losses, case.params, (case.rows, spoil), jnp.zeros(SIZE))
    assert all((x == 0).all() for x in jax.tree.leaves(nothing))
    norms = per_example.squared_norms(losses, case.params, (case.rows, spoil))
    assert (jnp.isnan(norms) == (weight == 0)).all()


@pytest.mark.parametrize("name", ["mlp", "conv", "block", "lookup", "kernel and transpose"])
def test_chunk_size_does_not_matter(name):
    case, weight = CASES[name](), jnp.linspace(0.5, 2.0, SIZE)
    expected = per_example.sum_of_squares(case.losses, case.params, case.rows, weight, chunk_size=6)
    norms = per_example.squared_norms(case.losses, case.params, case.rows, chunk_size=6)
    for chunk_size in (1, 3, 4, 100):  # 4 leaves a remainder
        options = {"chunk_size": chunk_size}
        found = per_example.sum_of_squares(case.losses, case.params, case.rows, weight, **options)
        assert_close(found, expected, 1e-5)
        found = per_example.squared_norms(case.losses, case.params, case.rows, **options)
        assert_close(found, norms, 1e-5)


def test_groups_of_many_examples():
    """More examples than are formed at a time, and not a multiple."""
    kernel, x = normal(0, 3, 4), normal(1, 21, 5, 3)
    case = raw_case(lambda p, x: x @ p["w"], {"w": kernel})
    gradients = jax.vmap(jax.grad(lambda p, x: case.losses(p, x[None])[0]), (None, 0))
    expected = weighted(jnp.square, gradients(case.params, x), jnp.ones(21))
    found = per_example.sum_of_squares(case.losses, case.params, x, jnp.ones(21))
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("name", ["conv", "block", "tied embedding", "lookup"])
def test_vmap_over_an_ensemble_and_over_data(name):
    case, weight = CASES[name](), jnp.linspace(0.5, 2.0, SIZE)

    def total(params, rows, weight):
        return per_example.sum_of_squares(case.losses, params, rows, weight)

    def pair(tree):
        return jax.tree.map(lambda x: jnp.stack([x, x + (x.dtype == jnp.float32) * 0.1]), tree)

    both = pair((case.params, case.rows, weight))
    found = jax.jit(jax.vmap(total))(*both)
    for k in range(2):
        expected = jax.jit(total)(*jax.tree.map(lambda x, k=k: x[k], both))
        assert_close(jax.tree.map(lambda x, k=k: x[k], found), expected, 1e-5)
    over_data = jax.jit(jax.vmap(total, (None, 0, 0)))(case.params, *both[1:])
    expected = jax.jit(total)(case.params, *jax.tree.map(lambda x: x[1], both[1:]))
    assert_close(jax.tree.map(lambda x: x[1], over_data), expected, 1e-5)


def test_inside_a_scan_with_captured_arrays():
    """As the library calls it; what the losses capture may be traced."""
    case = CASES["mlp"]()

    def total(scale, rows, weight):
        def losses(params, rows):
            return scale * case.losses(params, rows)

        return per_example.sum_of_squares(losses, case.params, rows, weight)

    @jax.jit
    def scanned(scales):
        def add(sum, scale):
            return jax.tree.map(jnp.add, sum, total(scale, case.rows, jnp.ones(SIZE))), None

        return lax.scan(add, jax.tree.map(jnp.zeros_like, case.params), scales)[0]

    expected = jax.tree.map(lambda x: 5 * x, total(1.0, case.rows, jnp.ones(SIZE)))
    assert_close(scanned(jnp.array([1.0, 2.0])), expected, 1e-5)


def test_losses_are_traced_once():
    case, traces = CASES["conv"](), []

    def losses(params, rows):
        traces.append(1)
        return case.losses(params, rows)

    total = jax.jit(functools.partial(per_example.sum_of_squares, losses))
    for seed in range(3):
        total(case.params, case.rows, normal(seed, SIZE))
    assert len(traces) == 1


def test_rows_may_hold_random_keys():
    def losses(params, rows):
        noise = jax.vmap(lambda key: jax.random.normal(key, (5,)))(rows["key"])
        return jnp.sin((rows["x"] + noise) @ params).sum(-1)

    rows = {"x": normal(1, SIZE, 5), "key": jax.random.split(jax.random.key(0), SIZE)}
    case = Case(losses, normal(2, 5, 3), rows, {})
    expected = weighted(jnp.square, gradient_loop(case), jnp.ones(SIZE))
    found = per_example.sum_of_squares(*case[:3], jnp.ones(SIZE), chunk_size=4)
    assert_close(found, expected, 1e-5)


MESH_CASES = ["mlp", "conv", "lookup", "recurrent", "standardized convolution"]


def tiled(case):
    """The rows four times over and their weights: a batch for eight devices."""
    rows = jax.tree.map(lambda x: jnp.concatenate([x] * 4), case.rows)
    return rows, jnp.linspace(0.0, 2.0, 4 * SIZE)


@pytest.fixture
def mesh():
    if jax.device_count() < 8:
        pytest.skip("needs eight devices")
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


@pytest.mark.parametrize("name", MESH_CASES)
def test_automatic_partitioning(name, mesh):
    case = CASES[name]()
    rows, weight = tiled(case)
    total = jax.jit(functools.partial(per_example.sum_of_squares, case.losses))
    expected = total(case.params, rows, weight)
    sharded = jax.device_put((rows, weight), NamedSharding(mesh, P("data")))
    params = jax.device_put(case.params, NamedSharding(mesh, P()))
    assert_close(jax.device_get(total(params, *sharded)), jax.device_get(expected), 1e-5)


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("cast", [False, True])
@pytest.mark.parametrize("name", MESH_CASES)
def test_shard_map(name, cast, explicit, mesh):
    """Also without the cast, which alone would add up gradients before they are squared."""
    case = CASES[name]()
    rows, weight = tiled(case)
    if explicit:
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))

    @jax.jit
    @functools.partial(
        jax.shard_map, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=(P(), P("data"))
    )
    def statistics(params, rows, weight):
        if cast:
            params = jax.tree.map(lambda x: lax.pcast(x, "data", to="varying"), params)
        total = per_example.sum_of_squares(case.losses, params, rows, weight, chunk_size=2)
        return lax.psum(total, "data"), per_example.squared_norms(case.losses, params, rows)

    squares, norms = statistics(case.params, rows, weight)
    expected = per_example.sum_of_squares(case.losses, case.params, rows, weight)
    assert_close(jax.device_get(squares), jax.device_get(expected), 1e-5)
    expected = per_example.squared_norms(case.losses, case.params, rows)
    assert_close(jax.device_get(norms), jax.device_get(expected), 1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"params": {"w": jnp.ones((5, 3), int)}}, "floating-point"),
        ({"rows": (jnp.ones((4, 5)), jnp.ones(3))}, "leading axis"),
        ({"rows": (jnp.ones((0, 5)), jnp.ones(0))}, "positive leading axis"),
        ({"weight": jnp.ones(3)}, "one weight per row"),
        ({"losses": lambda p, rows: (rows[0] @ p["w"]).sum()}, "one loss per row"),
    ],
)
def test_errors_say_what_to_do(change, words):
    arguments = {
        "losses": lambda p, rows: (rows[0] @ p["w"]).sum(-1),
        "params": {"w": jnp.ones((5, 3))},
        "rows": (jnp.ones((4, 5)), jnp.ones(4)),
        "weight": jnp.ones(4),
    }
    per_example.sum_of_squares(**arguments)
    with pytest.raises(ValueError, match=words):
        per_example.sum_of_squares(**arguments | change)
