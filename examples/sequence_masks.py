"""Sequences of different lengths: the masks travel inside inputs and targets.

python -m examples.sequence_masks
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import mu_jax as mu

WORDS, LENGTH = 30, 12


class Tagger(nn.Module):
    """A recurrent network that says of every word whether it repeats an earlier one."""

    @nn.compact
    def __call__(self, inputs):
        """Logits [n, LENGTH] of words int [n, LENGTH] of which `lengths` [n] count."""
        embedded = nn.Embed(WORDS, 16)(inputs["words"])
        hidden = nn.RNN(nn.GRUCell(24))(embedded, seq_lengths=inputs["lengths"])
        return nn.Dense(1)(hidden)[..., 0]


def loss(logits, targets):
    """Mean binary cross-entropy over the words of a sequence, f32[n]."""
    each = optax.sigmoid_binary_cross_entropy(logits, targets["repeats"])
    return (each * targets["mask"]).sum(-1) / targets["mask"].sum(-1)


def accuracy(logits, targets):
    """Share of right words, f32[n]."""
    right = (logits > 0) == (targets["repeats"] > 0)
    return (right * targets["mask"]).sum(-1) / targets["mask"].sum(-1)


def sequences(count, seed):
    """Sequences of 4 to 12 words, padded with word 0."""
    numbers = np.random.default_rng(seed)
    words = numbers.integers(1, WORDS, (count, LENGTH), dtype=np.int32)
    lengths = numbers.integers(4, LENGTH + 1, count, dtype=np.int32)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.float32)
    words *= mask.astype(np.int32)
    repeats = [[word in row[:place] for place, word in enumerate(row)] for row in words.tolist()]
    targets = {"repeats": np.array(repeats, np.float32), "mask": mask}
    return {"words": words, "lengths": lengths}, targets


def main():
    """Train, forget 30 sequences, and compare with models that never saw them."""
    network = Tagger()
    model = mu.from_linen(network, loss)
    train_set = mu.batches(*sequences(300, 0), batch_size=50)
    test_set = mu.batches(*sequences(200, 1), batch_size=50)
    forget, retain = mu.split(train_set, range(30))

    def train(examples, seed):
        key = jax.random.key(seed)
        start = network.init(key, jax.tree.map(lambda x: x[:1], train_set.inputs))
        fitted, _ = mu.fit(
            model,
            mu.supervised(model),
            optax.adam(1e-2),
            start,
            examples,
            key=key,
            epochs=20,
            batch_size=50,
        )
        return fitted.variables

    trained = train(train_set, 0)
    unlearn = mu.gradient_ascent(model, optax.sgd(0.5), epochs=8, batch_size=30)
    unlearned, info = unlearn(jax.random.key(0), trained, forget, retain)
    found = mu.evaluation.score(
        model,
        {"gradient ascent": unlearned},
        forget=forget,
        retain=retain,
        test=test_set,
        retrained=[train(retain, seed) for seed in (1, 2, 3)],
        original=trained,
        metrics={"words": accuracy},
        forget_set="30 sequences",
    )
    print(found)
    assert jnp.isfinite(info.edit.update_norm)
    return found


if __name__ == "__main__":
    main()
