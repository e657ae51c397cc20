"""Haiku: a transformed function with state is a raw function of (params, state, inputs).

python -m examples.haiku_model
"""

import haiku as hk
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import mu_jax as mu


def forward(inputs, training):
    """Logits [n, 10]."""
    hidden = hk.BatchNorm(True, True, 0.9)(hk.Linear(48)(inputs), is_training=training)
    return hk.Linear(10)(jax.nn.relu(hidden))


network = hk.without_apply_rng(hk.transform_with_state(forward))


def main():
    """Train by `mu.fit`, forget the class 8 by SSD, and score."""
    digits = load_digits()
    inputs, classes = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)
    model = mu.from_function(
        lambda params, state, x: network.apply(params, state, x, False)[0],
        mu.losses.cross_entropy,
        predict_train=lambda params, state, x, key: network.apply(params, state, x, True),
    )
    data = mu.batches(inputs, classes, batch_size=100)
    train_set, test_set = data.take(slice(0, 1200)), data.take(slice(1200, None))
    forget, retain = mu.split(train_set, np.flatnonzero(classes[:1200] == 8))

    def train(examples, seed):
        key = jax.random.key(seed)
        start = mu.Variables(*network.init(key, inputs[:1], True))
        objective = mu.supervised(model, training_mode=True)
        fitted, _ = mu.fit(
            model, objective, optax.adam(3e-3), start, examples, key=key, epochs=10, batch_size=60
        )
        return fitted.variables

    trained = train(train_set, 0)
    unlearned, _ = mu.ssd(model, alpha=4.0, dampening=0.3)(None, trained, forget, retain)
    found = mu.evaluation.score(
        model,
        {"ssd": unlearned},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in (1, 2, 3)],
        original=trained,
        forget_set="class 8",
    )
    print(found)
    return found


if __name__ == "__main__":
    main()
