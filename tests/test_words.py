"""What is printed of a transform and a model: a few words, not their insides."""

import jax.numpy as jnp
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
