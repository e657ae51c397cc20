"""Decoders of tunix as a host: an nnx module from rows of tokens to logits."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

_FIXED_THETA = 1_000_000  # what tunix computes in these, whatever the config says
_FIXED = ("llama3", "qwen3")


class TunixRows(nnx.Module):
    """A decoder of tunix that reads `Tokens`: give it to `mu.from_nnx`.

    Its inputs are rows with padding and packed documents, which the attention mask keeps apart, as
    `models.decoder` does. What is trained is a choice of `mu.from_nnx`: all of `nnx.Param`, or with
    adapters by qwix `trainable=nnx.LoRAParam`, which leaves a base of any type, quantized as well,
    bit for bit. (Of `LoRAParam`, `Param` is a base class: without the choice both are trained.)
    qwix 0.1.8 quantizes all layers of `llama3`, but of `qwen2` and `qwen3` the perceptrons alone:
    their other layers cast kernels by a function that it does not replace.

    Args:
      decoder: a model of tunix 0.1.7, such as `tunix.models.qwen2.model.Qwen2`, with or without
        adapters (`qwix.apply_lora_to_model`). It is shared, not copied: `nnx.update(rows,
        unlearned)` puts unlearned variables back into it.

    Raises:
      ValueError: a `llama3` or `qwen3` of another theta than 1e6 or with stretched rotations, which
        tunix passes over, so that its outputs are wrong (`models.decoder` computes both); flash
        attention, which does not read the mask.

    Example of a model that is trained in its adapters alone:

        rows = mu.models.TunixRows(qwix.apply_lora_to_model(
            decoder, provider, rngs=nnx.Rngs(0), **decoder.get_model_input()))
        model = mu.from_nnx(rows, mu.token_losses.TokenCrossEntropy(), trainable=nnx.LoRAParam)
        unlearned, info = mu.npo(model, optimizer)(key, nnx.state(rows), forget, retain)
    """

    def __init__(self, decoder: Any):
        _check(decoder)
        self.decoder = decoder

    def __call__(self, tokens: jax.Array, position: jax.Array, segment: jax.Array) -> jax.Array:
        """Logits [B, T, V] in float32 of `Tokens`, i32[B, T] each."""
        same = segment[:, :, None] == segment[:, None, :]
        mask = same & (position[:, :, None] >= position[:, None, :])
        logits, _ = self.decoder(tokens, position, None, mask)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def _check(decoder: Any) -> None:
    """Refuse what tunix computes otherwise than its config says."""
    config = getattr(decoder, "config", None)
    # Adapters make a class of their own, beneath which the architecture is.
    family = [part for kind in type(decoder).__mro__ for part in kind.__module__.split(".")]
    for name in _FIXED:
        theta, scaling = (getattr(config, x, None) for x in ("rope_theta", "rope_scaling"))
        if name in family and (theta != _FIXED_THETA or scaling):
            found = f"theta {theta:g}" if theta != _FIXED_THETA else "stretched rotations"
            raise ValueError(
                f"expected a {name} of tunix with a rope theta of 1e6 and no scaling, found "
                f"{found}, which tunix does not compute: read the checkpoint by "
                "models.decoder.read_decoder"
            )
    if getattr(config, "use_flash_attention", False):
        raise ValueError(
            "expected use_flash_attention=False, found True, which does not read the mask of "
            "documents and padding: make the model without it"
        )
