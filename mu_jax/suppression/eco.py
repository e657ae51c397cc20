"""ECO: embeddings of prompts are corrupted where a classifier says that they ask for the secret."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax._tracing import cached
from mu_jax.data.tokens import Tokens, TokenTargets
from mu_jax.model import Loss, Model, from_function
from mu_jax.models.decoder import Decoder
from mu_jax.suppression.corruption import KINDS, Kind, corrupt
from mu_jax.transforms._shared.transform import suppression

PyTree = Any
Array = jax.Array


class Prompts(NamedTuple):
    """Inputs of a decoder under ECO; made by `gated`.

    Attributes:
      tokens: `Tokens` or i32[B, T].
      corrupted: bool[B, T], which embeddings are corrupted.
      draw: i32[B], a number of each row, from which its noise is drawn.
    """

    tokens: Tokens | Array
    corrupted: Array
    draw: Array


class Strength(NamedTuple):
    """How embeddings are corrupted: what `corrupt` reads beside them.

    Attributes:
      key: a PRNG key; another key is another call of the published program.
      strength: f32[], of noise and values. dims: how many dimensions.
    """

    key: Array
    strength: Array | float = 0.1
    dims: Array | int = 1


@suppression
def eco(decoder: Decoder, loss: Loss, kind: Kind = "rand_noise_first_n") -> Model:
    """A decoder whose prompts are corrupted where a gate fires. *Suppression, not removal.*

    No weight changes: who has the weights, or gets past the gate, has the knowledge. Answers to
    corrupted prompts are often wrong in a way that can be seen, and with noise they are random.

    Its variables are `mu.Variables(params, Strength(key, strength, dims))`, so that strengths are
    arrays, and its inputs `Prompts`, which say what the gate let through. `mu.outputs`, metrics and
    `vmap` over strengths take it as any model. It observes nothing.

    Args:
      decoder: any decoder. loss: `(logits, targets) -> f32[B]`.
      kind: see `mu.suppression.corrupt`.

    Returns:
      A `Model`. Equal arguments give the same one.

    References:
      C. Y. Liu, Y. Wang, J. Flanigan, Y. Liu. Large Language Model Unlearning via
      Embedding-Corrupted Prompts. NeurIPS 2024.

    Example:
      >>> import mu_jax as mu
      >>> config = mu.models.DecoderConfig(
      ...     "llama", vocab_size=32, width=8, depth=2, num_heads=2, num_kv_heads=1, head_dim=4,
      ...     mlp_width=16, max_positions=64)
      >>> decoder = mu.models.Decoder(config)
      >>> model = eco(decoder, mu.token_losses.TokenCrossEntropy(), "zero_out_top_k")
      >>> rows = jnp.array([[3, 1, 4], [3, 1, 4]])
      >>> inputs = gated(rows, jnp.array([0.2, 0.999]))
      >>> params = decoder.init(jax.random.key(0)).params
      >>> logits = model.apply(mu.Variables(params, Strength(jax.random.key(1), dims=8)), inputs)
      >>> moved = jnp.abs(logits - decoder.logits(params, rows)).max(axis=(1, 2))
      >>> (moved > 0).tolist()
      [False, True]
    """
    if kind not in KINDS:
        raise ValueError(f"expected a kind among {', '.join(KINDS)}, found {kind!r}: choose one")
    return _eco(decoder, loss, kind)


def gated(
    tokens: Tokens | Array,
    probability: Array,
    threshold: Array | float = 0.99,
    *,
    token_mask: Array | None = None,
    draw: Array | None = None,
) -> Prompts:
    """Prompts of which those are corrupted that a classifier takes for the forget set.

    Args:
      tokens: rows of a decoder, or prompts for `decode`.
      probability: f32[B], of any classifier that the row asks for what was to be forgotten.
      threshold: tau, fires where `probability > tau`; .99 to .9999 as published. May be traced.
      token_mask: [B, T], which tokens to corrupt, as of a classifier of tokens; default
        `prompt_tokens(tokens)`, which for rows with answers needs their targets.
      draw: i32[B], see `Prompts`; default 0, 1, ...
    """
    mask = prompt_tokens(tokens) if token_mask is None else jnp.asarray(token_mask) != 0
    probability = jnp.asarray(probability)
    if probability.shape != mask.shape[:1]:
        raise ValueError(
            f"expected one probability for each of {mask.shape[0]} rows, found shape "
            f"{probability.shape}: give what the classifier says of each prompt"
        )
    fires = probability > threshold
    own = jnp.arange(len(mask), dtype=jnp.int32) if draw is None else draw
    return Prompts(tokens, mask & fires[:, None], own)


def prompt_tokens(tokens: Tokens | Array, targets: TokenTargets | None = None) -> Array:
    """All tokens of prompts but the last of each, bool[B, T]; padding is none.

    Args:
      tokens: rows, packed or not.
      targets: of rows that have answers behind the prompts: what stands before the first scored
        token of its document is prompt. None: everything is.

    Example:
      >>> mask = jnp.array([[0.0, 0.0, 0.0, 1.0, 1.0]])
      >>> row = jnp.array([[7, 8, 9, 1, 2]])
      >>> prompt_tokens(row, TokenTargets(row, mask)).astype(int)
      Array([[1, 1, 0, 0, 0]], dtype=int32)
      >>> prompt_tokens(row).astype(int)
      Array([[1, 1, 1, 1, 0]], dtype=int32)
    """
    segment = tokens.segment if isinstance(tokens, Tokens) else jnp.ones_like(tokens)
    prompt = segment != 0
    if targets is not None:
        prompt &= _before_scored(segment, targets.mask)
    room = ((0, 0), (0, 1))
    same = segment[:, :-1] == segment[:, 1:]
    return prompt & jnp.pad(prompt[:, 1:] & same, room)


def _before_scored(segment: Array, mask: Array) -> Array:
    """Where no token of the document is scored yet."""
    count = jnp.cumsum(mask != 0, axis=1)
    starts = jnp.pad(segment[:, 1:] != segment[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    earlier = jnp.where(starts, count - (mask != 0), 0)
    return count == jax.lax.cummax(earlier, axis=1)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["strength", "corrupted", "draw"],
    meta_fields=["kind"],
)
@dataclasses.dataclass(frozen=True)
class Corruption:
    """The `embedding_transform` of `decode` and of the decoder's other functions.

    It acts where rows are read, and not on the single tokens that follow.

    Attributes:
      strength: of the corruption. corrupted, draw: of `Prompts`. kind: see `corrupt`.

    Example:
      >>> import mu_jax as mu
      >>> prompts = gated(jnp.array([[3, 1, 4]]), jnp.array([0.999]))
      >>> hook = Corruption.of(prompts, Strength(jax.random.key(0)), "zero_out_first_n")
      >>> hook(jnp.ones((1, 3, 2)))[0, :, 0].tolist(), hook(jnp.ones((1, 1, 2)))[0, 0].tolist()
      ([0.0, 0.0, 1.0], [1.0, 1.0])
    """

    strength: Strength
    corrupted: Array
    draw: Array
    kind: Kind

    @classmethod
    def of(cls, prompts: Prompts, strength: Strength, kind: Kind) -> Corruption:
        """The corruption of these prompts."""
        return cls(strength, prompts.corrupted, prompts.draw, kind)

    def __call__(self, embeddings: Array) -> Array:
        """Corrupted embeddings [B, T, d]; those of one token a row as they are."""
        if embeddings.shape[1] == 1:
            return embeddings
        key, strength, dims = self.strength

        def row(number: Array, one: Array, mask: Array) -> Array:
            own = jax.random.fold_in(key, number)
            return corrupt(own, one[None], mask[None], strength, self.kind, dims=dims)[0]

        return jax.vmap(row)(self.draw, embeddings, self.corrupted)


@cached(maxsize=64)
def _eco(decoder: Decoder, loss: Loss, kind: Kind) -> Model:
    def predict(params: PyTree, state: Strength, inputs: Prompts) -> Array:
        hook = Corruption.of(inputs, state, kind)
        return decoder.logits(params, inputs.tokens, embedding_transform=hook)

    return from_function(predict, loss)
