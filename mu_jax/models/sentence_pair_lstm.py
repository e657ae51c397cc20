"""Recurrent network for the similarity of two sentences."""

from __future__ import annotations

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class SentencePairLSTM(nn.Module):
    """One LSTM reads both sentences; dense layers compare their last states.

    With s_0, s_1 the states of the shared LSTM after the last word of each sentence, the output is
    W [relu(dense_2(relu(dense_1(relu(dense_0([s_0; s_1]))))))] + b. Padding may stand anywhere: a
    padded step leaves the state of the LSTM as it is and its output is zero, so it changes neither
    the prediction, nor a gradient, nor the direction of an activation map over hidden units.

    Sows, batch first, what attention transfer compares: `sentence_0` and `sentence_1` [B, T,
    hidden_size] (the outputs of the LSTM after dropout), `linear_0` and `linear_1` (the first dense
    layers before ReLU); and
    `features` before the head.

    Differences from the reference program: (1) padding is masked, there it is read as words of
    zeros; (2) dropout is drawn anew for the last states; (3) one program step reads both sentences;
    (4) an output axis, there squeezed away; (5) word vectors may be learned.

    Attributes:
        num_words: number of word codes, 0 (padding) among them; None for word vectors.
        embedding_size: size of a learned word vector, 300 as those of the reference.
        hidden_size: units of the LSTM, 64 in the reference.
        features: widths of the dense layers, (64, 32, 16) in the reference.
        num_outputs: number of outputs.
        dropout: rate of dropout on the outputs of the LSTM in training, 0.3 in the reference.
        dtype: type of the computation; None takes that of inputs and parameters. Parameters are
            float32, outputs at least float32.

    Raises:
        ValueError: inputs that are no pair of sentences, or word codes without `num_words`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> words = jnp.array([[[0, 0, 3], [0, 4, 5]]])
        >>> outputs, variables = jax.eval_shape(
        ...     SentencePairLSTM(num_words=9).init_with_output, jax.random.key(0), words)
        >>> outputs.shape, variables["params"]["embedding"]["embedding"].shape
        ((1, 1), (9, 300))

    Reference:
        S. Hochreiter, J. Schmidhuber, Long Short-Term Memory, Neural Computation, 1997;
        A. K. Tarun, V. S. Chundawat, M. Mandal, M. Kankanhalli, Deep Regression Unlearning,
        ICML 2023.
    """

    num_words: int | None = None
    embedding_size: int = 300
    hidden_size: int = 64
    features: tuple[int, ...] = (64, 32, 16)
    num_outputs: int = 1
    dropout: float = 0.3
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps sentence pairs to outputs [B, num_outputs].

        Args:
            inputs: word codes i32[B, 2, T], 0 for padding, or word vectors f32[B, 2, T, D], zeros
                for padding.
            train: whether dropout is drawn.
        """
        vectors, is_word = self._embed(inputs)
        reader = MaskedLSTM(self.hidden_size, self.dtype, name="lstm")
        flat = einops.rearrange(vectors, "b two t d -> (b two) t d")
        states, outputs = reader(flat, einops.rearrange(is_word, "b two t -> (b two) t"))
        outputs = nn.Dropout(self.dropout, deterministic=not train)(outputs)
        outputs = einops.rearrange(outputs, "(b two) t h -> b two t h", two=2)
        for sentence in range(2):
            self.sow("intermediates", f"sentence_{sentence}", outputs[:, sentence])
        states = nn.Dropout(self.dropout, deterministic=not train)(states)
        x = einops.rearrange(states, "(b two) h -> b (two h)", two=2)
        for layer, width in enumerate(self.features):
            x = nn.Dense(width, dtype=self.dtype, name=f"dense_{layer}")(x)
            if layer < 2:
                self.sow("intermediates", f"linear_{layer}", x)
            x = nn.relu(x)
        self.sow("intermediates", "features", x)
        head_dtype = jnp.promote_types(x.dtype, jnp.float32)
        return nn.Dense(self.num_outputs, dtype=head_dtype, name="head")(x)

    def _embed(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Word vectors [B, 2, T, D] and which of them are words bool[B, 2, T]."""
        is_code = jnp.issubdtype(inputs.dtype, jnp.integer)
        if inputs.ndim != (3 if is_code else 4) or inputs.shape[1] != 2:
            raise ValueError(
                "expected integer word codes [B, 2, T] or word vectors [B, 2, T, D], found "
                f"{inputs.dtype}{list(inputs.shape)}: stack the two sentences on axis 1"
            )
        if not is_code:
            return inputs.astype(self.dtype or inputs.dtype), (inputs != 0).any(-1)
        if self.num_words is None:
            raise ValueError(
                "expected num_words for word codes, found None: pass the size of the vocabulary"
            )
        embed = nn.Embed(self.num_words, self.embedding_size, dtype=self.dtype, name="embedding")
        return embed(inputs), inputs != 0


class MaskedLSTM(nn.Module):
    """LSTM that skips the steps which are no words.

    Attributes:
        features: hidden units.
        dtype: type of the computation; parameters are float32.
    """

    features: int
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps [B, T, D] and bool[B, T] to the last states [B, H] and the outputs [B, T, H]."""

        def step(cell, carry, timed):
            x, keep = timed
            moved, output = cell(carry, x)
            carry = jax.tree.map(lambda new, old: jnp.where(keep, new, old), moved, carry)
            return carry, jnp.where(keep, output, 0)

        cell = nn.OptimizedLSTMCell(self.features, dtype=self.dtype, name="cell")
        scan = nn.scan(
            step, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1
        )
        start = zero_carry(inputs, self.features)
        (_, state), outputs = scan(cell, start, (inputs, mask[..., None]))
        return state, outputs


def zero_carry(inputs: jax.Array, features: int) -> tuple[jax.Array, jax.Array]:
    """The state of an LSTM before the first step of inputs [B, T, D].

    Made from the inputs, so that under `jax.shard_map` it varies over the mesh as they do.
    """
    zeros = jnp.broadcast_to(jnp.zeros_like(inputs[:, 0, :1]), (len(inputs), features))
    return zeros, zeros
