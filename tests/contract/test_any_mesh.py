"""One device, two, four, eight, on automatic and on explicit mesh axes: the same answer."""

import itertools

import jax
import pytest
from jax.sharding import AxisType
from recipes import compiled, every
from small_models import setting
from trees import assert_close

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
FAST = [("raw", "auto", 8, "eager"), ("raw", "explicit", 2, "jit"), ("cnn", "explicit", 4, "jit")]
ALL = [
    *itertools.product(("raw", "cnn"), KINDS, (1, 2, 4, 8), ("jit",)),
    *itertools.product(("raw", "linen", "nnx"), KINDS, (8,), ("eager",)),
]
SLOW = [pytest.param(*values, marks=pytest.mark.slow) for values in ALL if values not in FAST]


@pytest.mark.parametrize(("name", "kind", "devices", "call"), [*FAST, *SLOW])
@every(variants=False)
def test_a_mesh_equals_one_device(case, name, kind, devices, call):
    chosen = setting(name)
    # Rows that fill a batch up reach no sum, but in training mode they reach a batch
    # normalisation: only without one may batches be other than multiples of the devices.
    sets = chosen.sets(batch_size=4 if name == "raw" else 8)
    key, variables, forget, retain = jax.random.key(3), chosen.variables, *sets
    expected = compiled(case, name)(key, variables, forget, retain)
    mesh = jax.make_mesh(
        (devices,), ("data",), axis_types=(KINDS[kind],), devices=jax.devices()[:devices]
    )
    sets = (mu.shard(data, mesh) for data in (forget, retain))
    transform = compiled(case, name) if call == "jit" else case.build(chosen)
    assert_close(transform(key, variables, *sets), expected, rtol=1e-4, atol=2e-6)
