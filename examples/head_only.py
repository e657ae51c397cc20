"""Only the last layer may change; a mask by name is enough.

python -m examples.head_only
"""

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import mu_jax as mu

network = nn.Sequential([nn.Dense(48), nn.relu, nn.Dense(10)])


def main():
    """Forget the class 2 in the head, and in the whole network, side by side."""
    digits = load_digits()
    inputs, classes = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)
    model = mu.from_linen(network, mu.losses.cross_entropy)
    data = mu.batches(inputs, classes, batch_size=100)
    train_set, test_set = data.take(slice(0, 1200)), data.take(slice(1200, None))
    forget, retain = mu.split(train_set, np.flatnonzero(classes[:1200] == 2))

    def train(examples, seed):
        key = jax.random.key(seed)
        start, objective = network.init(key, inputs[:1]), mu.supervised(model)
        fitted, _ = mu.fit(
            model, objective, optax.adam(3e-3), start, examples, key=key, epochs=12, batch_size=60
        )
        return fitted.variables

    trained = train(train_set, 0)
    ssd = mu.ssd(model, alpha=1.5, dampening=0.3)
    head, info = mu.masked(ssd, lambda name: "layers_2" in name)(None, trained, forget, retain)
    whole, _ = ssd(None, trained, forget, retain)
    print({name: float(changed) for name, changed in _by_layer(info).items()})
    found = mu.evaluation.score(
        model,
        {"head": head, "whole": whole},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in (1, 2, 3)],
        original=trained,
        forget_set="class 2",
    )
    print(found)
    return found


def _by_layer(info):
    """The share of changed weights of every leaf that was free to change."""
    leaves = jax.tree_util.tree_leaves_with_path(info.edit.changed_by_leaf)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


if __name__ == "__main__":
    main()
