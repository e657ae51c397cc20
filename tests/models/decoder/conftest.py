"""Tiny decoders, read from checkpoints once a session."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import checkpoints
import jax
import pytest

from mu_jax.models.decoder import Decoder, read_decoder, stack_blocks


@pytest.fixture(scope="session")
def tiny():
    """`name, fields of the decoder -> (decoder, parameters)`."""

    @functools.cache
    def read(name):
        with tempfile.TemporaryDirectory() as folder:
            decoder, variables = read_decoder(checkpoints.write(Path(folder), name))
            return decoder.config, variables.params

    def made(name, **fields):
        config, params = read(name)
        decoder = Decoder(config, **fields)
        return decoder, stack_blocks(params) if decoder.scan_layers else params

    return made


@pytest.fixture(scope="session")
def log_probabilities():
    """`decoder, parameters, tokens -> f32[B, T, V]`, compiled."""

    @functools.partial(jax.jit, static_argnums=0)
    def compute(decoder, params, tokens):
        return jax.nn.log_softmax(decoder.logits(params, tokens))

    return compute
