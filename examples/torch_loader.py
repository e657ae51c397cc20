"""Data that a torch `DataLoader` gives: its dataset is read by position, under stable ids.

python -m examples.torch_loader
"""

import jax
import numpy as np
import optax
import torch
from flax import linen as nn
from sklearn.datasets import load_digits

import mu_jax as mu
from mu_jax import datasets

network = nn.Sequential([nn.Dense(48), nn.relu, nn.Dense(10)])


def main():
    """Train from the loader's dataset, forget the class 7, and score."""
    digits = load_digits()
    tensors = (
        torch.from_numpy((digits.data / 16).astype(np.float32)),
        torch.from_numpy(digits.target),
    )
    dataset = torch.utils.data.TensorDataset(*(tensor[:1200] for tensor in tensors))
    loader = torch.utils.data.DataLoader(dataset, batch_size=60, shuffle=True)

    # The order of a loader is its own; ids belong to rows of its dataset, here their positions.
    rows = datasets.from_loader(loader, ids=datasets.by_position)
    inputs, targets, index = rows.read()
    train_set = mu.batches(inputs, targets, batch_size=100, index=index)
    test_set = mu.batches(*(tensor[1200:].numpy() for tensor in tensors), batch_size=100)
    model = mu.from_linen(network, mu.losses.cross_entropy)
    forget, retain = mu.split(train_set, np.asarray(index)[np.asarray(targets) == 7])

    def train(examples, seed):
        key = jax.random.key(seed)
        start, objective = network.init(key, inputs[:1]), mu.supervised(model)
        fitted, _ = mu.fit(
            model, objective, optax.adam(3e-3), start, examples, key=key, epochs=12, batch_size=60
        )
        return fitted.variables

    trained = train(train_set, 0)
    unlearned, _ = mu.ssd(model, alpha=1.5, dampening=0.3)(None, trained, forget, retain)
    found = mu.evaluation.score(
        model,
        {"ssd": unlearned},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in (1, 2, 3)],
        original=trained,
        forget_set="class 7",
    )
    print(found)
    return found


if __name__ == "__main__":
    main()
