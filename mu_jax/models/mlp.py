"""Multilayer perceptron."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class MLP(nn.Module):
    """Fully connected layers with ReLU: h_l = relu(W_l h_{l-1} + b_l), then a linear head.

    Sows `hidden_<l>` after each layer and `features` before the head.

    Attributes:
        features: widths of the hidden layers; a tuple, so that the module is hashable.
        num_outputs: number of outputs (logits).
        dropout: rate of dropout after each hidden layer in training.
        dtype: type of the computation; None takes that of inputs and parameters. Parameters are
            float32, logits at least float32.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> outputs, variables = jax.eval_shape(
        ...     MLP((512, 512), 10).init_with_output, jax.random.key(0), jnp.ones((4, 8, 8, 1)))
        >>> outputs.shape, variables["params"]["head"]["kernel"].shape
        ((4, 10), (512, 10))
    """

    features: tuple[int, ...]
    num_outputs: int
    dropout: float = 0.0
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps inputs [B, ...], flattened, to logits [B, num_outputs]."""
        x = inputs.reshape(inputs.shape[0], math.prod(inputs.shape[1:]))
        for layer, width in enumerate(self.features):
            x = nn.relu(nn.Dense(width, dtype=self.dtype, name=f"dense_{layer}")(x))
            self.sow("intermediates", f"hidden_{layer}", x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        self.sow("intermediates", "features", x)
        head_dtype = jnp.promote_types(x.dtype, jnp.float32)
        return nn.Dense(self.num_outputs, dtype=head_dtype, name="head")(x)
