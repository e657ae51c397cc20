"""All-convolutional network."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mu_jax.models.cnn import ConvBatchNorm, check_images

# (width as a multiple, kernel size, stride) of the eight convolutions.
_BLOCKS = (
    (1, 3, 1),
    (1, 3, 1),
    (2, 3, 2),
    (2, 3, 1),
    (2, 3, 1),
    (2, 3, 2),
    (2, 3, 1),
    (2, 1, 1),
)


class AllCNN(nn.Module):
    """AllCNN of the deep-regression unlearning benchmarks: eight convolutions, no pooling between.

    Each block is a convolution without bias, batch normalization and ReLU: two of 3x3 with 96
    channels; 3x3 with 192 channels and stride 2; two of 3x3; 3x3 with stride 2; 3x3; 1x1. Then the
    mean over pixels and a linear head. 1,618,273 parameters for three channels and one output.
    Sows `block_<i>` after each ReLU, whose maps are the ones that attention transfer compares, and
    `features` before the head.

    Differences from the original network: (1) batch normalization, as in the benchmarks; (2) the
    class scores come from a dense layer after the mean, not from a ninth convolution before it.

    Attributes:
        num_outputs: number of outputs, 1 for the regression of the benchmarks.
        width: channels of the first two convolutions, 96 in the benchmarks; the others have twice
            as many.
        dropout: rate of dropout before the head in training.
        dtype: type of the computation; None takes that of inputs and parameters. Parameters and
            statistics are float32, outputs at least float32.
        convolution: a drop-in for `jax.lax.conv_general_dilated`; None chooses by backend.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> outputs, variables = jax.eval_shape(
        ...     AllCNN().init_with_output, jax.random.key(0), jnp.ones((4, 32, 32, 3)))
        >>> outputs.shape, sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        ((4, 1), 1618273)

    Reference:
        J. T. Springenberg, A. Dosovitskiy, T. Brox, M. Riedmiller, Striving for Simplicity: The
        All Convolutional Net, ICLR 2015 (workshop); A. K. Tarun, V. S. Chundawat, M. Mandal,
        M. Kankanhalli, Deep Regression Unlearning, ICML 2023.
    """

    num_outputs: int = 1
    width: int = 96
    dropout: float = 0.0
    dtype: DTypeLike | None = None
    convolution: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to outputs [B, num_outputs]."""
        x = check_images(inputs)
        for block, (multiple, kernel_size, stride) in enumerate(_BLOCKS):
            layer = ConvBatchNorm(
                multiple * self.width,
                kernel_size=kernel_size,
                stride=stride,
                dtype=self.dtype,
                convolution=self.convolution,
                name=f"conv_{block}",
            )
            x = nn.relu(layer(x, train=train))
            self.sow("intermediates", f"block_{block}", x)
        x = x.mean((1, 2))
        self.sow("intermediates", "features", x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        head_dtype = jnp.promote_types(x.dtype, jnp.float32)
        return nn.Dense(self.num_outputs, dtype=head_dtype, name="head")(x)
