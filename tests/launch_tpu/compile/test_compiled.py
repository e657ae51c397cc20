"""What is read of one compiled program: operations, messages, time at best, a refusal."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from launch_tpu.compile import compiled, operations, topologies
from launch_tpu.compile.compiled import Collective

V5E = topologies.GENERATIONS["v5e"]


@pytest.mark.parametrize(
    ("operations", "traffic", "messages", "seconds"),
    [
        (197e12, 0.0, {}, 1.0),
        (197e12, 2 * 819e9, {}, 2.0),
        (0.0, 0.0, {"all-gather": Collective(3, 400 * 10**9)}, 1.0),
        (0.0, 819e9, {"all-reduce": Collective(1, 400 * 10**9)}, 2.0),
    ],
)
def test_the_roofline_is_the_longest_of_three(operations, traffic, messages, seconds):
    assert compiled.roofline(operations, traffic, messages, V5E) == pytest.approx(seconds)


def test_messages_cost_nothing_where_the_vendor_does_not_say():
    v4 = topologies.GENERATIONS["v4"]
    assert compiled.roofline(275e12, 0.0, {"all-reduce": Collective(1, 10**15)}, v4) == 1.0


def trace(function, *shapes):
    return jax.jit(function).trace(*(jnp.zeros(shape) for shape in shapes)).jaxpr


def convolve(x, kernel, strides=(1, 1)):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=numbers)


def squares(x, kernel):
    return (convolve(x, kernel, (2, 2)) ** 2).sum()


CONVOLUTION = 2 * (2 * 4 * 4 * 5) * (3 * 3 * 4)  # outputs times taps


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (trace(jnp.matmul, (3, 4), (4, 5)), 2 * 3 * 4 * 5),
        (trace(jax.vmap(jnp.matmul), (7, 3, 4), (7, 4, 5)), 7 * 2 * 3 * 4 * 5),
        (trace(jnp.add, (3,), (3,)), 0),
        (trace(lambda x: lax.scan(lambda c, _: (c @ x, 0), x, length=6), (4, 4)), 6 * 128),
        (trace(lambda x: lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x), (4, 4)), 128),
        (trace(jax.jit(jax.checkpoint(lambda x: x @ x)), (4, 4)), 128),
        (trace(partial(convolve, strides=(2, 2)), (2, 9, 9, 4), (3, 3, 4, 5)), CONVOLUTION),
        # Two of the same size backward; the one to the inputs works on a padded, dilated array.
        (trace(jax.grad(squares, 1), (2, 9, 9, 4), (3, 3, 4, 5)), 2 * CONVOLUTION),
    ],
)
def test_operations_of_known_programs(program, expected):
    assert operations.count(program) == expected


def test_products_with_padding_between_pixels_do_not_count():
    backward = trace(jax.grad(squares, 0), (2, 9, 9, 4), (3, 3, 4, 5))
    assert CONVOLUTION < operations.count(backward) < 2.5 * CONVOLUTION


def test_operations_are_those_of_one_chip():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    local = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    both = trace(lambda x, w: (local(x, w), x @ w), (16, 4), (4, 5))
    assert operations.count(both, chips=8) == 2 * (2 * 2 * 4 * 5)


MOVES = {
    "all-reduce": (lambda x: lax.psum(x, "data"), P(), 4 * 16),
    "all-gather": (lambda x: lax.all_gather(x, "data", tiled=True), P("data"), 8 * 4 * 16),
    "reduce-scatter": (
        lambda x: lax.psum_scatter(x, "data", tiled=True, scatter_dimension=1), P(None, "data"), 8,
    ),
    "all-to-all": (lambda x: lax.all_to_all(x, "data", 1, 0, tiled=True), P("data"), 4 * 16),
    "collective-permute": (
        lambda x: lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)]), P("data"), 4 * 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MOVES)
def test_messages_of_known_programs(kind):
    function, out, size = MOVES[kind]
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    whole = jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=out, check_vma=False)
    rows = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    text = jax.jit(whole).lower(rows).compile().as_text()
    assert compiled.collectives(text) == {kind: Collective(1, size)}


def test_messages_as_a_tpu_writes_them():
    text = """
      %a = (f32[2,3]{1,0:T(8,128)S(1)}, bf16[4]{0:T(128)}, /*index=5*/pred[7]{0}) all-reduce(%x, %y)
      %b = (f32[2]{0}, f32[16]{0}, u32[]) all-gather-start(%z), dimensions={0}
      %c = f32[16]{0} all-gather-done(%b)
      %d = f32[9]{0} fusion(%all-reduce.3), calls=%all-reduce-scatter
    """
    expected = {"all-reduce": Collective(1, 24 + 8 + 7), "all-gather": Collective(1, 64)}
    assert compiled.collectives(text) == expected


REFUSALS = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(20.50G) exceeds available HBM (15.75G).",
)


@pytest.mark.parametrize("message", REFUSALS)
def test_a_refusal_of_the_compiler_is_read(message):
    assert compiled.refusal(message) == (int(20.5 * 2**30), int(15.75 * 2**30))


def test_another_error_is_no_refusal():
    assert compiled.refusal("RESOURCE_EXHAUSTED: out of patience") is None
