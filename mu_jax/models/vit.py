"""Vision transformers."""

from __future__ import annotations

from typing import Any

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mu_jax.models.rematerialization import block_caller


class ViT(nn.Module):
    """Pre-norm vision transformer on square patches, with learned position embeddings.

    Tokens z_0 = [class; E x_1; ...; E x_T] + P go through blocks
    z' = z + attention(norm(z)), z = z' + mlp(norm(z')), a last norm, pooling and a linear head.
    Sows `tokens_<i>` after each block, `weights` f32[B, heads, T, T] in each block's attention and
    `features` (the pooled token) before the head.

    The patch embedding is a dense layer on cut patches, so no convolution is involved.

    The defaults are those of `ViTB16`.

    Attributes:
        num_outputs: number of outputs (logits).
        patch_size: pixels of a patch side: 16 of 224 in the paper; 4 makes 64 patches of 32 x 32.
        width: size of a token: 768 in ViT-B, 192 in DeiT-Ti.
        depth: number of blocks, 12 in both.
        num_heads: attention heads: 12 in ViT-B, 3 in DeiT-Ti; must divide the width.
        mlp_ratio: hidden width of a block's perceptron over the width, 4 in both.
        pool: 'cls' reads a learned class token (DeiT), 'mean' averages the patch tokens.
        dropout: rate of dropout after attention and perceptron in training.
        remat: compute the activations inside each block again in the backward pass instead of
            keeping them; outputs and gradients stay as they are.
        dtype: type of the computation; None takes that of inputs and parameters. Parameters are
            float32, attention weights and logits at least float32.

    Raises:
        ValueError: images that patches do not tile, a width that heads do not divide, an unknown
            pool.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> outputs, variables = jax.eval_shape(
        ...     ViTTiny(depth=4).init_with_output, jax.random.key(0), jnp.ones((2, 32, 32, 3)))
        >>> outputs.shape, variables["params"]["position_embedding"].shape
        ((2, 10), (1, 65, 192))

    Reference:
        A. Dosovitskiy et al., An Image is Worth 16x16 Words: Transformers for Image Recognition at
        Scale, ICLR 2021; H. Touvron et al., Training Data-Efficient Image Transformers and
        Distillation through Attention, ICML 2021 (DeiT-Ti).
    """

    num_outputs: int = 1000
    patch_size: int = 16
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: int = 4
    pool: str = "cls"
    dropout: float = 0.0
    remat: bool = False
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, num_outputs]."""
        self._check(inputs)
        x = self._embed(inputs)
        call = block_caller(remat=self.remat, train=train)
        for index in range(self.depth):
            block = Block(
                self.num_heads, self.mlp_ratio, self.dropout, self.dtype, name=f"block_{index}"
            )
            x = call(block, x)
            self.sow("intermediates", f"tokens_{index}", x)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        x = x[:, 0] if self.pool == "cls" else x.mean(1)
        self.sow("intermediates", "features", x)
        head_dtype = jnp.promote_types(x.dtype, jnp.float32)
        return nn.Dense(self.num_outputs, dtype=head_dtype, name="head")(x)

    def _check(self, inputs: jax.Array) -> None:
        """Raises ValueError for inputs or fields that do not fit together."""
        if inputs.ndim != 4 or any(size % self.patch_size for size in inputs.shape[1:3]):
            raise ValueError(
                "expected images of shape [B, H, W, C] with H and W multiples of patch_size "
                f"{self.patch_size}, found shape {inputs.shape}: resize them or change patch_size."
            )
        if self.width % self.num_heads:
            raise ValueError(
                f"expected a width that is a multiple of num_heads {self.num_heads}, found "
                f"{self.width}: change one of them."
            )
        if self.pool not in ("cls", "mean"):
            raise ValueError(
                f"expected pool 'cls' or 'mean', found {self.pool!r}: use one of them."
            )

    def _embed(self, images: jax.Array) -> jax.Array:
        """Cuts patches, embeds them and adds the positions: [B, T, width]."""
        side = self.patch_size
        patches = einops.rearrange(images, "b (h p) (w q) c -> b (h w) (p q c)", p=side, q=side)
        x = nn.Dense(self.width, dtype=self.dtype, name="patch_embedding")(patches)
        small = nn.initializers.truncated_normal(0.02)
        if self.pool == "cls":
            token = self.param("class_token", small, (1, 1, self.width)).astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        positions = self.param("position_embedding", small, (1, *x.shape[1:]))
        return x + positions.astype(x.dtype)


def ViTB16(num_outputs: int = 1000, **fields: Any) -> ViT:
    """ViT-B/16 of Dosovitskiy et al.: 86,567,656 parameters at 224 pixels and 1000 classes."""
    return ViT(num_outputs, **fields)


def ViTTiny(num_outputs: int = 10, **fields: Any) -> ViT:
    """DeiT-Ti of Touvron et al. on patches of 4 pixels, for images of about 32 x 32."""
    return ViT(num_outputs, **({"patch_size": 4, "width": 192, "num_heads": 3} | fields))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a perceptron with GELU, each beside a shortcut.

    Attributes:
        num_heads: attention heads.
        mlp_ratio: hidden width of the perceptron over the width of a token.
        dropout: rate of dropout after attention and perceptron in training.
        dtype: type of the computation; parameters are float32.
    """

    num_heads: int
    mlp_ratio: int
    dropout: float
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps tokens [B, T, D] to tokens [B, T, D]."""
        width = inputs.shape[-1]
        x = nn.LayerNorm(dtype=self.dtype, name="norm_0")(inputs)
        x = SelfAttention(self.num_heads, self.dtype, name="attention")(x)
        x = inputs + nn.Dropout(self.dropout, deterministic=not train)(x)
        y = nn.LayerNorm(dtype=self.dtype, name="norm_1")(x)
        y = nn.Dense(self.mlp_ratio * width, dtype=self.dtype, name="dense_0")(y)
        y = nn.Dense(width, dtype=self.dtype, name="dense_1")(nn.gelu(y, approximate=False))
        return x + nn.Dropout(self.dropout, deterministic=not train)(y)


class SelfAttention(nn.Module):
    """Multi-head self-attention softmax(Q K^T / sqrt(d)) V, of dense layers only.

    Attributes:
        num_heads: attention heads.
        dtype: type of the computation; parameters are float32, the softmax at least float32.
    """

    num_heads: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Maps tokens [B, T, D] to tokens [B, T, D]."""
        width = inputs.shape[-1]
        x = nn.Dense(3 * width, dtype=self.dtype, name="query_key_value")(inputs)
        query, key, value = einops.rearrange(
            x, "b t (three h d) -> three b h t d", three=3, h=self.num_heads
        )
        scores = jnp.einsum("bhqd,bhkd->bhqk", query, key) * query.shape[-1] ** -0.5
        weights = nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
        self.sow("intermediates", "weights", weights)
        x = jnp.einsum("bhqk,bhkd->bhqd", weights.astype(value.dtype), value)
        x = einops.rearrange(x, "b h t d -> b t (h d)")
        return nn.Dense(width, dtype=self.dtype, name="out")(x)
