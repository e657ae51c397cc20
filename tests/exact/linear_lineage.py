"""A small lineage of SISA; as a program, it serves requests from a store until all are done."""

from __future__ import annotations

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mu_jax as mu
from mu_jax.store import Store

REQUESTS = [[3], [10, 11, 12], [0, 1], [20], [31, 7]]
KEY = jax.random.key(3)


@functools.cache
def examples(width: int = 4) -> mu.Batches:
    inputs = np.random.default_rng(0).normal(size=(32, width)).astype(np.float32)
    return mu.batches(inputs, inputs.sum(axis=1), batch_size=4)


MODEL = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
ADAM = optax.adam(0.05)


def drawn(key, width):
    return mu.Variables(jax.random.normal(key, (width,)))


@functools.cache
def protocol(width: int = 4) -> mu.exact.SISA:
    init = functools.partial(drawn, width=width)
    sizes = dict(shards=2, slices=3, epochs=4, batch_size=4, capacity=32)
    return mu.exact.sisa(MODEL, ADAM, init=init, combine="outputs", placement=places, **sizes)


def places(ids):
    return ids % 2, ids // 2 % 3


def main(directory: str) -> None:
    print("ready", flush=True)
    own, store = protocol(), Store(directory)
    like = jax.tree.map(jnp.zeros_like, own.train(KEY, examples())[0])
    if not (store.directory / "SERVING").exists():
        store.swap(store.publish(own.train(KEY, examples())[0], method="train"))
    for forget_ids in REQUESTS:
        if set(forget_ids) <= set(store.forgotten().tolist()):
            continue
        parent = store.serving()
        forget, retain = store.split(examples(), forget_ids)
        after, _ = own.unlearn(None, store.restore(like=like), forget, retain)
        version = store.publish(after, method="sisa", parent=parent, forgotten=forget.index)
        store.swap(version, expected=parent)


if __name__ == "__main__":
    main(sys.argv[1])
