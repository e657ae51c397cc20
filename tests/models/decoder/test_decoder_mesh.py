"""Decoders divided over meshes: created, read, computed, written."""

from __future__ import annotations

import checkpoints
import jax
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import mu_jax as mu
from mu_jax.models import decoder as decoders

ROWS = checkpoints.rows(8)


def mesh_of(shape, names, kind=AxisType.Auto):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(shape))


def spec_at(tree, *path):
    """How a leaf is divided, without the last dimensions that are not."""
    spec = decoders.layout.at(tree, *path).sharding.spec
    return tuple(spec)[: max((k + 1 for k, names in enumerate(spec) if names), default=0)]


both_kinds = pytest.mark.parametrize(
    "kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"]
)


@pytest.mark.quick("True-explicit", "False-auto")
@both_kinds
@pytest.mark.parametrize("scan", [False, True])
def test_read_onto_a_mesh_tensor_by_tensor(scan, kind, tmp_path):
    mesh = mesh_of((4, 2), ("fsdp", "tensor"), kind)
    folder = checkpoints.write(tmp_path, "qwen3", files=2)
    rules = decoders.sharding_rules("fsdp", "tensor")
    rules = [("embedding|head", P(None, None)), *rules]  # 61 tokens are no multiple of 2
    decoder, found = decoders.read_decoder(folder, scan_layers=scan, mesh=mesh, rules=rules)
    wanted = decoders.read_decoder(folder, scan_layers=scan)[1]
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    block, lead = ("blocks", (None,)) if scan else ("block_1", ())
    assert spec_at(found.params, block, "mlp/up") == (*lead, "fsdp", "tensor")
    assert spec_at(found.params, block, "attention/out") == (*lead, "tensor", "fsdp")
    assert spec_at(found.params, block, "attention/query_norm") == ()
    up = decoders.layout.at(found.params, block, "mlp/up")
    assert up.addressable_shards[0].data.size * 8 == up.size
    written = decoders.write_decoder(tmp_path / "new", decoder, found)
    again = decoders.read_decoder(written, scan_layers=scan)[1]
    jax.tree.map(np.testing.assert_array_equal, again, wanted)


def test_the_rules_by_default(tmp_path):
    mesh = mesh_of((2, 4), ("data", "fsdp"))
    _, found = decoders.read_decoder(checkpoints.write(tmp_path, "llama2"), mesh=mesh)
    assert spec_at(found.params, "embedding") == (None, "fsdp")
    assert spec_at(found.params, "head") == ("fsdp",)
    assert spec_at(found.params, "block_2/mlp/down") == (None, "fsdp")
    assert spec_at(found.params, "block_2/mlp_norm") == spec_at(found.params, "norm") == ()
    state = optax.adam(1e-3).init(found.params)
    places = mu.param_shardings(state, mesh, rules=decoders.sharding_rules())
    assert places[0].mu["block_0"]["attention"]["key"].spec == P("fsdp", None)
    with pytest.raises(ValueError, match=r"expected rule .* to divide embedding .* evenly"):
        decoders.read_decoder(
            tmp_path,
            mesh=mesh_of((1, 8), ("a", "b")),
            axis="b",
            rules=[("embedding", P("b", None))],
        )


@pytest.mark.quick("auto-mistral", "explicit-mistral")
@pytest.mark.parametrize("name", ["llama3", "mistral"])
@both_kinds
def test_eight_devices_compute_what_one_does(kind, name, tiny, log_probabilities):
    decoder, params = tiny(name, scan_layers=True)
    mesh = mesh_of((4, 2), ("fsdp", "tensor"), kind)
    rules = [("embedding|head", P(None, "fsdp")), *decoders.sharding_rules("fsdp", "tensor")]
    if "head" in params:
        rules = [("head", P("fsdp", None)), *rules]
    divided = mu.shard_params(params, mesh, rules=rules)
    rows = jax.device_put(ROWS, NamedSharding(mesh, P("fsdp")))
    found = log_probabilities(decoder, divided, rows)
    np.testing.assert_allclose(found, log_probabilities(decoder, params, ROWS), atol=2e-5)
    text = decoders.decode(decoder, divided, rows[:, :5], max_new=4)
    alone = decoders.decode(decoder, params, ROWS[:, :5], max_new=4)
    np.testing.assert_array_equal(text.tokens, alone.tokens)


@pytest.mark.slow
@both_kinds
def test_fine_tuning_on_a_mesh_is_that_on_one_device(kind, tiny):
    decoder, params = tiny("llama3", scan_layers=True)

    def loss(logits, targets):
        values = jax.nn.log_softmax(logits)[:, :-1]
        wanted = jax.nn.one_hot(targets[:, 1:], values.shape[-1])
        return -(values * wanted).sum(-1).mean(1)

    tune = jax.jit(mu.finetune(decoder.model(loss), optax.sgd(0.1), epochs=1))
    rows = decoders._checks.as_tokens(ROWS)
    data = mu.batches(rows, ROWS, batch_size=4)
    key, sets = jax.random.key(0), mu.split(data, [0, 3])
    wanted, _ = tune(key, mu.Variables(params), *sets)
    mesh = mesh_of((2, 4), ("data", "fsdp"), kind)
    rules = decoders.sharding_rules()
    divided = mu.Variables(mu.shard_params(params, mesh, rules=rules))
    sharded = [mu.shard(each, mesh, axis="data") for each in sets]
    found, _ = tune(key, divided, *sharded)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, wanted)
    assert spec_at(found.params, "blocks/mlp/up") == (None, "fsdp")
