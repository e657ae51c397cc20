"""Flax nnx: the module describes, its state is what is unlearned.

python -m examples.nnx_model
"""

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import mu_jax as mu


class Network(nnx.Module):
    """Two layers with batch normalization and dropout."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.first = nnx.Linear(64, 48, rngs=rngs)
        self.normalize = nnx.BatchNorm(48, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.last = nnx.Linear(48, 10, rngs=rngs)

    def __call__(self, inputs):
        """Logits [n, 10]."""
        return self.last(self.dropout(nnx.relu(self.normalize(self.first(inputs)))))


@nnx.jit
def step(network, optimizer, inputs, classes):
    """One step of an ordinary nnx training loop."""

    def loss(network):
        return optax.softmax_cross_entropy_with_integer_labels(network(inputs), classes).mean()

    optimizer.update(network, nnx.grad(loss)(network))


def train(inputs, classes, seed, epochs=10):
    """A trained module."""
    network = Network(seed)
    optimizer = nnx.Optimizer(network, optax.adam(3e-3), wrt=nnx.Param)
    network.train()
    numbers = np.random.default_rng(seed)
    for _ in range(epochs):
        order = numbers.permutation(len(inputs))
        for start in range(0, len(inputs) - 59, 60):
            rows = order[start : start + 60]
            step(network, optimizer, inputs[rows], classes[rows])
    return network


def main():
    """Train, forget 60 random rows, and compare with models that never saw them."""
    digits = load_digits()
    inputs, classes = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)
    network = train(inputs[:1200], classes[:1200], seed=0)

    model = mu.from_nnx(network, mu.losses.cross_entropy)
    data = mu.batches(inputs, classes, batch_size=100)
    train_set, test_set = data.take(slice(0, 1200)), data.take(slice(1200, None))
    forgotten = np.random.default_rng(7).choice(1200, 60, replace=False)
    forget, retain = mu.split(train_set, forgotten)
    unlearn = jax.jit(mu.finetune(model, optax.adam(3e-3), epochs=3, batch_size=60))
    unlearned, _ = unlearn(jax.random.key(0), nnx.state(network), forget, retain)
    rest = np.setdiff1d(np.arange(1200), forgotten)
    retrained = [nnx.state(train(inputs[rest], classes[rest], seed)) for seed in (1, 2, 3)]
    found = mu.evaluation.score(
        model,
        {"finetune": unlearned},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=retrained,
        original=nnx.state(network),
        forget_set="60 random rows",
    )
    print(found)
    nnx.update(network, unlearned)  # the module itself is the unlearned one now
    return found


if __name__ == "__main__":
    main()
