"""Training inside one program: convolutions on a CPU, and ensembles."""

from __future__ import annotations

import functools

import jax
import numpy as np
import optax

import mu_jax as mu
from benchmarks.timing import in_turn, ratios, table
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
    """Models trained as one program, one compiled training after another, and step by step."""
    digits = datasets.load("digits", limit=512)
    data = mu.batches(digits.inputs, digits.targets, batch_size=64)
    lines = []
    for title, module, number, epochs in (
        ("64 MLPs 64-32-10, 5 epochs of 512 digits", models.MLP((32,), 10), 64, 5),
        (
            "8 small CNNs, 1 epoch of 512 digits",
            models.CNN(features=(8, 16), num_outputs=10),
            8,
            1,
        ),
    ):
        alternatives = _ways_to_train(module, data, number, epochs)
        times = in_turn(alternatives, repeats=5, seconds=60.0)
        goals = {"as one program": 0.2 if number == 64 else 1.0}
        lines.append(table(title, times, "a loop over jitted steps", goals))
        together = ratios(times, "one compiled training after another")["as one program"]
        lines.append(f"  as one program / one compiled training after another: {together:.2f}")
    return "\n".join(lines)


def _ways_to_train(module, data, number, epochs):
    """The same trainings: the customary loop, a compiled training per model, one program."""
    model = mu.from_linen(module, mu.losses.cross_entropy)
    optimizer = optax.adam(1e-3)

    def init(key):
        return module.init(key, data.inputs[:1])

    program = jax.jit(
        lambda keys, data: ensembles.train(model, optimizer, data, keys, init=init, epochs=epochs)
    )
    keys = jax.random.split(jax.random.key(0), number)
    single = [keys[i : i + 1] for i in range(number)]
    return {
        "a loop over jitted steps": lambda: _step_by_step(module, data, optimizer, keys, epochs),
        "one compiled training after another": lambda: [program(key, data) for key in single],
        "as one program": lambda: program(keys, data),
    }


def _step_by_step(module, data, optimizer, keys, epochs):
    """What a script does: for each model, epoch and batch one call of a jitted step."""
    inputs, targets = np.asarray(data.inputs), np.asarray(data.targets)
    results = []
    for seed, key in enumerate(keys):
        random = np.random.default_rng(seed)
        variables = _init(module, key, inputs[:1])
        state = optimizer.init(variables)
        for _ in range(epochs):
            order = random.permutation(len(inputs)).reshape(-1, data.batch_size)
            for rows in order:
                variables, state = _step(
                    module, optimizer, variables, state, inputs[rows], targets[rows]
                )
        results.append(variables)
    return results


@functools.partial(jax.jit, static_argnums=0)
def _init(module, key, inputs):
    return module.init(key, inputs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _step(module, optimizer, variables, state, inputs, targets):
    def loss(variables):
        return mu.losses.cross_entropy(module.apply(variables, inputs), targets).mean()

    updates, state = optimizer.update(jax.grad(loss)(variables), state, variables)
    return optax.apply_updates(variables, updates), state
