"""Training inside one program: convolutions on a CPU, and ensembles."""

from __future__ import annotations

import jax
import numpy as np
import optax

import mu_jax as mu
from benchmarks.timing import in_turn, table
from mu_jax import datasets, ensembles, models


def convolutions() -> str:
    """Four training steps of a small CNN in one loop, by XLA's convolution and by patches."""
    rng = np.random.RandomState(0)
    x = rng.normal(size=(256, 16, 16, 3)).astype(np.float32)
    data = mu.batches(x, rng.randint(0, 10, 256), batch_size=64)
    alternatives = {}
    for name, convolution in (
        ("XLA's convolution", jax.lax.conv_general_dilated),
        ("as patches", models.patch_convolution),
    ):
        module = models.CNN(num_outputs=10, convolution=convolution)
        alternatives[name] = _fit(module, data)
    times = in_turn(alternatives, repeats=5)
    return table("Four training steps of a CNN in one loop", times, "XLA's convolution", {})


def _fit(module, data):
    model = mu.from_linen(module, mu.losses.cross_entropy)
    variables = module.init(jax.random.key(0), data.inputs[:1])
    objective, optimizer = mu.supervised(model, training_mode=True), optax.sgd(0.1)
    run = jax.jit(
        lambda v, d: mu.fit(model, objective, optimizer, v, d, key=jax.random.key(0))[0].variables
    )
    return lambda: run(variables, data)


def ensemble() -> str:
    """64 small MLPs trained as one program and one after another; 8 CNNs likewise."""
    digits = datasets.load("digits", limit=512)
    data = mu.batches(digits.inputs, digits.targets, batch_size=64)
    lines = []
    for title, module, number, goal in (
        ("64 MLPs 64-32-10, 5 epochs of 512 digits", models.MLP((32,), 10), 64, 0.2),
        ("8 small CNNs, 1 epoch of 512 digits", models.CNN(features=(8, 16), num_outputs=10), 8, 1),
    ):
        epochs = 5 if number == 64 else 1
        together, one = _programs(module, data, epochs)
        keys = jax.random.split(jax.random.key(0), number)
        single = [keys[i : i + 1] for i in range(number)]
        times = in_turn(
            {
                "one after another": lambda one=one, single=single: [one(key) for key in single],
                "as one program": lambda run=together, keys=keys: run(keys),
            },
            repeats=5,
        )
        lines.append(table(title, times, "one after another", {"as one program": goal}))
    return "\n".join(lines)


def _programs(module, data, epochs):
    model = mu.from_linen(module, mu.losses.cross_entropy)

    def init(key):
        return module.init(key, data.inputs[:1])

    def train(keys, data):
        return ensembles.train(model, optax.adam(1e-3), data, keys, init=init, epochs=epochs)

    program = jax.jit(train)
    return (lambda keys: program(keys, data)), (lambda key: program(key, data))
