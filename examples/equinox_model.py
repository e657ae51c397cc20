"""Equinox: the arrays of a module are its variables, the rest of it is the function.

python -m examples.equinox_model
"""

import equinox as eqx
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits

import mu_jax as mu


def main():
    """Train by `mu.fit`, forget 40 rows with NegGrad+, and score."""
    digits = load_digits()
    inputs, classes = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)

    def build(key):
        return eqx.nn.MLP(64, 10, width_size=48, depth=2, key=key)

    structure = eqx.filter(build(jax.random.key(0)), eqx.is_array, inverse=True)

    def predict(params, state, inputs):
        return jax.vmap(eqx.combine(params, structure))(inputs)

    model = mu.from_function(predict, mu.losses.cross_entropy)
    data = mu.batches(inputs, classes, batch_size=100)
    train_set, test_set = data.take(slice(0, 1200)), data.take(slice(1200, None))
    forget, retain = mu.split(train_set, range(100, 140))

    def train(examples, seed):
        key = jax.random.key(seed)
        start = mu.Variables(eqx.filter(build(key), eqx.is_array))
        fitted, _ = mu.fit(
            model,
            mu.supervised(model),
            optax.adam(3e-3),
            start,
            examples,
            key=key,
            epochs=12,
            batch_size=60,
        )
        return fitted.variables

    trained = train(train_set, 0)
    unlearn = mu.neg_grad_plus(model, optax.adam(1e-3), forget_weight=0.05, epochs=3, batch_size=60)
    unlearned, _ = unlearn(jax.random.key(0), trained, forget, retain)
    found = mu.evaluation.score(
        model,
        {"NegGrad+": unlearned},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in (1, 2, 3)],
        original=trained,
        forget_set="rows 100 to 139",
    )
    print(found)
    module = eqx.combine(unlearned.params, structure)  # an equinox module again
    assert module(inputs[0]).shape == (10,)
    return found


if __name__ == "__main__":
    main()
