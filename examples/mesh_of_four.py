"""Rows over four devices: the same call, the same answer.

    python -m examples.mesh_of_four

Without accelerators the four devices are threads of the CPU.
"""

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import mu_jax as mu

network = nn.Sequential([nn.Dense(48), nn.relu, nn.Dense(10)])


def main():
    """Unlearn on one device and on four, and compare the weights."""
    digits = load_digits()
    inputs, classes = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)
    model = mu.from_linen(network, mu.losses.cross_entropy)
    data = mu.batches(inputs[:1200], classes[:1200], batch_size=100)
    forget, retain = mu.split(data, np.flatnonzero(classes[:1200] == 4))
    key = jax.random.key(0)
    fitted, _ = mu.fit(
        model,
        mu.supervised(model),
        optax.adam(3e-3),
        network.init(key, inputs[:1]),
        data,
        key=key,
        epochs=12,
        batch_size=60,
    )

    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    unlearn = mu.chain(
        mu.ssd(model, alpha=1.5, dampening=0.3),
        mu.finetune(model, optax.sgd(1e-2), epochs=1, batch_size=60),
    )
    alone, _ = unlearn(key, fitted.variables, forget, retain)
    together, _ = unlearn(key, fitted.variables, mu.shard(forget, mesh), mu.shard(retain, mesh))
    difference = max(
        float(abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(together))
    )
    print(f"largest difference of a weight between 1 and 4 devices: {difference:.1e}")
    return difference


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 4)
    main()
