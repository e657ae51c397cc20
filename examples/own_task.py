"""A person's own model, data and weights in the binaries.

    python -m experiments.train    --workdir=runs/wine --task=examples.own_task:make_task
    python -m experiments.unlearn  --workdir=runs/wine --request=cultivar:2 --method=ssd
    python -m experiments.evaluate --workdir=runs/wine --request=cultivar:2

`make_task` lets the binary train; `make_trained_task` brings weights that were trained elsewhere.
"""

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_wine

import mu_jax as mu
from experiments.lib.own_tasks import OwnTask

TRAINING = {"optimizer": "adam", "learning_rate": 1e-2, "batch_size": 32, "epochs": 30}


class Network(nn.Module):
    """Two layers with batch normalization and dropout, which behave otherwise while training."""

    @nn.compact
    def __call__(self, inputs, train: bool = False):
        """Logits [n, 3] of inputs [n, 13]."""
        hidden = nn.Dense(32)(inputs)
        hidden = nn.relu(nn.BatchNorm(use_running_average=not train)(hidden))
        hidden = nn.Dropout(0.1, deterministic=not train)(hidden)
        return nn.Dense(3)(hidden)


def make_task() -> OwnTask:
    """178 Italian wines, 13 measurements, three cultivars."""
    wines = load_wine()
    inputs = (wines.data - wines.data.mean(axis=0)) / wines.data.std(axis=0)
    ids = np.arange(1000, 1000 + len(inputs))  # any whole numbers; they stay with their rows
    chosen = np.random.default_rng(0).permutation(len(inputs))

    def rows(positions):
        return mu.batches(
            inputs[positions].astype(np.float32),
            wines.target[positions].astype(np.int32),
            batch_size=64,
            index=ids[positions],
        )

    train, test = rows(chosen[:120]), rows(chosen[120:])
    network = Network()
    return OwnTask(
        model=mu.from_linen(network, mu.losses.cross_entropy, train_arguments={"train": True}),
        train=train,
        test=test,
        kind="classification",
        init=lambda key: network.init(key, train.inputs[:1]),
        training=TRAINING,
        methods={"ssd": {"alpha": 0.5, "dampening": 0.1}},
        attributes={"cultivar": wines.target[chosen[:120]]},
    )


def make_trained_task() -> OwnTask:
    """The same with weights; a path to an Orbax directory or to safetensors would do as well."""
    task = make_task()
    key = jax.random.key(0)
    state, _ = mu.fit(
        task.model,
        mu.supervised(task.model, training_mode=True),
        optax.adam(1e-2),
        task.init(key),
        task.train,
        key=key,
        epochs=30,
        batch_size=32,
    )
    return OwnTask(**{**vars(task), "weights": state.variables})
