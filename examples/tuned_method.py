"""From a trained network to a scored table with a method whose numbers were chosen for it.

python -m examples.tuned_method
"""

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import mu_jax as mu

network = nn.Sequential([nn.Dense(48), nn.relu, nn.Dense(10)])


def main():
    """Choose the rate and the length of fine-tuning on four retrained models, report on four."""
    digits = load_digits()
    inputs, classes = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)
    model = mu.from_linen(network, mu.losses.cross_entropy)
    data = mu.batches(inputs, classes, batch_size=100)
    train_set, test_set = data.take(slice(0, 1000)), data.take(slice(1000, None))
    forget, retain = mu.split(train_set, range(100))

    def train(examples, seed):
        key = jax.random.key(seed)
        start, objective = network.init(key, inputs[:1]), mu.supervised(model)
        fitted, _ = mu.fit(
            model, objective, optax.adam(3e-3), start, examples, key=key, epochs=30, batch_size=50
        )
        return fitted.variables

    def factory(learning_rate, epochs):
        return mu.finetune(model, optax.adam(learning_rate), epochs=epochs, batch_size=50)

    found = mu.tune(
        factory,
        mu.tuning.spaces.finetune,
        train(train_set, 0),
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in range(1, 9)],
        key=jax.random.key(0),
        default={"learning_rate": 3e-4, "epochs": 5},
        forget_set="100 rows",
    )
    print(found)
    print(found.score)
    return found


if __name__ == "__main__":
    main()
