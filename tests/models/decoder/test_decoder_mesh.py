"""Decoders divided over meshes: created, read, computed, written."""

from __future__ import annotations

import dataclasses
import re

import checkpoints
import jax
import jax.numpy as jnp
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
    decoder, found = decoders.read_decoder(checkpoints.write(tmp_path, "llama2"), mesh=mesh)
    assert spec_at(found.params, "embedding") == (None, "fsdp")
    assert spec_at(found.params, "head") == ("fsdp",)
    assert spec_at(found.params, "block_2/mlp/down") == (None, "fsdp")
    assert spec_at(found.params, "block_2/mlp_norm") == spec_at(found.params, "norm") == ()
    state = optax.adam(1e-3).init(found.params)
    places = mu.param_shardings(state, mesh, rules=decoders.sharding_rules())
    assert places[0].mu["block_0"]["attention"]["key"].spec == P("fsdp", None)
    assert decoder.rows == NamedSharding(mesh, P(("data", "fsdp")))
    assert decoders.read_decoder(tmp_path, mesh=mesh, rows="data")[0].rows.spec == P("data")
    with pytest.raises(ValueError, match=r"expected rule .* to divide embedding .* evenly"):
        decoders.read_decoder(
            tmp_path,
            mesh=mesh_of((1, 8), ("a", "b")),
            axis="b",
            rules=[("embedding", P("b", None))],
        )


def divided_over(mesh, decoder, params):
    """A decoder, its parameters and the rows on a mesh of fsdp and tensor."""
    rules = [("embedding|head", P(None, "fsdp")), *decoders.sharding_rules("fsdp", "tensor")]
    rules = [("head", P("fsdp", None)), *rules]  # 61 tokens are no multiple of 2
    rows = jax.device_put(ROWS, NamedSharding(mesh, P("fsdp")))
    decoder = dataclasses.replace(decoder, rows=rows.sharding)
    return decoder, mu.shard_params(params, mesh, rules=rules), rows


@pytest.mark.quick("auto-mistral", "explicit-mistral")
@pytest.mark.parametrize("name", ["llama3", "mistral"])
@both_kinds
def test_eight_devices_compute_what_one_does(kind, name, tiny, log_probabilities):
    decoder, params = tiny(name, scan_layers=True)
    mesh = mesh_of((4, 2), ("fsdp", "tensor"), kind)
    found = log_probabilities(*divided_over(mesh, decoder, params))
    np.testing.assert_allclose(found, log_probabilities(decoder, params, ROWS), atol=2e-5)


@pytest.mark.slow
@both_kinds
def test_eight_devices_write_what_one_does(kind, tiny):
    decoder, params = tiny("mistral", scan_layers=True)
    mesh = mesh_of((4, 2), ("fsdp", "tensor"), kind)
    on_mesh, divided, rows = divided_over(mesh, decoder, params)
    text = decoders.decode(on_mesh, divided, rows[:, :5], max_new=4)
    alone = decoders.decode(decoder, params, ROWS[:, :5], max_new=4)
    np.testing.assert_array_equal(text.tokens, alone.tokens)


def next_token_loss(logits, targets):
    values = jax.nn.log_softmax(logits)[:, :-1]
    wanted = jax.nn.one_hot(targets[:, 1:], values.shape[-1])
    return -(values * wanted).sum(-1).mean(1)


@pytest.mark.slow
@both_kinds
def test_importance_on_a_mesh_is_the_loop_over_rows(kind, tiny):
    decoder, params = tiny("llama3", scan_layers=True)
    mesh = mesh_of((2, 4), ("data", "fsdp"), kind)
    on_mesh = dataclasses.replace(decoder, rows=NamedSharding(mesh, P("data")))
    data = mu.batches(decoders._checks.as_tokens(ROWS), ROWS, batch_size=4)
    statistic = mu.statistics.importance(on_mesh.model(next_token_loss))
    divided = mu.Variables(mu.shard_params(params, mesh, rules=decoders.sharding_rules()))
    found = mu.collect(statistic, divided, mu.shard(data, mesh, axis="data")).value

    @jax.jit
    def square(params, row):
        def loss(params):
            return next_token_loss(decoder.logits(params, row[None]), row[None])[0]

        return jax.tree.map(jnp.square, jax.grad(loss)(params))

    wanted = jax.tree.map(lambda *x: sum(x) / len(ROWS), *(square(params, row) for row in ROWS))

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max())

    jax.tree.map(close, found, wanted)


@pytest.mark.slow
@both_kinds
def test_fine_tuning_on_a_mesh_is_that_on_one_device(kind, tiny):
    decoder, params = tiny("llama3", scan_layers=True)
    tune = jax.jit(mu.finetune(decoder.model(next_token_loss), optax.sgd(0.1), epochs=1))
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


def bytes_moved(decoder, params, rows):
    """Bytes that collectives of a compiled gradient return on a device, loops counted once."""

    def loss(params, rows):
        return jax.nn.log_softmax(decoder.logits(params, rows))[:, :, 0].mean()

    places = jax.tree.map(lambda x: x.sharding, params)
    text = jax.jit(jax.grad(loss), out_shardings=places).lower(params, rows).compile().as_text()
    names = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    found = re.findall(rf"= (.*?) (?:{names})(?:-start)?\(", text)
    shapes = [shape.split(",") for each in found for shape in re.findall(r"f32\[([\d,]+)\]", each)]
    return 4 * sum(int(np.prod([int(size) for size in shape])) for shape in shapes)


@pytest.mark.slow
def test_devices_gather_parameters_not_states():
    config = decoders.DecoderConfig("llama", 512, 64, 4, 4, 2, 16, 256, 128)
    mesh = mesh_of((8,), ("fsdp",))
    plain = decoders.Decoder(config, scan_layers=True, remat=True)
    params = mu.init_params(plain.init, jax.random.key(0), mesh, rules=decoders.sharding_rules())
    rows = jax.device_put(np.zeros((32, 128), np.int32), NamedSharding(mesh, P("fsdp")))
    decoder = dataclasses.replace(plain, rows=rows.sharding)
    kept, moved = (bytes_moved(each, params.params, rows) for each in (decoder, plain))
    table, block = 4 * 512 * 64, 4 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 256)
    # In both directions: a block twice to compute and again, and its gradient; the head; the table,
    # of which the rows that are looked up move.
    states = 4 * 32 * 128 * 64 // 8
    assert kept <= 3 * block + 4 * table + 2 * states
    assert moved > 5 * kept
