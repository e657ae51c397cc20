"""From the files of Fashion-MNIST to a scored table with a tuned method, for a random forget set.

python -m examples.fashion_mnist [FOLDER of the four IDX files, as they are distributed]
"""

import sys
from pathlib import Path

import jax
import optax
from flax import linen as nn

import mu_jax as mu

FOLDER = "/usr/share/datasets/fashion-mnist"  # where Debian's dataset-fashion-mnist puts them


class Network(nn.Module):
    """Two convolutions and a linear head; the faster convolution of a CPU is an argument."""

    @nn.compact
    def __call__(self, x):
        for width in (16, 32):
            convolve = mu.models.convolution_by_backend
            x = nn.relu(nn.Conv(width, (3, 3), 2, conv_general_dilated=convolve)(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


def main(folder=FOLDER, images=5000, trials=40):
    """Choose the numbers of NegGrad+ on four retrained models, report on four others."""
    files = [sorted(Path(folder).glob(f"{part}-*-ubyte.gz")) for part in ("train", "t10k")]
    train_rows, test_rows = (
        mu.datasets.from_idx(*pair, ids=mu.datasets.by_position).read() for pair in files
    )
    data = mu.batches(train_rows.inputs, train_rows.targets, batch_size=250)
    test_set = mu.batches(test_rows.inputs, test_rows.targets, batch_size=250)
    train_set, network = data.take(slice(0, images)), Network()
    forget, retain = mu.split(train_set, range(images // 10))
    model = mu.from_linen(network, mu.losses.cross_entropy)

    def train(examples, seed):
        key = jax.random.key(seed)
        start, objective = network.init(key, train_rows.inputs[:1]), mu.supervised(model)
        fitted, _ = mu.fit(
            model, objective, optax.adam(3e-3), start, examples, key=key, epochs=10, batch_size=50
        )
        return fitted.variables

    def factory(learning_rate, **numbers):
        return mu.neg_grad_plus(model, optax.adam(learning_rate), batch_size=50, **numbers)

    found = mu.tune(
        factory,
        mu.tuning.spaces.neg_grad_plus,
        train(train_set, 0),
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in range(1, 9)],
        key=jax.random.key(0),
        trials=trials,
        forget_set=f"{images // 10} random rows",
    )
    print(found)
    print(found.score)
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
