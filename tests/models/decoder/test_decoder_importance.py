"""Importance of every parameter of a decoder, exact, against a loop over rows."""

from __future__ import annotations

import dataclasses

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.data.tokens import Tokens
from mu_jax.models.decoder import Decoder

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


@pytest.mark.slow
@pytest.mark.parametrize("name", checkpoints.NAMES)
@pytest.mark.parametrize(("scan", "remat"), [(False, False), (True, False), (True, True)])
def test_importance_is_the_loop_over_rows(remat, scan, name, tiny):
    config = dataclasses.replace(
        tiny(name)[0].config, depth=4, initializer_range=0.3, sliding_layers=()
    )
    decoder = Decoder(config, scan_layers=scan, remat=remat)
    rows = padded_rows()
    with jax.enable_x64(True):
        variables = decoder.init(jax.random.key(1), dtype=jnp.float64)
        model = decoder.model(loss)

        @jax.jit
        def square(params, row):
            gradient = jax.grad(lambda p: loss(decoder.logits(p, row), row.tokens)[0])(params)
            return jax.tree.map(jnp.square, gradient)

        one = [jax.tree.map(lambda x, k=k: x[k : k + 1], rows) for k in range(N)]
        each = [square(variables.params, row) for row in one]
        wanted = jax.tree.map(lambda *x: sum(x) / N, *each)
        data = mu.batches(rows, rows.tokens, batch_size=4)
        found = mu.collect(mu.statistics.importance(model), variables, data).value

        def close(a, b):
            assert a.dtype == np.float64 and np.abs(b).max() > 0
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12 * np.abs(b).max())

        jax.tree.map(close, found, wanted)
        routes = mu.statistics.importance_routes(model, variables, data.at(0))
    first = routes["blocks" if scan else "block_0"]
    assert set(jax.tree.leaves(first["mlp"])) == {"tokens"}
    assert {first["attention"][n] for n in ("query", "key", "value", "out")} == {"tokens"}
