"""Examples with ids as people have them, and users who own many rows.

python -m examples.string_ids
"""

import pathlib
import tempfile
import uuid

import jax
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits

import mu_jax as mu
from mu_jax import datasets

network = nn.Sequential([nn.Dense(48), nn.relu, nn.Dense(10)])


def main():
    """Forget all that one user has given, by a file with a user's name in it."""
    digits = load_digits()
    inputs, classes = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)
    numbers = np.random.default_rng(0)
    ids = [str(uuid.UUID(bytes=numbers.bytes(16))) for _ in range(1200)]
    users = [f"u_{user}" for user in numbers.integers(0, 20, 1200)]
    table = mu.id_table(ids, user=users)

    model = mu.from_linen(network, mu.losses.cross_entropy)
    train_set = mu.batches(inputs[:1200], classes[:1200], batch_size=100, index=table.numbers(ids))
    test_set = mu.batches(inputs[1200:], classes[1200:], batch_size=100)
    with tempfile.TemporaryDirectory() as folder:
        request = pathlib.Path(folder, "delete.csv")
        request.write_text("user,asked\nu_7,2026-03-01\n", "utf-8")
        forgotten = datasets.read_request(request, index=table.index, ids=table)
    forget, retain = mu.split(train_set, forgotten)
    assert set(table.names(forget.index)) == {i for i, u in zip(ids, users) if u == "u_7"}

    def train(examples, seed):
        key = jax.random.key(seed)
        start, objective = network.init(key, inputs[:1]), mu.supervised(model)
        fitted, _ = mu.fit(
            model, objective, optax.adam(3e-3), start, examples, key=key, epochs=25, batch_size=60
        )
        return fitted.variables

    trained = train(train_set, 0)
    unlearn = mu.finetune(model, optax.adam(1e-2), epochs=5, batch_size=60)
    unlearned, _ = unlearn(jax.random.key(0), trained, forget, retain)
    found = mu.evaluation.score(
        model,
        {"finetune": unlearned},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in (1, 2, 3)],
        original=trained,
        forget_set="user u_7",
    )
    print(found)
    return found


if __name__ == "__main__":
    main()
