"""Importance of every parameter of a decoder, exact, against a loop over rows."""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import checkpoints
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType

import mu_jax as mu
from mu_jax.data.tokens import Tokens
from mu_jax.models.decoder import Decoder
from mu_jax.statistics._engine.per_example import sum_of_squares

N, LENGTH = 6, 20


def loss(logits, targets):
    """Mean over the tokens of the row that are not padding, 0."""
    values = jax.nn.log_softmax(logits)[:, :-1]
    scored = targets[:, 1:] > 0
    found = jnp.take_along_axis(values, targets[:, 1:, None], axis=2)[..., 0]
    return -(found * scored).sum(1) / scored.sum(1)


def padded_rows():
    """Rows of several lengths, the last one of two packed documents."""
    lengths = jnp.array([20, 13, 5, 9, 20, 20])
    place = jnp.broadcast_to(jnp.arange(LENGTH), (N, LENGTH))
    segment = (place < lengths[:, None]).astype(jnp.int32)
    segment = segment.at[-1, 8:].set(2)
    position = place.at[-1, 8:].add(-8)
    ids = jnp.where(segment > 0, jnp.maximum(checkpoints.rows(N, LENGTH), 1), 0)
    return Tokens(ids, position, segment)


def of_depth_four(tiny, name, **fields):
    """A decoder without windows, and random parameters larger than those of a new one."""
    config = tiny(name)[0].config
    config = dataclasses.replace(config, depth=4, initializer_range=0.3, sliding_layers=())
    decoder = Decoder(config, **fields)
    dtype = jnp.float64 if jax.config.jax_enable_x64 else jnp.float32
    return decoder, decoder.init(jax.random.key(1), dtype=dtype)


def gradient_loop(decoder, variables, rows, loss=loss):
    """The gradients of the rows, one after another."""

    @jax.jit
    def gradient(params, row):
        return jax.grad(lambda p: loss(decoder.logits(p, row), row.tokens)[0])(params)

    one = [jax.tree.map(lambda x, k=k: x[k : k + 1], rows) for k in range(N)]
    return [gradient(variables.params, row) for row in one]


def assert_close(found, wanted, tolerance=1e-9):
    def close(a, b):
        assert a.dtype == b.dtype and np.abs(b).max() > 0
        tiny = tolerance / 1000 * np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tiny)

    jax.tree.map(close, jax.device_get(found), jax.device_get(wanted))


@pytest.mark.quick("True-True-llama3")
@pytest.mark.parametrize("name", checkpoints.NAMES)
@pytest.mark.parametrize(("scan", "remat"), [(False, False), (True, False), (True, True)])
def test_importance_is_the_loop_over_rows(remat, scan, name, tiny):
    rows = padded_rows()
    with jax.enable_x64(True):
        decoder, variables = of_depth_four(tiny, name, scan_layers=scan, remat=remat)
        each = gradient_loop(decoder, variables, rows)
        wanted = mean([jax.tree.map(np.square, tree) for tree in each])
        model, data = decoder.model(loss), mu.batches(rows, rows.tokens, batch_size=4)
        found = mu.collect(mu.statistics.importance(model), variables, data).value
        assert_close(found, wanted)
        routes = mu.statistics.importance_routes(model, variables, data.at(0))
    assert routes.pop("embedding") == ("tied" if decoder.config.tied_head else "lookup")
    for path, word in jax.tree.leaves_with_path(routes):
        kernel = path[-1].key in ("query", "key", "value", "out", "up", "gate", "down", "head")
        assert word == ("tokens" if kernel else "small"), path


@pytest.mark.slow
@pytest.mark.parametrize("definition", ["grouped", "loss_free"])
def test_groups_and_outputs_of_a_tied_decoder(definition, tiny):
    rows = padded_rows()

    def size(logits, targets):
        return jnp.square(logits).sum((1, 2))

    with jax.enable_x64(True):
        decoder, variables = of_depth_four(tiny, "llama3", scan_layers=True)
        if definition == "grouped":
            each = gradient_loop(decoder, variables, rows)
            pairs = [jax.tree.map(lambda a, b: (a + b) / 2, *each[k : k + 2]) for k in (0, 2, 4)]
            wanted = jax.tree.map(lambda *x: sum(map(np.square, x)) / 3, *pairs)
        else:
            each = gradient_loop(decoder, variables, rows, size)
            wanted = jax.tree.map(lambda *x: sum(map(np.abs, x)) / N, *each)
        model, data = decoder.model(loss), mu.batches(rows, rows.tokens, batch_size=4)
        group_size = 2 if definition == "grouped" else None
        statistic = mu.statistics.importance(model, definition, group_size)
        assert_close(mu.collect(statistic, variables, data).value, wanted)


@pytest.mark.slow
def test_norms_of_the_gradients_of_rows(tiny):
    rows = padded_rows()
    with jax.enable_x64(True):
        decoder, variables = of_depth_four(tiny, "llama3", scan_layers=True)
        each = gradient_loop(decoder, variables, rows)
        wanted = [float(optax.global_norm(tree)) for tree in each]
        data = mu.batches(rows, rows.tokens, batch_size=4)
        found = mu.attribution.grand(decoder.model(loss), [variables], data)
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


def test_no_array_holds_a_table_for_each_row(tiny):
    """Gradients of the tied table are formed for some rows at a time and added up."""
    batch = 16
    config = dataclasses.replace(tiny("llama3")[0].config, vocab_size=4096, width=64, depth=2)
    decoder = Decoder(config, scan_layers=True)
    params = jax.eval_shape(decoder.init, jax.random.key(0)).params
    rows = jax.ShapeDtypeStruct((batch, 8), jnp.int32)

    def losses(params, tokens):
        return loss(decoder.logits(params, tokens), tokens)

    def squares(params, tokens, weight):
        return sum_of_squares(losses, params, tokens, weight, chunk_size=batch)

    weight = jax.ShapeDtypeStruct((batch,), jnp.float32)
    text = jax.jit(squares).lower(params, rows, weight).compile().as_text()
    sizes = [
        math.prod(int(n) for n in shape.split(","))
        for shape in re.findall(r"f32\[([\d,]+)\]", text)
    ]
    table = math.prod(params["embedding"].shape)
    assert table <= max(sizes) < batch * table


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=lambda kind: kind.name)
def test_a_mesh_changes_nothing(kind, tiny):
    rows = padded_rows()
    rows = jax.tree.map(lambda x: jnp.concatenate([x, x[:2]]), rows)
    decoder, variables = of_depth_four(tiny, "llama3", scan_layers=True)
    statistic = mu.statistics.importance(decoder.model(loss))
    data = mu.batches(rows, rows.tokens, batch_size=8)
    wanted = mu.collect(statistic, variables, data).value
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    found = mu.collect(statistic, variables, mu.shard(data, mesh)).value

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5 * np.abs(b).max())

    jax.tree.map(close, jax.device_get(found), jax.device_get(wanted))


def mean(trees):
    return jax.tree.map(lambda *x: sum(x) / len(x), *trees)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ssd", "iau"])
def test_methods_of_importance_unlearn_rows_of_tokens(method, tiny):
    """A tied decoder with scanned, rematerialized layers, against formulas over single rows."""
    rows, cut = padded_rows(), 2
    with jax.enable_x64(True):
        decoder, variables = of_depth_four(tiny, "llama3", scan_layers=True, remat=True)
        each = jax.device_get(gradient_loop(decoder, variables, rows))
        squares = [jax.tree.map(np.square, tree) for tree in each]
        if method == "ssd":
            make = functools.partial(mu.ssd, alpha=1.2, dampening=0.7)

            def edit(x, whole, forget):
                return np.where(forget > 1.2 * whole, np.minimum(0.7 * whole / forget, 1) * x, x)

            statistics = mean(squares), mean(squares[:cut])
        else:
            make = functools.partial(mu.iau, optimizer=optax.sgd(0.1))

            def edit(x, retain, forget):
                return x - 0.1 * (retain - forget)

            statistics = mean(each[cut:]), mean(each[:cut])
        wanted = jax.tree.map(edit, jax.device_get(variables.params), *statistics)

        data = mu.batches(rows, rows.tokens, batch_size=2)
        forget, retain = mu.split(data, np.arange(cut))
        transform = mu.watched(make(decoder.model(loss)), False)
        found, _ = transform(jax.random.key(0), variables, forget, retain)
        assert_close(found.params, wanted)


@pytest.mark.slow
def test_curvature_of_a_tied_decoder_is_the_dense_matrix(tiny):
    with jax.enable_x64(True):
        decoder, start = of_depth_four(tiny, "qwen2", scan_layers=True)
        rows, tokens = padded_rows(), padded_rows().tokens
        model = mu.from_function(lambda p, state, x: decoder.logits(p, x), loss)
        flat, unravel = jax.flatten_util.ravel_pytree(start.params)
        picked = np.random.default_rng(0).permutation(flat.size)[:200]

        def logits(x):
            return decoder.logits(unravel(flat.at[picked].set(x)), rows)

        def of_logits(outputs):
            return loss(outputs, tokens).mean()

        jacobian = jax.jacfwd(logits)(flat[picked]).reshape(-1, picked.size)
        outputs = logits(flat[picked])

        def curvature(column):
            return jax.jvp(jax.grad(of_logits), (outputs,), (column.reshape(outputs.shape),))[1]

        dense = jacobian.T @ jax.vmap(curvature)(jacobian.T).reshape(picked.size, -1).T
        problem = mu.solvers.Problem(model, start, mu.batches(rows, tokens, batch_size=4))
        vector = unravel(jnp.zeros_like(flat).at[picked].set(jnp.arange(picked.size) / 100))
        found = jax.flatten_util.ravel_pytree(problem.product(vector))[0][picked]
        wanted = dense @ (jnp.arange(picked.size) / 100)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
