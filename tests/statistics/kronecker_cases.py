"""A dense and a convolutional network, and their Kronecker factors by loops over examples."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import mu_jax as mu
from mu_jax.losses import cross_entropy

N, CLASSES = 6, 3
WEIGHT = np.array([1, 0.5, 2, 0, 0.25, 1])
INDEX = np.array([4, 9, 2, 7, 0, 5])


class Case(NamedTuple):
    """A model, its data, and its layers by hand.

    Attributes:
      layer_inputs: `(params, x) -> {kernel: a[t, i]}` of one example, without the 1 of a bias.
      taps: `(params, x, taps) -> logits` with what is added to the output [t, o] of each layer.
    """

    model: mu.Model
    variables: mu.Variables
    inputs: np.ndarray
    run: Any
    kernels: dict[str, tuple[int, int]]  # inputs with bias, outputs
    biases: dict[str, str | None]

    def data(self, batch_size=4, rows=slice(None)):
        targets = np.random.default_rng(4).integers(0, CLASSES, N)
        given = (x[rows] for x in (self.inputs, targets))
        data = mu.batches(*given, batch_size=batch_size, weight=WEIGHT[rows], index=INDEX[rows])
        return data

    def labels(self, again):
        """The labels that are drawn from the model, the first or the second time."""
        logits = self.model.apply(self.variables, jnp.asarray(self.inputs))
        key = jax.random.key(0)
        key = jax.random.split(key)[0] if again else key
        keys = [jax.random.fold_in(key, k) for k in INDEX]
        return [int(jax.random.categorical(key, row)) for key, row in zip(keys, logits)]

    def factors(self, example, label):
        """Inputs a[t, i], with the 1, and gradients s[t, o] of each layer for one label."""
        params, x = self.variables.params, jnp.asarray(self.inputs[example])
        _, inputs = self.run(params, x, {})
        taps = {name: jnp.zeros((len(inputs[name]), o)) for name, (_, o) in self.kernels.items()}

        def loss(taps):
            return cross_entropy(self.run(params, x, taps)[0][None], jnp.array([label]))[0]

        gradients = jax.grad(loss)(taps)
        found = {}
        for name, a in inputs.items():
            a = np.asarray(a)
            if self.biases[name]:
                a = np.concatenate([a, np.ones((len(a), 1))], axis=1)
            found[name] = a, np.asarray(gradients[name])
        return found

    def probabilities(self):
        logits = self.model.apply(self.variables, jnp.asarray(self.inputs))
        return np.asarray(jax.nn.softmax(logits))


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def dense_case():
    """Two layers, the first with a bias."""
    params = {"first": random(0, 4, 5), "bias": random(1, 5), "second": random(2, 5, CLASSES)}

    def run(p, x, taps):
        z = x @ p["first"] + p["bias"] + taps.get("first", 0)
        h = jnp.tanh(z).reshape(-1)
        logits = h @ p["second"] + taps.get("second", jnp.zeros((1, 1)))[0]
        return logits, {"first": x[None], "second": h[None]}

    def predict(p, state, x):
        return jnp.tanh(x @ p["first"] + p["bias"]) @ p["second"]

    model = mu.from_function(predict, cross_entropy)
    inputs = np.random.default_rng(3).normal(size=(N, 4))
    kernels = {"first": (5, 5), "second": (5, CLASSES)}
    return Case(
        model, mu.Variables(params), inputs, run, kernels, {"first": "bias", "second": None}
    )


def patches(x):
    """The 3x3 patches of an image [H, W, C] with zeros around: [H W, 9 C]."""
    height, width = x.shape[:2]
    padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
    rows = [padded[i : i + 3, j : j + 3].reshape(-1) for i in range(height) for j in range(width)]
    return jnp.stack(rows)


def convolution_case():
    """A 3x3 convolution with a bias and a scale behind it, the mean over pixels, a dense layer."""
    params = {
        "kernel": 0.3 * random(0, 3, 3, 2, 4),
        "bias": random(1, 4),
        "scale": random(5, 4),
        "head": random(2, 4, CLASSES),
        "shift": random(6, CLASSES),
    }

    def run(p, x, taps):
        a = patches(x)
        z = a @ p["kernel"].reshape(-1, 4) + p["bias"] + taps.get("kernel", 0)
        h = (jnp.tanh(z) * p["scale"]).mean(0)
        logits = h @ p["head"] + p["shift"] + taps.get("head", jnp.zeros((1, 1)))[0]
        return logits, {"kernel": a, "head": h[None]}

    def predict(p, state, x):
        z = lax.conv_general_dilated(
            x, p["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = (jnp.tanh(z + p["bias"]) * p["scale"]).mean((1, 2))
        return h @ p["head"] + p["shift"]

    model = mu.from_function(predict, cross_entropy)
    inputs = np.random.default_rng(3).normal(size=(N, 3, 4, 2))
    kernels = {"kernel": (19, 4), "head": (5, CLASSES)}
    biases = {"kernel": "bias", "head": "shift"}
    return Case(model, mu.Variables(params), inputs, run, kernels, biases)


CASES = {"dense": dense_case, "convolution": convolution_case}


def by_hand(case, labels, again=False):
    """A, S and N of each layer, and gradients with their weights, by loops."""
    probabilities, drawn = case.probabilities(), case.labels(again)
    data = np.asarray(case.data().targets)
    sums, gradients = {}, []
    for example, weight in enumerate(WEIGHT):
        choices = {
            "model": [(drawn[example], 1.0)],
            "data": [(int(data[example]), 1.0)],
            "expected": list(enumerate(probabilities[example])),
        }[labels]
        for label, chance in choices:
            found = case.factors(example, label)
            gradients.append((weight * chance, {k: a.T @ s for k, (a, s) in found.items()}))
            for name, (a, s) in found.items():
                old = sums.setdefault(name, [0.0, 0.0, 0.0])
                old[0] = old[0] + weight * chance * a.T @ a
                old[1] = old[1] + weight * chance * s.T @ s
                old[2] = old[2] + weight * chance * len(a)
    return sums, gradients
