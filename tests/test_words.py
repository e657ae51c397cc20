"""What is printed of a transform and a model: a few words, not their insides."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import mu_jax as mu

MODEL = mu.from_linen(nn.Dense(3), mu.losses.cross_entropy)
SSD = mu.ssd(MODEL, 1.5, dampening=jnp.float32(0.25))


def test_a_transform_shows_its_hyper_parameters():
    assert repr(MODEL) == "Model(from_linen, loss=cross_entropy)"
    assert repr(SSD) == f"Transform(ssd(1.5, dampening=0.25) of {MODEL})"


def test_transforms_of_transforms_show_what_they_are_made_of():
    both = mu.chain(SSD, mu.chain(mu.finetune(MODEL, optax.sgd(0.1), epochs=2)))
    assert repr(both).startswith("Chain(ssd(1.5, dampening=0.25), chain(finetune(Gradient")
    assert mu.scaled(SSD, 0.5).words == "through(ssd(1.5, dampening=0.25))"
    assert mu.masked(SSD, lambda name: True).words == SSD.words


def test_arrays_are_shown_by_their_shape():
    oracles = jnp.ones((4, 50, 10))
    found = repr(mu.oracle_matching(MODEL, optax.sgd(0.1), oracles=oracles))
    assert "oracles=float32[4,50,10]" in found and len(found) < 160


def test_info_shows_numbers_not_trees():
    data = mu.batches(np.eye(4, dtype=np.float32), np.array([0, 1, 2, 0]), batch_size=2)
    start = nn.Dense(3).init(jax.random.key(0), data.inputs[:1])
    _, info = mu.ssd(MODEL, 1.5)(None, start, *mu.split(data, [3]))
    found = repr(info)
    assert found.startswith("Info(changed=") and "details=SSDInfo(selected=" in found
    assert f"update_norm={float(info.edit.update_norm):.4g}" in found
    assert "Array(" not in found and "\n" not in found and len(found) < 500
