"""From the files of Fashion-MNIST to a scored table with a tuned method, for a random forget set.

python -m examples.fashion_mnist [FOLDER of the four IDX files, as they are distributed]
"""

import functools
import sys

import jax
import optax
from flax import linen as nn

import mu_jax as mu

FOLDER = "/usr/share/datasets/fashion-mnist"  # where Debian's dataset-fashion-mnist puts them
# The argument is a convolution that is faster on a CPU, and XLA's own elsewhere.
Conv = functools.partial(nn.Conv, conv_general_dilated=mu.models.convolution_by_backend)
NETWORK = nn.Sequential(
    [
        *(Conv(16, (3, 3), 2), nn.relu, Conv(32, (3, 3), 2), nn.relu),
        *(lambda x: x.reshape(len(x), -1), nn.Dense(10)),
    ]
)


def main(folder=FOLDER, images=5000, trials=40):
    """Choose the numbers of NegGrad+ on four retrained models, report on four others."""
    load = functools.partial(mu.datasets.load, "fashion_mnist", data_dir=folder)
    train_set, test = (
        mu.batches(part.inputs, part.targets, batch_size=250, index=part.index)
        for part in (load("train", limit=images), load("test"))
    )
    forget, retain = mu.split(train_set, range(images // 10))
    model = mu.from_linen(NETWORK, mu.losses.cross_entropy)
    objective, adam = mu.supervised(model), optax.adam(3e-3)

    def train(examples, seed):
        key = jax.random.key(seed)
        start = NETWORK.init(key, test.inputs[:1])
        recipe = {"key": key, "epochs": 10, "batch_size": 50}
        return mu.fit(model, objective, adam, start, examples, **recipe)[0].variables

    def factory(learning_rate, **numbers):
        return mu.neg_grad_plus(model, optax.adam(learning_rate), batch_size=50, **numbers)

    retrained = [train(retain, seed) for seed in range(1, 9)]
    sets = {"forget": forget, "retain": retain, "test": test, "retrained": retrained}
    space, key = mu.tuning.spaces.neg_grad_plus, jax.random.key(0)
    found = mu.tune(factory, space, train(train_set, 0), **sets, key=key, trials=trials)
    print(found, found.score, sep="\n")
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
