"""Data that do not fit into memory: batches come from an iterable, one after another.

python -m examples.streaming
"""

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import mu_jax as mu

network = nn.Sequential([nn.Dense(48), nn.relu, nn.Dense(10)])


class Rows:
    """Random access to examples on disk; here a memory-mapped file would be read."""

    def __init__(self, inputs, classes, positions):
        self.inputs, self.classes, self.positions = inputs, classes, positions

    def __len__(self):
        return len(self.positions)

    def __getitem__(self, place):
        """`(input, target)` of one example."""
        row = self.positions[place]
        return self.inputs[row], self.classes[row]


def main():
    """Forget the class 9 with both sets streamed through grain."""
    digits = load_digits()
    inputs, classes = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)
    model = mu.from_linen(network, mu.losses.cross_entropy)
    everything = mu.stream(Rows(inputs, classes, np.arange(1200)), batch_size=100)
    forget, retain = mu.split(everything, np.flatnonzero(classes[:1200] == 9))
    test_set = mu.batches(inputs[1200:], classes[1200:], batch_size=100)

    def train(examples, seed):
        key = jax.random.key(seed)
        start, objective = network.init(key, inputs[:1]), mu.supervised(model)
        fitted, _ = mu.fit(model, objective, optax.adam(3e-3), start, examples, key=key, epochs=8)
        return fitted.variables

    trained = train(everything, 0)
    unlearned, _ = mu.ssd(model, alpha=1.5, dampening=0.3)(None, trained, forget, retain)
    found = mu.evaluation.score(
        model,
        {"ssd": unlearned},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in (1, 2, 3)],
        original=trained,
        forget_set="class 9",
    )
    print(found)
    return found


if __name__ == "__main__":
    main()
