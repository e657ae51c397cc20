"""Attribution of a model whose operations run for one example at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import mu_jax as mu


def test_features_of_ragged_experts_are_those_of_the_experts_written_out():
    def ragged(w, state, x):
        def one(row):
            second = (row[0] > 0).astype(jnp.int32)
            return jax.lax.ragged_dot(row[None], w, jnp.stack([1 - second, second]))[0]

        return jax.lax.map(one, x)

    def plain(w, state, x):
        return jnp.where(x[:, :1] > 0, x @ w[1], x @ w[0])

    x = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    w = mu.Variables(jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 2)), jnp.float32))
    data, key = mu.batches(x, np.arange(12) % 2, batch_size=5), jax.random.key(0)
    grams = []
    for predict in (ragged, plain):
        model = mu.from_function(predict, mu.losses.cross_entropy)
        store = mu.attribution.trak(model, [w], data, key=key, dim=None, weight_decay=0.1)
        grams.append(store.checkpoints[0].gram.value["gram"])
    np.testing.assert_allclose(*grams, rtol=1e-5, atol=1e-6)
