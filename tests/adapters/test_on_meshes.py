"""Adapters of a decoder whose parameters are divided over a mesh."""

from __future__ import annotations

import functools

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from trees import assert_close, assert_identical

import mu_jax as mu
from mu_jax.models import decoder as decoders

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
CONFIG = decoders.DecoderConfig(
    "llama",
    vocab_size=32,
    width=8,
    depth=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=4,
    mlp_width=16,
    max_positions=64,
)
ROWS = np.random.default_rng(0).integers(32, size=(8, 6)).astype(np.int32)
AXES = ("data", "fsdp")


def unlearned(mesh, factored):
    """O3 after a first request, its variables before and after."""
    rows = None if mesh is None else NamedSharding(mesh, PartitionSpec(AXES))
    decoder = decoders.Decoder(CONFIG, scan_layers=True, rows=rows)
    base, variables = decoder.model(mu.token_losses.TokenCrossEntropy()), decoder.init(key(0))
    targets = mu.data.TokenTargets(ROWS, np.ones(ROWS.shape, np.float32))
    sets = mu.split(mu.batches(ROWS, targets, batch_size=4), [0, 1, 2, 3])
    start = mu.adapters.attach(key(1), base, variables, rank=2, chosen=decoders.is_linear)
    earlier = [jax.tree.map(np.asarray, start.adapters)]
    if mesh is not None:
        divided = mu.shard_params(variables, mesh, rules=decoders.sharding_rules())
        whole = NamedSharding(mesh, PartitionSpec())
        start = mu.adapters.Adapted(*jax.device_put(start[:2], whole), divided)
        sets = [mu.shard(part, mesh, axis=AXES) for part in sets]
    model = mu.adapters.adapted(base, factored=factored)
    unlearn = mu.o3(model, optax.sgd(5.0), epochs=2, earlier=earlier)
    return start, mu.watched(unlearn, False)(key(2), start, *sets)[0]


key = jax.random.key
expected = functools.cache(lambda: unlearned(None, True))


@pytest.mark.slow
@pytest.mark.quick("explicit-factored")
@pytest.mark.parametrize("factored", [True, False], ids=["factored", "merged"])
@pytest.mark.parametrize("axes", ["explicit", "automatic"])
def test_a_divided_base_stays_divided_and_gives_the_same(axes, factored):
    kind = {"explicit": AxisType.Explicit, "automatic": AxisType.Auto}[axes]
    mesh = jax.make_mesh((2, 2), AXES, axis_types=(kind, kind), devices=jax.devices()[:4])
    start, found = unlearned(mesh, factored)
    before, wanted = expected()
    moved = np.abs(wanted.adapters["blocks/mlp/down"].b - before.adapters["blocks/mlp/down"].b)
    assert moved.max() > 1e-3
    assert_close(found.adapters, wanted.adapters, rtol=1e-4)
    assert_identical(found.base, start.base)
    down = found.base.params["blocks"]["mlp"]["down"]
    assert down.sharding.spec == PartitionSpec(None, None, "fsdp")
