"""The small network of the regression experiment: two convolutions and two dense layers."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mu_jax.models.cnn import check_images
from mu_jax.models.convolution import convolution_by_backend

_KERNEL = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default


class RegressionCNN(nn.Module):
    """3x3 convolutions with batch normalization and ReLU, a dense layer with ReLU, one number.

    Every stage but the first halves height and width. Sows `block_<i>` after each stage and
    `features` before the head. Kernels and biases are drawn as PyTorch draws them,
    `U(-1/sqrt(fan_in), 1/sqrt(fan_in))`. The running variances collect biased variances, unlike
    PyTorch's; see `ConvBatchNorm`.

    Attributes:
        features: channels of the stages.
        hidden: width of the dense layer.
        num_outputs: 1 gives [B], more give [B, num_outputs].
        dtype: type of the computation; None takes that of inputs and parameters.
        convolution: a drop-in for `jax.lax.conv_general_dilated`; None chooses by backend.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> outputs, _ = jax.eval_shape(
        ...     RegressionCNN().init_with_output, jax.random.key(0), jnp.ones((4, 8, 8, 1)))
        >>> outputs.shape
        (4,)
    """

    features: tuple[int, ...] = (6, 8)
    hidden: int = 16
    num_outputs: int = 1
    dtype: DTypeLike | None = None
    convolution: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to numbers [B] or [B, num_outputs]."""
        x = check_images(inputs)
        for stage, width in enumerate(self.features):
            x = nn.Conv(
                width,
                (3, 3),
                strides=1 if stage == 0 else 2,
                padding=1,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=_KERNEL,
                conv_general_dilated=self.convolution or convolution_by_backend,
                name=f"conv_{stage}",
            )(x)
            norm = nn.BatchNorm(
                use_running_average=not train,
                momentum=0.9,
                dtype=self.dtype,
                name=f"norm_{stage}",
            )
            x = nn.relu(norm(x))
            self.sow("intermediates", f"block_{stage}", x)
        x = nn.relu(self._dense(self.hidden, "dense", x.reshape(len(x), -1)))
        self.sow("intermediates", "features", x)
        outputs = self._dense(self.num_outputs, "head", x)
        return outputs[:, 0] if self.num_outputs == 1 else outputs

    def _dense(self, width: int, name: str, x: jax.Array) -> jax.Array:
        limit = x.shape[-1] ** -0.5

        def bias(key, shape, dtype=jnp.float32):
            return jax.random.uniform(key, shape, dtype, -limit, limit)

        layer = nn.Dense(width, dtype=self.dtype, kernel_init=_KERNEL, bias_init=bias, name=name)
        return layer(x)
