"""Temporal fusion transformer for forecasts over several horizons."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mu_jax.models.sentence_pair_lstm import zero_carry


class TemporalFusionTransformer(nn.Module):
    """Temporal fusion transformer: selected variables, an LSTM, and attention over all of the past.

    With xi~ the selected variables of each step, c the static contexts, GRN the gated residual
    network and gate(x, y) = norm(x + GLU(y)):

        phi = gate(xi~, LSTM(xi~; c_h, c_c)),    theta = GRN(phi, c_e),
        delta = gate(theta, attention(theta)),   outputs = W gate(phi, GRN(delta)) + b

    Sows, batch first, what attention transfer compares: `encoder` [B, E, H] and `decoder` [B, D, H]
    (the outputs of the LSTM), `attention_output` [B, D, H], `attention_weights` [B, D, E + D] (the
    mean over heads), `encoder_selection` [B, E, variables] and `decoder_selection` [B, D,
    variables]; and `static_selection` [B, variables] and `features` before the head.

    Differences from the paper: attention is computed for the steps of the forecast only, as no
    output reads the others.

    Attributes:
        encoder_length: steps of the past E; the other steps of the inputs are the forecast.
        observed: columns known in the past only, the target among them; never read after E.
        known: columns known in past and future.
        static: columns that do not change, read at the first step; may be empty.
        num_codes: (column, number of codes) of every column that holds codes instead of numbers.
        num_outputs: outputs per step, by default the quantiles 0.1, 0.5 and 0.9; 1 for a single
            forecast without the last axis.
        hidden_size: size of every state H, 160 in the paper for electricity.
        num_heads: attention heads, 4 in the paper; must divide the hidden size.
        dropout: rate of dropout in training, 0.1 in the paper for electricity.
        dtype: type of the computation; None takes that of inputs and parameters. Parameters are
            float32, attention weights and outputs at least float32.

    The columns by default are those of `mu_jax.datasets.load("electricity")`.

    Raises:
        ValueError: inputs of another rank or without a forecast, columns that the inputs lack, no
            known column, heads that do not divide the hidden size.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> module = TemporalFusionTransformer(num_codes=((4, 370),))
        >>> outputs, _ = jax.eval_shape(
        ...     module.init_with_output, jax.random.key(0), jnp.ones((2, 192, 5)))
        >>> outputs.shape
        (2, 24, 3)

    Reference:
        B. Lim, S. O. Arik, N. Loeff, T. Pfister, Temporal Fusion Transformers for Interpretable
        Multi-Horizon Time Series Forecasting, International Journal of Forecasting, 2021.
    """

    encoder_length: int = 168
    observed: tuple[int, ...] = (0,)
    known: tuple[int, ...] = (1, 2, 3)
    static: tuple[int, ...] = (4,)
    num_codes: tuple[tuple[int, int], ...] = ()
    num_outputs: int = 3
    hidden_size: int = 160
    num_heads: int = 4
    dropout: float = 0.1
    dtype: DTypeLike | None = None

    @nn.compact
    def __call__(self, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps series [B, E + D, columns] to forecasts [B, D, num_outputs], or [B, D] for one."""
        self._check(inputs)
        options = (self.hidden_size, self.dropout, self.dtype)
        past, future, static = self._embed(inputs)
        contexts = self._contexts(static, train) if static else {}

        def select(name: str, variables: list[jax.Array]) -> jax.Array:
            layer = VariableSelection(*options, name=f"{name}_variables")
            chosen, weights = layer(variables, contexts.get("selection"), train=train)
            self.sow("intermediates", f"{name}_selection", weights)
            return chosen

        def gate(name: str, skip: jax.Array, x: jax.Array) -> jax.Array:
            return Gate(self.dropout, self.dtype, name=f"gate_{name}")(skip, x, train=train)

        selected = (select("encoder", past), select("decoder", future))
        recurrent = self._recur(*selected, contexts)
        local = gate("lstm", jnp.concatenate(selected, 1), recurrent)
        enrich = GatedResidual(*options, name="enrichment")
        enriched = enrich(local, contexts.get("enrichment"), train=train)
        attention = InterpretableAttention(self.num_heads, self.dtype, name="attention")
        attended, weights = attention(enriched, self.encoder_length)
        self.sow("intermediates", "attention_output", attended)
        self.sow("intermediates", "attention_weights", weights)
        x = gate("attention", enriched[:, self.encoder_length :], attended)
        x = GatedResidual(*options, name="position_wise")(x, train=train)
        x = gate("output", local[:, self.encoder_length :], x)
        self.sow("intermediates", "features", x)
        head_dtype = jnp.promote_types(x.dtype, jnp.float32)
        outputs = nn.Dense(self.num_outputs, dtype=head_dtype, name="head")(x)
        return outputs[..., 0] if self.num_outputs == 1 else outputs

    def _check(self, inputs: jax.Array) -> None:
        """Raises ValueError for inputs or fields that do not fit together."""
        columns = (*self.observed, *self.known, *self.static)
        shortest, needed = self.encoder_length + 1, max(columns, default=0) + 1
        if inputs.ndim != 3 or inputs.shape[1] < shortest or inputs.shape[2] < needed:
            raise ValueError(
                f"expected series [B, T, columns] of at least {shortest} steps and {needed} "
                f"columns, found shape {inputs.shape}: change encoder_length or the columns"
            )
        if not self.known:
            raise ValueError(
                "expected at least one known column, found none: add the hour or another column "
                "that is known in the future"
            )
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"expected a hidden_size that is a multiple of num_heads {self.num_heads}, found "
                f"{self.hidden_size}: change one of them"
            )

    def _embed(self, inputs: jax.Array) -> tuple[list[jax.Array], ...]:
        """Every variable as vectors: those of the past, of the future, and the static ones."""
        num_codes = dict(self.num_codes)

        def embed(column: int, steps: slice) -> jax.Array:
            values, name = inputs[:, steps, column], f"embedding_{column}"
            if column not in num_codes:
                dense = nn.Dense(self.hidden_size, dtype=self.dtype, name=name)
                return dense(values[..., None])
            table = nn.Embed(num_codes[column], self.hidden_size, dtype=self.dtype, name=name)
            return table(values.astype(jnp.int32))

        observed = [embed(column, slice(self.encoder_length)) for column in self.observed]
        known = [embed(column, slice(None)) for column in self.known]
        static = [embed(column, slice(1))[:, 0] for column in self.static]
        past = [*observed, *(x[:, : self.encoder_length] for x in known)]
        return past, [x[:, self.encoder_length :] for x in known], static

    def _contexts(self, static: list[jax.Array], train: bool) -> dict[str, jax.Array]:
        """The context vectors [B, H] that the static variables give, by their purpose."""
        options = (self.hidden_size, self.dropout, self.dtype)
        select = VariableSelection(*options, name="static_variables")
        x, weights = select(static, None, train=train)
        self.sow("intermediates", "static_selection", weights)
        return {
            name: GatedResidual(*options, name=f"context_{name}")(x, train=train)
            for name in ("selection", "enrichment", "hidden", "cell")
        }

    def _recur(
        self, past: jax.Array, future: jax.Array, contexts: dict[str, jax.Array]
    ) -> jax.Array:
        """Outputs of the LSTM over past and future [B, E + D, H], started by the contexts."""

        def layer(name: str) -> nn.RNN:
            unit = nn.OptimizedLSTMCell(self.hidden_size, dtype=self.dtype)
            return nn.RNN(unit, return_carry=True, name=f"lstm_{name}")

        cell, hidden = zero_carry(past, self.hidden_size)
        start = (contexts.get("cell", cell), contexts.get("hidden", hidden))
        carry, encoded = layer("encoder")(past, initial_carry=start)
        _, decoded = layer("decoder")(future, initial_carry=carry)
        self.sow("intermediates", "encoder", encoded)
        self.sow("intermediates", "decoder", decoded)
        return jnp.concatenate([encoded, decoded], axis=1)


class Gate(nn.Module):
    """Gated shortcut norm(skip + sigmoid(W x + b) * (V x + d)), with dropout on x in training.

    Attributes:
        dropout: rate of dropout.
        dtype: type of the computation; parameters are float32.
    """

    dropout: float
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, skip: jax.Array, inputs: jax.Array, *, train: bool = False) -> jax.Array:
        """Maps a shortcut [..., D] and inputs [..., H] to [..., D]."""
        x = nn.Dropout(self.dropout, deterministic=not train)(inputs)
        x = nn.glu(nn.Dense(2 * skip.shape[-1], dtype=self.dtype, name="dense")(x))
        return nn.LayerNorm(dtype=self.dtype, name="norm")(skip + x)


class GatedResidual(nn.Module):
    """Gated residual network gate(a, W_1 elu(W_2 a + W_3 c + b_2) + b_1) with a context c.

    Attributes:
        hidden_size: width inside.
        dropout: rate of dropout before the gate in training.
        dtype: type of the computation; parameters are float32.
        features: width of the result; None keeps the hidden size.
    """

    hidden_size: int
    dropout: float
    dtype: DTypeLike | None
    features: int | None = None

    @nn.compact
    def __call__(
        self, inputs: jax.Array, context: jax.Array | None = None, *, train: bool = False
    ) -> jax.Array:
        """Maps inputs [B, ..., D] and a context [B, H] to [B, ..., features]."""
        features = self.features or self.hidden_size
        x = nn.Dense(self.hidden_size, dtype=self.dtype, name="dense_0")(inputs)
        if context is not None:
            linear = nn.Dense(self.hidden_size, use_bias=False, dtype=self.dtype, name="context")
            per_step = (len(context), *(1,) * (inputs.ndim - 2), self.hidden_size)
            x = x + linear(context).reshape(per_step)
        x = nn.Dense(self.hidden_size, dtype=self.dtype, name="dense_1")(nn.elu(x))
        if inputs.shape[-1] != features:
            inputs = nn.Dense(features, dtype=self.dtype, name="shortcut")(inputs)
        return Gate(self.dropout, self.dtype, name="gate")(inputs, x, train=train)


class VariableSelection(nn.Module):
    """Sum of the variables, each through its own network, with weights that the variables choose.

    x = sum_j w_j GRN_j(x_j) with w = softmax over j of GRN([x_1; ...; x_n], c).

    Attributes:
        hidden_size: width of every variable.
        dropout: rate of dropout in the networks in training.
        dtype: type of the computation; parameters are float32, the softmax at least float32.
    """

    hidden_size: int
    dropout: float
    dtype: DTypeLike | None

    @nn.compact
    def __call__(
        self, variables: list[jax.Array], context: jax.Array | None, *, train: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Maps n arrays [B, ..., H] and a context [B, H] to [B, ..., H] and weights [B, ..., n]."""
        options = (self.hidden_size, self.dropout, self.dtype)
        choose = GatedResidual(*options, features=len(variables), name="weights")
        scores = choose(jnp.concatenate(variables, axis=-1), context, train=train)
        weights = nn.softmax(scores.astype(jnp.promote_types(scores.dtype, jnp.float32)))
        networks = [GatedResidual(*options, name=f"variable_{j}") for j in range(len(variables))]
        values = [network(x, train=train) for network, x in zip(networks, variables)]
        stacked = jnp.stack(values, axis=-1)
        return (stacked * weights[..., None, :].astype(stacked.dtype)).sum(-1), weights


class InterpretableAttention(nn.Module):
    """Multi-head attention whose heads share their values: mean_h softmax(Q_h K_h^T / sqrt(d)) V W.

    A step of the forecast attends to the past, to the forecast before it and to itself.

    Attributes:
        num_heads: attention heads.
        dtype: type of the computation; parameters are float32, the softmax at least float32.
    """

    num_heads: int
    dtype: DTypeLike | None

    @nn.compact
    def __call__(self, inputs: jax.Array, encoder_length: int) -> tuple[jax.Array, jax.Array]:
        """Maps steps [B, E + D, H] to [B, D, H] and the weights of the forecast [B, D, E + D]."""
        width = inputs.shape[-1]
        head = (self.num_heads, width // self.num_heads)
        query = nn.DenseGeneral(head, dtype=self.dtype, name="query")(inputs[:, encoder_length:])
        key = nn.DenseGeneral(head, dtype=self.dtype, name="key")(inputs)
        value = nn.Dense(head[1], dtype=self.dtype, name="value")(inputs)
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) * head[1] ** -0.5
        scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
        steps = jnp.arange(inputs.shape[1])
        is_past = steps <= steps[encoder_length:, None]
        weights = nn.softmax(jnp.where(is_past, scores, -jnp.inf)).mean(axis=1)
        x = jnp.einsum("bqk,bkd->bqd", weights.astype(value.dtype), value)
        return nn.Dense(width, dtype=self.dtype, name="out")(x), weights
