"""Decoders of the Llama family: from a local checkpoint to logits, and back."""

from mu_jax.models.decoder.config import DecoderConfig, RopeScaling
from mu_jax.models.decoder.decoder import Decoder, stack_blocks, unstack_blocks
from mu_jax.models.decoder.decoding import Decoded, decode
from mu_jax.models.decoder.layout import is_linear
from mu_jax.models.decoder.reading import read_decoder
from mu_jax.models.decoder.sharding import sharding_rules
from mu_jax.models.decoder.whp import whp
from mu_jax.models.decoder.writing import write_decoder

__all__ = [
    "Decoded",
    "Decoder",
    "DecoderConfig",
    "RopeScaling",
    "decode",
    "is_linear",
    "read_decoder",
    "sharding_rules",
    "stack_blocks",
    "unstack_blocks",
    "whp",
    "write_decoder",
]
