"""Calling the blocks of a deep model with or without keeping their activations."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax


def block_caller(*, remat: bool, train: bool) -> Callable[[nn.Module, jax.Array], jax.Array]:
    """How a model calls each of its blocks: `call(block, inputs) -> outputs`.

    Args:
        remat: whether the activations inside the block are computed again in the backward pass
            instead of being kept, which costs one more forward pass and saves their memory.
        train: the mode, handed to the block.
    """

    def call(block: nn.Module, inputs: jax.Array) -> jax.Array:
        return block(inputs, train=train)

    return nn.remat(call) if remat else call
