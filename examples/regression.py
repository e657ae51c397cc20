"""A regression: forget the patients with the lowest scores by Blindspot.

python -m examples.regression
"""

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_diabetes

import mu_jax as mu

network = nn.Sequential([nn.Dense(32), nn.relu, nn.Dense(1), lambda outputs: outputs[..., 0]])


def main():
    """Train, unlearn, and compare the errors with those of retrained models."""
    patients = load_diabetes()
    inputs = (patients.data / patients.data.std(axis=0)).astype(np.float32)
    targets = ((patients.target - 150) / 75).astype(np.float32)
    model = mu.from_linen(network, mu.losses.squared_error)
    data = mu.batches(inputs, targets, batch_size=64)
    train_set, test_set = data.take(slice(0, 340)), data.take(slice(340, None))
    forget, retain = mu.split(train_set, np.flatnonzero(targets[:340] < -1))

    def init(key):
        return network.init(key, inputs[:1])

    def train(examples, seed):
        key = jax.random.key(seed)
        fitted, _ = mu.fit(
            model,
            mu.supervised(model),
            optax.adam(3e-3),
            init(key),
            examples,
            key=key,
            epochs=20,
            batch_size=32,
        )
        return fitted.variables

    trained = train(train_set, 0)
    unlearn = mu.blindspot(model, init=init, optimizer=optax.adam(3e-3), teacher_epochs=5, epochs=5)
    unlearned, _ = unlearn(jax.random.key(0), trained, forget, retain)
    found = mu.evaluation.score(
        model,
        {"blindspot": unlearned},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in (1, 2, 3)],
        original=trained,
        forget_set="scores below 75",
    )
    print(found)
    return found


if __name__ == "__main__":
    main()
