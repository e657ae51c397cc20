"""Low-rank adapters alone may change: the base keeps every bit.

    python -m examples.lora_only

An adapter that can be taken off is no erasure: without it the base knows all again. Merge the
two, as below, and delete the base.
"""

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import mu_jax as mu


class Adapted(nn.Module):
    """A dense layer and a low-rank correction, which starts as zero."""

    features: int
    rank: int = 4

    @nn.compact
    def __call__(self, inputs):
        """`inputs W + b + inputs A B`."""
        down = self.param("lora_a", nn.initializers.normal(0.1), (inputs.shape[-1], self.rank))
        up = self.param("lora_b", nn.initializers.zeros, (self.rank, self.features))
        return nn.Dense(self.features)(inputs) + inputs @ down @ up


network = nn.Sequential([Adapted(48), nn.relu, Adapted(10)])


def merged(variables):
    """The same function with the correction added to the kernel and the adapter at zero."""

    def merge(layer):
        kernel = layer["Dense_0"]["kernel"] + layer["lora_a"] @ layer["lora_b"]
        zero = jax.tree.map(np.zeros_like, layer["lora_b"])
        return {**layer, "Dense_0": {**layer["Dense_0"], "kernel": kernel}, "lora_b": zero}

    return {"params": {name: merge(layer) for name, layer in variables["params"].items()}}


def main():
    """Train, unlearn the class 6 in the adapters, merge, and score."""
    digits = load_digits()
    inputs, classes = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)
    model = mu.from_linen(network, mu.losses.cross_entropy)
    data = mu.batches(inputs, classes, batch_size=100)
    train_set, test_set = data.take(slice(0, 1200)), data.take(slice(1200, None))
    forget, retain = mu.split(train_set, np.flatnonzero(classes[:1200] == 6))

    def train(examples, seed):
        key = jax.random.key(seed)
        start, objective = network.init(key, inputs[:1]), mu.supervised(model)
        fitted, _ = mu.fit(
            model, objective, optax.adam(3e-3), start, examples, key=key, epochs=12, batch_size=60
        )
        return fitted.variables

    trained = train(train_set, 0)
    unlearn = mu.masked(
        mu.neg_grad_plus(model, optax.adam(3e-3), forget_weight=0.1, epochs=3, batch_size=60),
        lambda name: "lora" in name,
    )
    unlearned, _ = unlearn(jax.random.key(0), trained, forget, retain)
    for name in ("layers_0", "layers_2"):
        before, after = (v["params"][name]["Dense_0"]["kernel"] for v in (trained, unlearned))
        assert np.array_equal(before, after)
    found = mu.evaluation.score(
        model,
        {"adapters": unlearned, "merged": merged(unlearned)},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in (1, 2, 3)],
        original=trained,
        forget_set="class 6",
    )
    print(found)
    return found


if __name__ == "__main__":
    main()
