"""Small convolutional network, and the layer it shares with the residual networks."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mu_jax.models.convolution import convolution_by_backend


class ConvBatchNorm(nn.Module):
    """Convolution without bias followed by batch normalization.

    In training the batch is normalized with its own mean and variance, and the running statistics
    move by `running = 0.9 running + 0.1 batch`; in inference the running statistics are used and
    stay. The rate and epsilon 1e-5 are those of the common PyTorch implementations.

    The running variance is Flax's: it collects the biased variance of a batch, a sum of squares
    over the n = B H' W' values of a channel divided by n. PyTorch normalizes with the same number
    but collects `n / (n - 1)` times that, so its running variance tends to be larger by 1 / (n - 1)
    of its value: 1.5e-4 for n = 6,561, and a third where a batch has 4 values. Flax has no option
    for it. Running statistics copied from PyTorch are used in inference as they are.

    Attributes:
        features: number of output channels.
        kernel_size: height and width of the kernel.
        stride: stride in both directions.
        padding: pixels of zeros on each side; None takes kernel_size // 2.
        dtype: type of the computation; parameters and statistics are float32.
        convolution: a drop-in for `jax.lax.conv_general_dilated`; None chooses by backend.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = ConvBatchNorm(8, stride=2)
        >>> outputs, _ = jax.eval_shape(
        ...     layer.init_with_output, jax.random.key(0), jnp.ones((4, 32, 32, 3)))
        >>> outputs.shape
        (4, 16, 16, 8)

    Reference:
        S. Ioffe, C. Szegedy, Batch Normalization: Accelerating Deep Network Training by Reducing
        Internal Covariate Shift, ICML 2015.
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    padding: int | None = None
    dtype: DTypeLike | None = None
    convolution: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to [B, H', W', features]."""
        x = nn.Conv(
            self.features,
            (self.kernel_size, self.kernel_size),
            strides=self.stride,
            # Symmetric, as in PyTorch; 'SAME' would pad strided layers on one side only.
            padding=self.kernel_size // 2 if self.padding is None else self.padding,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.he_normal(),
            conv_general_dilated=self.convolution or convolution_by_backend,
            name="conv",
        )(inputs)
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, dtype=self.dtype, name="norm"
        )
        return norm(x)


class CNN(nn.Module):
    """Stages of 3x3 convolution, batch normalization and ReLU, the mean over pixels, a linear head.

    Every stage but the first halves height and width by its stride, and the first one too with
    `first_stride=2`. Sows `stage_<i>` after each
    stage and `features` before the head.

    Attributes:
        features: channels of the stages; a tuple, so that the module is hashable.
        num_outputs: number of outputs (logits).
        dropout: rate of dropout before the head in training.
        dtype: type of the computation; None takes that of inputs and parameters. Parameters and
            statistics are float32, logits at least float32.
        convolution: a drop-in for `jax.lax.conv_general_dilated`; None chooses by backend.
        first_stride: stride of the first stage; 2 computes a quarter of it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> outputs, variables = jax.eval_shape(
        ...     CNN().init_with_output, jax.random.key(0), jnp.ones((4, 8, 8, 1)))
        >>> outputs.shape, sorted(variables)
        ((4, 10), ['batch_stats', 'params'])
    """

    features: tuple[int, ...] = (32, 64, 128)
    num_outputs: int = 10
    dropout: float = 0.0
    dtype: DTypeLike | None = None
    convolution: Callable[..., jax.Array] | None = None
    first_stride: int = 1

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, num_outputs]."""
        x = check_images(inputs)
        for stage, width in enumerate(self.features):
            layer = ConvBatchNorm(
                width,
                stride=self.first_stride if stage == 0 else 2,
                dtype=self.dtype,
                convolution=self.convolution,
                name=f"conv_{stage}",
            )
            x = nn.relu(layer(x, train=train))
            self.sow("intermediates", f"stage_{stage}", x)
        x = x.mean((1, 2))
        self.sow("intermediates", "features", x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        head_dtype = jnp.promote_types(x.dtype, jnp.float32)
        return nn.Dense(self.num_outputs, dtype=head_dtype, name="head")(x)


def check_images(inputs: jax.Array, smallest: int = 1) -> jax.Array:
    """Returns the inputs if they are images [B, H, W, C] of at least `smallest` pixels a side.

    Raises:
        ValueError: another number of axes, or a height or width below `smallest`.
    """
    if inputs.ndim != 4 or min(inputs.shape[1:3]) < smallest:
        raise ValueError(
            f"expected images of shape [B, H, W, C] with H and W at least {smallest}, found shape "
            f"{inputs.shape}: add the missing axes or enlarge the images."
        )
    return inputs
