"""Flax linen with batch normalization and dropout, trained by an own loop, unlearned and scored.

python -m examples.linen_own_loop
"""

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import mu_jax as mu


class Network(nn.Module):
    """A small convolutional network."""

    @nn.compact
    def __call__(self, images, train: bool = False):
        """Logits [n, 10] of images [n, 8, 8, 1]."""
        hidden = nn.relu(
            nn.BatchNorm(use_running_average=not train)(nn.Conv(16, (3, 3), strides=2)(images))
        )
        hidden = nn.Dropout(0.1, deterministic=not train)(hidden.reshape(len(images), -1))
        return nn.Dense(10)(hidden)


network, optimizer = Network(), optax.adam(3e-3)


@jax.jit
def step(variables, state, images, classes, key):
    """One step of an ordinary training loop."""

    def loss(params):
        logits, moved = network.apply(
            {**variables, "params": params},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean(), moved

    gradient, moved = jax.grad(loss, has_aux=True)(variables["params"])
    updates, state = optimizer.update(gradient, state)
    return {"params": optax.apply_updates(variables["params"], updates), **moved}, state


def train(images, classes, seed, epochs=8):
    """Variables after some epochs over the rows."""
    variables = network.init(jax.random.key(seed), images[:1])
    state, numbers = optimizer.init(variables["params"]), np.random.default_rng(seed)
    for _ in range(epochs):
        for rows in np.array_split(numbers.permutation(len(images)), len(images) // 60):
            rows = rows[:60]
            key = jax.random.fold_in(jax.random.key(seed), numbers.integers(2**31))
            variables, state = step(variables, state, images[rows], classes[rows], key)
    return variables


def main():
    """Train, forget the class 3, and compare with three models that never saw it."""
    digits = load_digits()
    images = (digits.images[..., None] / 16).astype(np.float32)
    classes = digits.target.astype(np.int32)
    trained = train(images[:1200], classes[:1200], seed=0)

    # From here on mu_jax: how the model computes, which rows to forget, what is left.
    model = mu.from_linen(network, mu.losses.cross_entropy, train_arguments={"train": True})
    data = mu.batches(images, classes, batch_size=100)
    train_set, test_set = data.take(slice(0, 1200)), data.take(slice(1200, None))
    forget, retain = mu.split(train_set, np.flatnonzero(classes[:1200] == 3))
    unlearned, _ = mu.ssd(model, alpha=2.0, dampening=0.3)(None, trained, forget, retain)
    kept = classes[:1200] != 3
    retrained = [train(images[:1200][kept], classes[:1200][kept], seed) for seed in (1, 2, 3)]
    found = mu.evaluation.score(
        model,
        {"ssd": unlearned},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=retrained,
        original=trained,
        forget_set="class 3",
    )
    print(found)
    return found


if __name__ == "__main__":
    main()
