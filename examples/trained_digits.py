"""Writes `examples/digits.safetensors`, the trained model of the README.

python -m examples.trained_digits
"""

import pathlib

import jax
import numpy as np
import optax
import safetensors.numpy

import mu_jax as mu
from mu_jax import datasets, models

PATH = pathlib.Path(__file__).with_name("digits.safetensors")


def main():
    """Train a small perceptron on the digits, and keep its weights by their names."""
    digits, key = datasets.load("digits"), jax.random.key(0)
    module = models.MLP((32,), 10)
    model = mu.from_linen(module, mu.losses.cross_entropy)
    start = module.init(key, digits.inputs[:1])
    data = mu.batches(digits.inputs, digits.targets, batch_size=50, index=digits.index)
    optimizer, objective = optax.adam(3e-3), mu.supervised(model)
    fitted, _ = mu.fit(model, objective, optimizer, start, data, key=key, epochs=20)
    leaves = jax.tree_util.tree_leaves_with_path(fitted.variables)
    names = {jax.tree_util.keystr(p, simple=True, separator="."): np.asarray(x) for p, x in leaves}
    safetensors.numpy.save_file(names, PATH)
    return names


if __name__ == "__main__":
    main()
