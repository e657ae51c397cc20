"""Inputs in a dictionary, two heads, two targets: everything takes trees.

python -m examples.two_heads
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import mu_jax as mu


class Network(nn.Module):
    """The class of a digit, and how much ink it has."""

    @nn.compact
    def __call__(self, inputs):
        """Logits [n, 10] and a number [n]."""
        hidden = nn.relu(nn.Dense(48)(inputs["image"]))
        hidden = jnp.concatenate([hidden, inputs["margins"]], axis=-1)
        return {"class": nn.Dense(10)(hidden), "ink": nn.Dense(1)(hidden)[..., 0]}


def loss(outputs, targets):
    """Per example: cross-entropy of the class and a tenth of the squared error of the ink."""
    entropy = mu.losses.cross_entropy(outputs["class"], targets["class"])
    return entropy + 0.1 * mu.losses.squared_error(outputs["ink"], targets["ink"])


def main():
    """Train both heads, forget the class 1, and score by functions of our own."""
    digits = load_digits()
    images = (digits.data / 16).astype(np.float32)
    inputs = {"image": images, "margins": digits.images[:, ::7, ::7].reshape(-1, 4) / 16}
    inputs["margins"] = inputs["margins"].astype(np.float32)
    ink = images.mean(axis=1)
    targets = {"class": digits.target.astype(np.int32), "ink": (ink - ink.mean()) / ink.std()}
    network = Network()
    model = mu.from_linen(network, loss)
    data = mu.batches(inputs, targets, batch_size=100)
    train_set, test_set = data.take(slice(0, 1200)), data.take(slice(1200, None))
    forget, retain = mu.split(train_set, np.flatnonzero(digits.target[:1200] == 1))

    def train(examples, seed):
        key = jax.random.key(seed)
        start = network.init(key, jax.tree.map(lambda x: x[:1], inputs))
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
    unlearned, _ = mu.ssd(model, alpha=3.0, dampening=0.3)(None, trained, forget, retain)
    found = mu.evaluation.score(
        model,
        {"ssd": unlearned},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in (1, 2, 3)],
        original=trained,
        metrics={
            "class": lambda outputs, targets: outputs["class"].argmax(-1) == targets["class"],
            "ink": lambda outputs, targets: (outputs["ink"] - targets["ink"]) ** 2,
        },
        forget_set="class 1",
    )
    print(found)
    return found


if __name__ == "__main__":
    main()
