"""A small fit, and the same loop written out, for the tests of fitting."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mu_jax as mu
from mu_jax.data.batches import random_order

N, KEY, ADAM = 11, jax.random.key(4), optax.adam(0.05)


def squared(outputs, targets):
    return jnp.square(outputs - targets)


MODEL = mu.from_function(lambda w, state, x: jnp.tanh(x @ w["w"]) @ w["v"], squared)
OBJECTIVE = mu.supervised(MODEL)


def start(dtype=jnp.float32):
    return mu.Variables(
        {"w": jnp.asarray(np.linspace(-1, 1, 6).reshape(3, 2), dtype), "v": jnp.ones(2, dtype)}
    )


def data(batch_size=4, dtype=jnp.float32, weight=None):
    inputs = jax.random.normal(jax.random.key(0), (N, 3), dtype)
    return mu.batches(inputs, jnp.sin(inputs.sum(1)), batch_size=batch_size, weight=weight)


def pairs(batches):
    rows = zip(np.asarray(batches.inputs), np.asarray(batches.targets), strict=True)
    return mu.stream(list(rows), batch_size=batches.batch_size)


def run(batches=None, objective=OBJECTIVE, optimizer=ADAM, **arguments):
    batches = data() if batches is None else batches
    arguments = {"key": KEY, **arguments}
    return mu.fit(MODEL, objective, optimizer, start(), batches, **arguments)


def mean_loss(params, x, y, weight):
    losses = squared(MODEL.predict(params, (), x), y)
    return jnp.sum(weight * losses) / jnp.sum(weight)


value_and_gradient = jax.jit(jax.value_and_grad(mean_loss))


def by_hand(batches, steps, optimizer=ADAM, shuffle=True, gradient=None):
    """The loop written out: rows without padding, optax applied by hand."""
    params = start().params
    opt_state, losses = optimizer.init(params), []
    gradient = gradient or value_and_gradient
    per_epoch = -(-N // batches.batch_size)
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        order = np.asarray(random_order(jax.random.fold_in(KEY, epoch), N))
        order = order if shuffle else np.arange(N)
        rows = order[place * batches.batch_size : (place + 1) * batches.batch_size]
        arrays = batches.inputs, batches.targets, batches.weight
        batch = [np.asarray(array)[rows] for array in arrays]
        loss, grads = gradient(params, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    return params, losses


def close(first, second, rtol=2e-5, atol=1e-6):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), first, second)


def as_data(tree):
    def data(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(data, tree)


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, as_data(first), as_data(second))
