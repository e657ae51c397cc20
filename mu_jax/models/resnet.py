"""Residual networks for images of about 32 x 32 pixels, and ResNet-50 for those of 224 x 224."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mu_jax.models.cnn import ConvBatchNorm, check_images
from mu_jax.models.rematerialization import block_caller


class ResNet9(nn.Module):
    """ResNet-9 of the data-attribution and data-unlearning benchmarks on CIFAR-10.

    Eight convolutions, each with batch normalization and ReLU, and a head without bias whose
    outputs are multiplied by 0.2: 3-64; 64-128 of 5x5, stride 2; a residual pair of 128; 128-256;
    maximum over 2x2; a residual pair of 256; 256-128 without padding; maximum over the image.
    2,274,880 parameters for three channels and ten classes. Sows `stem`, `stage_1` and `stage_2`
    (after the residual pairs) and `features` before the head.

    Attributes:
        num_outputs: number of outputs (logits).
        width: channels of the first convolution, 64 in the benchmarks; the others are multiples.
        dropout: rate of dropout before the head in training.
        dtype: type of the computation; None takes that of inputs and parameters. Parameters and
            statistics are float32, logits at least float32.
        convolution: a drop-in for `jax.lax.conv_general_dilated`; None chooses by backend.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> outputs, variables = jax.eval_shape(
        ...     ResNet9().init_with_output, jax.random.key(0), jnp.ones((4, 32, 32, 3)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        2274880

    Reference:
        K. Georgiev, R. Rinberg, S. M. Park, S. Garg, A. Ilyas, A. Madry, S. Neel,
        Attribute-to-Delete: Machine Unlearning via Datamodel Matching, ICLR 2025.
    """

    num_outputs: int = 10
    width: int = 64
    dropout: float = 0.0
    dtype: DTypeLike | None = None
    convolution: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C], at least 11 x 11, to logits [B, num_outputs]."""
        layer = partial(ConvBatchNorm, dtype=self.dtype, convolution=self.convolution)

        def convolve(number: int, x: jax.Array, multiple: int, **options: Any) -> jax.Array:
            conv = layer(multiple * self.width, name=f"conv_{number}", **options)
            return nn.relu(conv(x, train=train))

        x = convolve(0, check_images(inputs, smallest=11), 1)
        self.sow("intermediates", "stem", x)
        x = convolve(1, x, 2, kernel_size=5, stride=2)
        x = x + convolve(3, convolve(2, x, 2), 2)
        self.sow("intermediates", "stage_1", x)
        x = _max_pool(convolve(4, x, 4))
        x = x + convolve(6, convolve(5, x, 4), 4)
        self.sow("intermediates", "stage_2", x)
        x = convolve(7, x, 2, padding=0).max((1, 2))
        self.sow("intermediates", "features", x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        head_dtype = jnp.promote_types(x.dtype, jnp.float32)
        head = nn.Dense(self.num_outputs, use_bias=False, dtype=head_dtype, name="head")
        return 0.2 * head(x)


class ResNet18(nn.Module):
    """ResNet-18 for small images: 3x3 stem without max-pooling, four stages of two basic blocks.

    Each block computes relu(F(x) + S(x)), F two 3x3 convolutions with batch normalization and S the
    identity, or a 1x1 convolution with batch normalization where the shape changes. 11,173,962
    parameters for three channels and ten classes. Sows `stem`, `stage_<i>` after each stage and
    `features` (the mean over pixels) before the head.

    Attributes:
        num_outputs: number of outputs (logits).
        width: channels of the stem, 64 in the paper; each stage doubles them.
        dropout: rate of dropout before the head in training.
        dtype: type of the computation; None takes that of inputs and parameters. Parameters and
            statistics are float32, logits at least float32.
        convolution: a drop-in for `jax.lax.conv_general_dilated`; None chooses by backend.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> outputs, variables = jax.eval_shape(
        ...     ResNet18().init_with_output, jax.random.key(0), jnp.ones((4, 32, 32, 3)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        11173962

    Reference:
        K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016.
    """

    num_outputs: int = 10
    width: int = 64
    dropout: float = 0.0
    dtype: DTypeLike | None = None
    convolution: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, num_outputs]."""
        options: dict[str, Any] = {"dtype": self.dtype, "convolution": self.convolution}
        stem = ConvBatchNorm(self.width, **options, name="conv_stem")
        x = nn.relu(stem(check_images(inputs), train=train))
        self.sow("intermediates", "stem", x)
        for stage in range(4):
            for block in range(2):
                x = BasicBlock(
                    self.width * 2**stage,
                    stride=2 if stage > 0 and block == 0 else 1,
                    **options,
                    name=f"block_{stage}_{block}",
                )(x, train=train)
            self.sow("intermediates", f"stage_{stage}", x)
        x = x.mean((1, 2))
        self.sow("intermediates", "features", x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        head_dtype = jnp.promote_types(x.dtype, jnp.float32)
        return nn.Dense(self.num_outputs, dtype=head_dtype, name="head")(x)


class ResNet50(nn.Module):
    """ResNet-50 for images of about 224 x 224 pixels, in the form known as v1.5.

    A 7x7 convolution of stride 2 and maximum over 3x3 windows of stride 2; then 3, 4, 6 and 3
    bottleneck blocks of 256, 512, 1024 and 2048 channels, the stride of a stage in the 3x3
    convolution of its first block (in the 1x1 one in the paper). 25,557,032 parameters for three
    channels and a thousand classes. Sows `stem`, `stage_<i>` after each stage and `features` (the
    mean over pixels) before the head.

    Attributes:
        num_outputs: number of outputs (logits), 1000 in the paper.
        width: channels of the stem, 64 in the paper; the others are multiples.
        dropout: rate of dropout before the head in training.
        remat: compute the activations inside each block again in the backward pass instead of
            keeping them; outputs and gradients stay as they are.
        dtype: type of the computation; None takes that of inputs and parameters. Parameters and
            statistics are float32, logits at least float32.
        convolution: a drop-in for `jax.lax.conv_general_dilated`; None chooses by backend.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> outputs, variables = jax.eval_shape(
        ...     ResNet50().init_with_output, jax.random.key(0), jnp.ones((2, 224, 224, 3)))
        >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        25557032

    Reference:
        K. He, X. Zhang, S. Ren, J. Sun, Deep Residual Learning for Image Recognition, CVPR 2016.
    """

    num_outputs: int = 1000
    width: int = 64
    dropout: float = 0.0
    remat: bool = False
    dtype: DTypeLike | None = None
    convolution: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, num_outputs]."""
        options: dict[str, Any] = {"dtype": self.dtype, "convolution": self.convolution}
        stem = ConvBatchNorm(self.width, kernel_size=7, stride=2, **options, name="conv_stem")
        x = nn.relu(stem(check_images(inputs), train=train))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        self.sow("intermediates", "stem", x)
        call = block_caller(remat=self.remat, train=train)
        for stage, blocks in enumerate((3, 4, 6, 3)):
            for index in range(blocks):
                block = BottleneckBlock(
                    self.width * 2**stage,
                    stride=2 if stage > 0 and index == 0 else 1,
                    **options,
                    name=f"block_{stage}_{index}",
                )
                x = call(block, x)
            self.sow("intermediates", f"stage_{stage}", x)
        x = x.mean((1, 2))
        self.sow("intermediates", "features", x)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        head_dtype = jnp.promote_types(x.dtype, jnp.float32)
        return nn.Dense(self.num_outputs, dtype=head_dtype, name="head")(x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalization beside a shortcut.

    Attributes:
        features: number of output channels.
        stride: stride of the first convolution and of the shortcut.
        dtype: type of the computation; parameters and statistics are float32.
        convolution: a drop-in for `jax.lax.conv_general_dilated`; None chooses by backend.
    """

    features: int
    stride: int = 1
    dtype: DTypeLike | None = None
    convolution: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to [B, H / stride, W / stride, features]."""
        layer = partial(
            ConvBatchNorm, self.features, dtype=self.dtype, convolution=self.convolution
        )
        x = nn.relu(layer(stride=self.stride, name="conv_0")(inputs, train=train))
        x = layer(name="conv_1")(x, train=train)
        if self.stride == 1 and inputs.shape[-1] == self.features:
            return nn.relu(x + inputs)
        shortcut = layer(kernel_size=1, stride=self.stride, name="conv_shortcut")
        return nn.relu(x + shortcut(inputs, train=train))


class BottleneckBlock(nn.Module):
    """Convolutions of 1x1, 3x3 and 1x1, each with batch normalization, beside a shortcut.

    Attributes:
        features: channels of the first two convolutions; the third has four times as many.
        stride: stride of the 3x3 convolution and of the shortcut.
        dtype: type of the computation; parameters and statistics are float32.
        convolution: a drop-in for `jax.lax.conv_general_dilated`; None chooses by backend.
    """

    features: int
    stride: int = 1
    dtype: DTypeLike | None = None
    convolution: Callable[..., jax.Array] | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to [B, H / stride, W / stride, 4 * features]."""
        layer = partial(ConvBatchNorm, dtype=self.dtype, convolution=self.convolution)
        wide = 4 * self.features
        x = nn.relu(layer(self.features, kernel_size=1, name="conv_0")(inputs, train=train))
        x = nn.relu(layer(self.features, stride=self.stride, name="conv_1")(x, train=train))
        x = layer(wide, kernel_size=1, name="conv_2")(x, train=train)
        if self.stride == 1 and inputs.shape[-1] == wide:
            return nn.relu(x + inputs)
        shortcut = layer(wide, kernel_size=1, stride=self.stride, name="conv_shortcut")
        return nn.relu(x + shortcut(inputs, train=train))


def _max_pool(x: jax.Array) -> jax.Array:
    """Maximum over windows of 2 x 2; an odd last row or column is dropped.

    Two pairwise maxima rather than `nn.max_pool`, whose gradient is a slow scatter on a CPU.
    """
    x = jnp.maximum(x[:, :-1:2], x[:, 1::2])
    return jnp.maximum(x[:, :, :-1:2], x[:, :, 1::2])
