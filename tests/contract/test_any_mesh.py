"""One device, two, four, eight, on automatic and on explicit mesh axes: the same answer."""

import jax
import pytest
from jax.sharding import AxisType
from recipes import compiled, every
from settings import setting
from trees import assert_close

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
FAST = [("raw", "auto", 8), ("cnn", "explicit", 4)]
SLOW = [
    (name, kind, devices)
    for name in ("raw", "linen", "cnn")
    for kind in KINDS
    for devices in (1, 2, 4, 8)
    if (name, kind, devices) not in FAST
]


def given(name, **options):
    chosen = setting(name)
    return jax.random.key(3), chosen.variables, *chosen.sets(**options)


def mesh_of(kind, devices):
    return jax.make_mesh(
        (devices,), ("data",), axis_types=(KINDS[kind],), devices=jax.devices()[:devices]
    )


@pytest.mark.parametrize(
    ("name", "kind", "devices"),
    [*FAST, *(pytest.param(*values, marks=pytest.mark.slow) for values in SLOW)],
)
@every()
def test_a_mesh_equals_one_device(case, name, kind, devices):
    key, variables, forget, retain = given(name)
    expected = compiled(case, name)(key, variables, forget, retain)
    mesh = mesh_of(kind, devices)
    sets = (mu.shard(data, mesh) for data in (forget, retain))
    found = case.build(setting(name))(key, variables, *sets)
    assert_close(found, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS)
@every()
def test_a_mesh_under_jit(case, kind):
    key, variables, forget, retain = given("raw")
    expected = compiled(case, "raw")(key, variables, forget, retain)
    sets = (mu.shard(data, mesh_of(kind, 2)) for data in (forget, retain))
    assert_close(compiled(case, "raw")(key, variables, *sets), expected, rtol=1e-4)
