"""Sums over per-example gradients against a loop of `jax.grad` over the examples."""

from __future__ import annotations

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from per_example_cases import CASES, Case, case_of, linen_case, raw_case
from per_example_loop import assert_close, doubled, gradient_loop, jit, norms, squares, weighted
from per_example_models import MLP, SIZE, normal, standardized

from mu_jax.statistics._engine import per_example


@functools.cache
def in_double_precision(name):
    """A case in float64, and the gradients of its loop."""
    with jax.enable_x64(True):
        case = doubled(case_of(name))
        return case, gradient_loop(case)


# Quick: every route, every way to use a leaf in several places, and what falls back.
@pytest.mark.quick(
    *("mlp", "conv", "block", "lookup", "tied embedding", "recurrent", "scanned layers"),
    *("kernel and transpose", "tied in parts", "kernel first, tokens", "experts", "ragged experts"),
    *("no entries", "adapter", "standardized convolution", "rows of a table", "custom rules"),
    *(
        "branches",
        "carried",
        "is the loss",
        "also in the output",
        "one axis",
        "dilations",
        "groups",
    ),
)
@pytest.mark.parametrize("name", CASES)
def test_squares_equal_a_loop(name):
    weight, (case, gradients) = np.linspace(0.5, 2.0, SIZE), in_double_precision(name)
    with jax.enable_x64(True):
        found = squares(case.losses, case.params, case.rows, weight)
        assert_close(found, weighted(np.square, gradients, weight), 1e-12)


@pytest.mark.quick(
    *("mlp", "dilations", "lookup", "ragged experts", "tied embedding"),
    *("tied, norms by comparison", "tied, one position"),
)
@pytest.mark.parametrize(
    "name",
    [
        *("mlp", "dilations", "lookup", "many rows of a small table", "experts", "ragged experts"),
        *("kernel and transpose", "tied embedding", "tied, norms by comparison", "adapter"),
        *("tied, many lookups", "tied, one position", "tied, one position, many lookups"),
    ],
)
def test_magnitudes_and_norms_equal_a_loop(name):
    weight, (case, gradients) = np.linspace(0.5, 2.0, SIZE), in_double_precision(name)
    with jax.enable_x64(True):
        magnitudes = jit(functools.partial(per_example.sum_of_magnitudes, case.losses))
        found = magnitudes(case.params, case.rows, weight)
        assert_close(found, weighted(np.abs, gradients, weight), 1e-12)
        flat = np.concatenate([g.reshape(SIZE, -1) for g in jax.tree.leaves(gradients)], axis=1)
        found = norms(case.losses, case.params, case.rows)
        assert_close(found, np.square(flat).sum(1), 1e-12)


@pytest.mark.parametrize("positions", [2, 40])
def test_norms_of_few_and_of_many_positions(positions):
    case = raw_case(lambda p, x: x @ p["w"], {"w": normal(2, 5, 4)}, normal(1, SIZE, positions, 5))
    expected = np.square(gradient_loop(case)["w"]).sum((1, 2))
    assert_close(norms(case.losses, case.params, case.rows), expected, 1e-5)


@pytest.mark.parametrize(
    "name", ["mlp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("conv", "block"))]
)
def test_squares_in_single_precision(name):
    case, weight = case_of(name), np.linspace(0.5, 2.0, SIZE, dtype=np.float32)
    found = squares(case.losses, case.params, case.rows, weight)
    assert_close(found, weighted(np.square, gradient_loop(case), weight), 1e-5)


def test_low_precision_is_summed_in_single_precision():
    weight = np.ones(SIZE, np.float32)
    case = linen_case(MLP(jnp.bfloat16), normal(1, SIZE, 5))
    found = squares(case.losses, case.params, case.rows, weight)
    assert_close(found, weighted(np.square, gradient_loop(case), weight), 2e-2)
    words = per_example.routes(case.losses, case.params, case.rows)
    assert words["Dense_0"]["kernel"] == "dense"
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), case.params)
    assert_close(squares(case.losses, params, case.rows, weight), found, 2e-2)


@pytest.mark.parametrize("name", CASES)
def test_routes(name):
    case = case_of(name)
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


@pytest.mark.quick("dilations", "tied embedding")
@pytest.mark.parametrize(
    "name", ["dilations", "experts", "standardized convolution", "tied embedding"]
)
def test_other_backends_agree(name, monkeypatch):
    """Accelerators run convolutions as they are, and form more gradients at a time."""
    case, weight = case_of(name), np.ones(SIZE, np.float32)
    expected = squares(case.losses, case.params, case.rows, weight)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = jit(functools.partial(per_example.sum_of_squares, case.losses))(
        case.params, case.rows, weight
    )
    assert_close(found, expected, 1e-5)


@pytest.mark.quick("mlp", "groups", "lookup")
@pytest.mark.parametrize(
    "name",
    [
        *("mlp", "groups", "experts", "lookup", "many rows of a small table", "adapter"),
        *("kernel and transpose", "tied embedding", "tied, one position"),
    ],
)
def test_padding_adds_nothing(name):
    """Rows of weight 0 whose inputs and gradients are NaN, and the same rows with zeros."""
    case, weight = case_of(name), np.array([1, 2, 0, 0.5, 0, 1, 3], np.float32)

    def losses(params, rows):
        return case.losses(params, rows[0]) * rows[1]

    def padded(value):
        def fill(x):
            padding = (weight == 0).reshape(-1, *[1] * (x.ndim - 1))
            return np.where(padding, np.float32(value), x) if x.dtype == np.float32 else x

        return jax.tree.map(fill, (case.rows, np.ones(SIZE, np.float32)))

    found = squares(losses, case.params, padded(np.nan), weight)
    chex.assert_trees_all_equal(found, squares(losses, case.params, padded(0), weight))
    chex.assert_tree_all_finite(found)
    nothing = squares(losses, case.params, padded(np.nan), 0 * weight)
    assert all((x == 0).all() for x in jax.tree.leaves(nothing))
    assert (np.isnan(norms(losses, case.params, padded(np.nan))) == (weight == 0)).all()


@pytest.mark.quick("one axis", "rows of a table")
@pytest.mark.parametrize("name", ["mlp", "one axis", "rows of a table", "tied in parts"])
def test_chunk_size_does_not_matter(name):
    case, weight = case_of(name), np.linspace(0.5, 2.0, SIZE, dtype=np.float32)
    arguments = case.losses, case.params, case.rows
    expected = squares(*arguments, weight), norms(*arguments)
    for chunk_size in (1, 3):  # 3 leaves a remainder
        found = (
            squares(*arguments, weight, chunk_size=chunk_size),
            norms(*arguments, chunk_size=chunk_size),
        )
        assert_close(found, expected, 1e-5)


def test_groups_of_many_examples():
    """More examples than are formed at a time, and not a multiple."""
    case = raw_case(lambda p, x: x @ p["w"], {"w": normal(0, 3, 4)}, normal(1, 21, 5, 3))
    weight = np.linspace(0.5, 2.0, 21, dtype=np.float32)
    gradients = jax.vmap(jax.grad(lambda p, x: case.losses(p, x[None])[0]), (None, 0))
    expected = weighted(np.square, jax.device_get(gradients(case.params, case.rows)), weight)
    found = squares(case.losses, case.params, case.rows, weight)
    assert_close(found, expected, 1e-5)


@pytest.mark.quick("groups", "lookup")
@pytest.mark.parametrize("name", ["groups", "experts", "lookup", "kernel and transpose"])
def test_vmap_over_an_ensemble_and_over_data(name):
    case, weight = case_of(name), np.linspace(0.5, 2.0, SIZE, dtype=np.float32)
    arguments = case.params, case.rows, weight
    shifted = jax.tree.map(lambda x: x + np.float32(0.1) if x.dtype == np.float32 else x, arguments)
    pairs = jax.tree.map(lambda *x: np.stack(x), arguments, shifted)
    total = functools.partial(squares, case.losses)
    found = jax.vmap(total)(*pairs)
    expected = [total(*arguments), total(*shifted)]
    assert_close(found, jax.tree.map(lambda *x: np.stack(x), *expected), 1e-5)
    found = jax.vmap(total, (None, 0, 0))(case.params, *pairs[1:])
    expected = [total(*arguments), total(case.params, *shifted[1:])]
    assert_close(found, jax.tree.map(lambda *x: np.stack(x), *expected), 1e-5)


def test_inside_a_scan_with_captured_arrays():
    """As the library calls it; what the losses capture may be traced."""
    case, weight = case_of("mlp"), np.ones(SIZE, np.float32)

    def total(scale):
        def losses(params, rows):
            return scale * case.losses(params, rows)

        return per_example.sum_of_squares(losses, case.params, case.rows, weight)

    @jit
    def scanned(scales):
        def add(sum, scale):
            return jax.tree.map(jnp.add, sum, total(scale)), None

        return lax.scan(add, jax.tree.map(jnp.zeros_like, case.params), scales)[0]

    once = squares(case.losses, case.params, case.rows, weight)
    assert_close(scanned(jnp.array([1.0, 2.0])), jax.tree.map(lambda x: 5 * x, once), 1e-5)


def test_losses_are_traced_once():
    case, traces = case_of("mlp"), []

    def losses(params, rows):
        traces.append(1)
        return case.losses(params, rows)

    for seed in range(3):
        squares(losses, case.params, case.rows, normal(seed, SIZE))
    assert len(traces) == 1


def test_rows_may_hold_random_keys():
    def losses(params, rows):
        noise = jax.vmap(lambda key: jax.random.normal(key, (5,)))(rows["key"])
        return jnp.sin((rows["x"] + noise) @ params).sum(-1)

    rows = {"x": normal(1, SIZE, 5), "key": jax.random.split(jax.random.key(0), SIZE)}
    case, weight = Case(losses, normal(2, 5, 3), rows, {}), np.ones(SIZE, np.float32)
    found = squares(losses, case.params, rows, weight, chunk_size=3)
    assert_close(found, weighted(np.square, gradient_loop(case), weight), 1e-5)


MESH_CASES = ["mlp", "conv", "lookup", "tied embedding", "standardized convolution"]


def tiled(case):
    """The rows eight times over and their weights: a batch for eight devices."""
    rows = jax.tree.map(lambda x: np.concatenate([x] * 8), case.rows)
    return rows, np.linspace(0.0, 2.0, 8 * SIZE, dtype=np.float32)


@pytest.fixture
def mesh():
    if jax.device_count() < 8:
        pytest.skip("needs eight devices")
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


@pytest.mark.quick("conv", "lookup")
@pytest.mark.parametrize("name", MESH_CASES)
def test_automatic_partitioning(name, mesh):
    case = case_of(name)
    rows, weight = tiled(case)
    sharded = jax.device_put((rows, weight), NamedSharding(mesh, P("data")))
    params = jax.device_put(case.params, NamedSharding(mesh, P()))
    expected = squares(case.losses, case.params, rows, weight)
    assert_close(squares(case.losses, params, *sharded), expected, 1e-5)


@pytest.mark.quick("conv-cast", "recurrent-cast", "mlp-*")
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, "cast") for name in (*MESH_CASES, "recurrent")),
        *(("mlp", kind) for kind in ("no cast", "unchecked", "explicit axes")),
        ("standardized convolution", "no cast"),
    ],
)
def test_shard_map(name, kind, mesh):
    """Also where the parameters do not vary: plain gradients would be summed over devices."""
    case = case_of(name)
    if kind == "explicit axes":
        mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    specs = {"in_specs": (P(), P("data"), P("data")), "out_specs": P()}

    @jit
    @functools.partial(jax.shard_map, mesh=mesh, **specs, check_vma=kind != "unchecked")
    def sharded(params, rows, weight):
        if kind == "cast":
            params = jax.tree.map(lambda x: lax.pcast(x, "data", to="varying"), params)
        total = per_example.sum_of_squares(case.losses, params, rows, weight, chunk_size=2)
        return lax.psum(total, "data")

    rows, weight = jax.device_put(tiled(case), NamedSharding(mesh, P("data")))
    params = jax.device_put(case.params, NamedSharding(mesh, P()))
    expected = squares(case.losses, case.params, *tiled(case))
    assert_close(sharded(params, rows, weight), expected, 1e-5)


def test_norms_in_shard_map(mesh):
    case = case_of("mlp")
    rows, _ = tiled(case)
    local = functools.partial(per_example.squared_norms, case.losses)
    sharded = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"))
    expected = norms(case.losses, case.params, rows)
    assert_close(jit(sharded)(case.params, rows), expected, 1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"params": {"w": np.ones((5, 3), int)}}, "floating-point"),
        ({"rows": (np.ones((4, 5)), np.ones(3))}, "leading axis"),
        ({"rows": (np.ones((0, 5)), np.ones(0))}, "positive leading axis"),
        ({"weight": np.ones(3)}, "one weight per row"),
        ({"losses": lambda p, rows: (rows[0] @ p["w"]).sum()}, "one loss per row"),
    ],
)
def test_errors_say_what_to_do(change, words):
    arguments = {
        "losses": lambda p, rows: (rows[0] @ p["w"]).sum(-1),
        "params": {"w": np.ones((5, 3))},
        "rows": (np.ones((4, 5)), np.ones(4)),
        "weight": np.ones(4),
    }
    jax.eval_shape(lambda: per_example.sum_of_squares(**arguments))
    with pytest.raises(ValueError, match=words):
        per_example.sum_of_squares(**arguments | change)
