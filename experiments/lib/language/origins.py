"""Where the model of a task comes from: a local directory, or a new decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib.configurations import Fields, check_fields
from mu_jax import models
from mu_jax.datasets.language import Tokenizer, read_tokenizer
from mu_jax.models import decoder as decoders

PyTree = Any
DIRECTORY: Fields = {"model.directory": ((str,), None), "model.retrained": ((tuple, list), None)}
SIZES: Fields = {
    f"model.{name}": ((int,), 1) for name in ("width", "depth", "num_heads", "mlp_width")
}


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """A decoder, its tokenizer, and with what a run begins.

    Attributes:
      decoder, tokenizer: of the model.
      start: `key -> variables`, with which training begins.
      retrained: variables of models that never saw the forget set; () where they are trained.
    """

    decoder: models.Decoder
    tokenizer: Tokenizer
    start: Callable[[jax.Array], PyTree]
    retrained: Sequence[PyTree] = ()

    @property
    def model(self) -> mu.Model:
        """The decoder with the loss of its scored tokens."""
        return self.decoder.model(mu.token_losses.TokenCrossEntropy())


def read(config: ConfigDict) -> Origin:
    """The model of a local directory, with blocks stacked.

    Raises:
      ValueError: fields that are missing, a directory that the decoder cannot compute.
      FileNotFoundError: no such directory.
    """
    check_fields(config, DIRECTORY)
    directory = config.model.directory
    if not directory:
        raise ValueError(
            "expected a directory of a model in model.directory, found none; add "
            "--config.model.directory=..."
        )
    decoder, variables = decoders.read_decoder(directory, scan_layers=True)
    tokenizer = read_tokenizer(directory, vocab_size=decoder.config.vocab_size)
    if not (config.training.epochs or config.model.retrained):
        raise ValueError(
            "expected directories of retrained models in model.retrained, or training.epochs of at "
            "least 1 so that they are trained from model.directory, found neither: without the "
            "retrained models nobody can say whether numbers are good"
        )
    retrained = []
    for other in config.model.retrained:
        same, found = decoders.read_decoder(other, scan_layers=True)
        if same != decoder:
            raise ValueError(
                f"expected a retrained model of the sizes of {directory}, found others in {other}: "
                "give models of one architecture"
            )
        retrained.append(found)
    return Origin(decoder, tokenizer, lambda key: variables, retrained)


def new(config: ConfigDict, tokenizer: Tokenizer, positions: int) -> Origin:
    """A decoder of the sizes of the configuration, of random numbers."""
    check_fields(config, SIZES)
    sizes = config.model.to_dict()
    further = [name for name in sizes if f"model.{name}" not in SIZES]
    if further:
        raise ValueError(
            f"expected fields of model among {', '.join(each[6:] for each in SIZES)}, found "
            f"{further[0]!r}; leave it out"
        )
    if sizes["width"] % (2 * sizes["num_heads"]):
        raise ValueError(
            f"expected model.width to be an even multiple of model.num_heads, found "
            f"{sizes['width']} and {sizes['num_heads']}; correct it"
        )
    made = models.DecoderConfig(
        "llama",
        vocab_size=tokenizer.size,
        max_positions=positions,
        num_kv_heads=sizes["num_heads"],
        head_dim=sizes["width"] // sizes["num_heads"],
        eos_tokens=() if tokenizer.end is None else (tokenizer.end,),
        **sizes,
    )
    decoder = models.Decoder(made)
    return Origin(decoder, tokenizer, decoder.init)
