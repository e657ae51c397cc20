"""Processes that answer from a store while its versions swap.

`python watched.py reader|writer DIRECTORY COUNT SECONDS`: the reader prints what it saw as JSON.
"""

from __future__ import annotations

import json
import sys
import time

import jax
import jax.numpy as jnp

from mu_jax.store import Store

LEAVES, WIDTH = 6, 64


def variables(number):
    """Weights of which every entry is the number of the version."""
    return {f"layer_{i}": jnp.full((WIDTH, WIDTH), number, jnp.float32) for i in range(LEAVES)}


@jax.jit
def predict(variables, x):
    """The smallest and the largest entry that the answer comes from, of every leaf."""
    products = jnp.stack([x @ leaf for leaf in variables.values()])
    return products.min(), products.max()


def read(store, count, pause=0.0):
    """`count` answers: the versions seen in order, and every answer that is of no one version."""
    x, seen, mixed, refused = jnp.ones(WIDTH) / WIDTH, [], [], set()
    with store.watch(like=variables(0), every=0.05) as watch:
        for _ in range(count):
            served = watch.current()
            low, high = map(float, predict(served.variables, x))
            if not low == high == served.version:
                mixed.append((served.version, low, high))
            if not seen or seen[-1] != served.version:
                seen.append(served.version)
            if watch.refused is not None:
                refused.add(watch.refused.reason)
            time.sleep(pause)
    return {"seen": seen, "mixed": mixed, "refused": sorted(refused), "count": count}


def write(store, count, pause):
    """Publish and serve `count` versions, one after another, and keep the last two."""
    for _ in range(count):
        parent = store.serving()
        number = store.publish(variables((parent or 0) + 1), method="ssd", parent=parent)
        store.swap(number, expected=parent)
        store.prune(keep=1)
        time.sleep(pause)


if __name__ == "__main__":
    role, directory, count, seconds = sys.argv[1:]
    if role == "writer":
        write(Store(directory), int(count), float(seconds))
    else:
        print(json.dumps(read(Store(directory), int(count), float(seconds) / int(count))))
        assert predict._cache_size() == 1
