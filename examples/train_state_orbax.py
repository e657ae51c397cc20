"""A `TrainState` that Orbax has saved: read it, unlearn, and save it again.

python -m examples.train_state_orbax
"""

import pathlib
import tempfile

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import linen as nn
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits

import mu_jax as mu

network = nn.Sequential([nn.Dense(48), nn.relu, nn.Dense(10)])


@jax.jit
def step(state, inputs, classes):
    """One step of an ordinary training loop."""

    def loss(params):
        logits = state.apply_fn({"params": params}, inputs)
        return optax.softmax_cross_entropy_with_integer_labels(logits, classes).mean()

    return state.apply_gradients(grads=jax.grad(loss)(state.params))


def train(inputs, classes, seed, epochs=12):
    """A trained state."""
    params = network.init(jax.random.key(seed), inputs[:1])["params"]
    state = TrainState.create(apply_fn=network.apply, params=params, tx=optax.adam(3e-3))
    numbers = np.random.default_rng(seed)
    for _ in range(epochs):
        order = numbers.permutation(len(inputs))
        for start in range(0, len(inputs) - 59, 60):
            rows = order[start : start + 60]
            state = step(state, inputs[rows], classes[rows])
    return state


def main():
    """Save, load, forget the class 5, and save the unlearned state."""
    digits = load_digits()
    inputs, classes = (digits.data / 16).astype(np.float32), digits.target.astype(np.int32)
    folder = pathlib.Path(tempfile.mkdtemp())
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "trained", train(inputs[:1200], classes[:1200], seed=0))

    shapes = jax.eval_shape(network.init, jax.random.key(0), inputs[:1])
    trained = mu.store.load_weights(folder / "trained", like=shapes)  # parameters, no optimizer
    model = mu.from_linen(network, mu.losses.cross_entropy)
    data = mu.batches(inputs, classes, batch_size=100)
    train_set, test_set = data.take(slice(0, 1200)), data.take(slice(1200, None))
    kept = classes[:1200] != 5
    forget, retain = mu.split(train_set, np.flatnonzero(~kept))
    unlearned, _ = mu.ssd(model, alpha=1.5, dampening=0.3)(None, trained, forget, retain)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "unlearned", unlearned)

    retrained = [
        {"params": train(inputs[:1200][kept], classes[:1200][kept], seed).params}
        for seed in (1, 2, 3)
    ]
    found = mu.evaluation.score(
        model,
        {"ssd": unlearned},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=retrained,
        original=trained,
        forget_set="class 5",
    )
    print(found)
    return found


if __name__ == "__main__":
    main()
