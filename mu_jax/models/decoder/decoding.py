"""Greedy decoding with a cache of keys and values."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax._callables import with_numbers, without_numbers
from mu_jax._tracing import compiled
from mu_jax.data.axes import keep_rows
from mu_jax.data.tokens import Tokens
from mu_jax.mesh.shards import by_rows
from mu_jax.models.decoder._checks import as_tokens, check_params, check_rows, is_visible
from mu_jax.models.decoder.blocks import block, rms_norm, rotation, sight
from mu_jax.models.decoder.decoder import Decoder, choose

Array = jax.Array
PyTree = Any


class Decoded(NamedTuple):
    """What a decoder has written behind each prompt.

    Attributes:
      tokens: i32[B, max_new], the new tokens; behind a stop token, the stop token again.
      length: i32[B], how many of them count, the stop token with them.
    """

    tokens: Array
    length: Array


class _Cache(NamedTuple):
    """Keys and values [L, B, S, K, H] of all tokens so far, and where these are."""

    key: Array
    value: Array
    segment: Array  # i32[B, S]; 0 where there is nothing yet
    position: Array  # i32[B, S]


@dataclasses.dataclass(frozen=True)
class _Settings:
    decoder: Decoder
    max_new: int
    stop: tuple[int, ...]
    logits_transform: Callable | None
    embedding_transform: Callable | None


def decode(
    decoder: Decoder,
    params: PyTree,
    prompts: Tokens | Array,
    *,
    max_new: int,
    stop: int | Sequence[int] = (),
    logits_transform: Callable[..., Array] | None = None,
    also: Sequence[PyTree] = (),
    embedding_transform: Callable[[Array], Array] | None = None,
) -> Decoded:
    """Greedy continuations of prompts, `x_(t+1) = argmax_v logits_t[v]`.

    Keys and values are kept in a cache [L, B, S, K, H], S being the length of the prompts and
    `max_new`, and one `lax.scan` writes all tokens: shapes are fixed, so that it compiles once for
    prompts of one shape. Padding may stand on either side of a prompt, or on both.

    Args:
      decoder, params: the model.
      prompts: `Tokens` with one document a row, or an array [B, T] without padding.
      max_new: tokens to write, at least 1.
      stop: tokens that end a text, such as `decoder.config.eos_tokens`.
      logits_transform: `(logits f32[B, V], *those of also) -> f32[B, V]`, applied before the
        maximum is taken, such as `lambda base, over: base - alpha * relu(over - base)` of WHP.
      also: parameters of further models of the same decoder, which read the same tokens.
      embedding_transform: see `Decoder.hidden`; it sees the prompts [B, T, d], then each new token
        [B, 1, d]. The arrays of one that is a pytree are arguments: others compile nothing.

    Returns:
      `Decoded`.

    Raises:
      ValueError: prompts and new tokens that are longer together than the model; where it can be
        seen, an empty prompt, or one of several documents; what `Decoder.hidden` refuses.

    Cost: one forward pass over the prompts, then one of a token at a time: `max_new` passes over
    the parameters, whether texts have ended or not.

    Example:
      >>> import jax, mu_jax as mu
      >>> config = mu.models.DecoderConfig(
      ...     "llama", vocab_size=32, width=8, depth=2, num_heads=2, num_kv_heads=1, head_dim=4,
      ...     mlp_width=16, max_positions=64)
      >>> decoder = mu.models.Decoder(config)
      >>> params = decoder.init(jax.random.key(0)).params
      >>> decode(decoder, params, jax.numpy.array([[3, 1, 4]]), max_new=5).tokens.shape
      (1, 5)
    """
    prompts = as_tokens(prompts)
    for each in (params, *also):
        check_params(decoder, each)
    _check(decoder, prompts, max_new, also, logits_transform)
    ends = (stop,) if isinstance(stop, int) else tuple(int(each) for each in stop)
    parts = [without_numbers(each) for each in (logits_transform, embedding_transform)]
    forms, numbers = zip(*parts)
    return _decode(_Settings(decoder, max_new, ends, *forms), (params, *also), prompts, numbers)


def _check(decoder: Decoder, prompts: Tokens, max_new: int, also: Sequence, transform: Any) -> None:
    if max_new < 1:
        raise ValueError(f"expected max_new of at least 1, found {max_new}")
    if also and transform is None:
        raise ValueError("expected a logits_transform that takes the logits of `also`, found none")
    check_rows(decoder.config, prompts)
    longest, most = prompts.tokens.shape[1], decoder.config.max_positions
    if all(map(is_visible, prompts)):
        segment, position = np.asarray(prompts.segment), np.asarray(prompts.position)
        for row, here in enumerate(segment):
            found = len(set(here[here != 0].tolist()))
            if found != 1:
                raise ValueError(
                    f"expected one document in every row of prompts, found {found} in row {row}"
                )
        longest = int(np.where(segment != 0, position, 0).max()) + 1
    if longest + max_new > most:
        raise ValueError(
            f"expected prompts and new tokens of at most {most} together, found {longest} and "
            f"{max_new}: cut the prompts or lower max_new"
        )


@compiled
def _decode(
    settings: _Settings, models: tuple[PyTree, ...], prompts: Tokens, numbers: tuple
) -> Decoded:
    write = functools.partial(_write, settings)
    return by_rows(write, models, prompts, numbers, rows=prompts.tokens[:, 0])


def _write(
    settings: _Settings, models: tuple[PyTree, ...], prompts: Tokens, numbers: tuple
) -> Decoded:
    """Read the prompts, then write a token a turn."""
    forms = settings.logits_transform, settings.embedding_transform
    logits_transform, embedding_transform = map(with_numbers, forms, numbers)
    settings = dataclasses.replace(
        settings, logits_transform=logits_transform, embedding_transform=embedding_transform
    )
    ends = jnp.array(settings.stop, jnp.int32)
    length = prompts.tokens.shape[1]
    segment = (prompts.segment != 0).astype(jnp.int32)
    prompts = prompts._replace(segment=segment)
    last = jnp.where(segment != 0, prompts.position, -1)
    read = [_read(settings, params, prompts, last.argmax(axis=1)) for params in models]

    def turn(carry, number):
        states, logits, position, ended, previous = carry
        token = _choose(settings, logits)
        token = jnp.where(ended, previous, token)
        ended = ended | (token[:, None] == ends).any(axis=1)
        new = Tokens(token[:, None], position[:, None], jnp.ones_like(token)[:, None])
        both = [
            _step(settings, params, new, state, length + number)
            for params, state in zip(models, states)
        ]
        states, logits = zip(*both)
        return (list(states), list(logits), position + 1, ended, token), (token, ended)

    states, logits = zip(*read)
    position = last.max(axis=1) + 1
    none = jnp.zeros(len(position), bool)
    start = (list(states), list(logits), position, none, jnp.zeros_like(position))
    _, (tokens, ended) = jax.lax.scan(turn, start, jnp.arange(settings.max_new))
    before = settings.max_new - ended.sum(axis=0)
    return Decoded(tokens.T, jnp.minimum(before + 1, settings.max_new))


def _choose(settings: _Settings, logits: list[Array]) -> Array:
    transform = settings.logits_transform
    found = logits[0] if transform is None else transform(*logits)
    return found.argmax(axis=-1).astype(jnp.int32)


def _read(
    settings: _Settings, params: PyTree, prompts: Tokens, last: Array
) -> tuple[_Cache, Array]:
    """The cache after the prompts, and the logits at the last token of each."""
    config, (rows, length) = settings.decoder.config, prompts.tokens.shape
    shape = (config.depth, rows, length + settings.max_new, config.num_kv_heads, config.head_dim)
    x = _embedded(settings, params, prompts)
    room = ((0, 0), (0, settings.max_new))
    cache = _Cache(
        jnp.zeros(shape, x.dtype),
        jnp.zeros(shape, x.dtype),
        jnp.pad(prompts.segment, room),
        jnp.pad(prompts.position, room),
    )
    x, cache = _through(settings, params, prompts, x, cache, 0)
    x = jnp.take_along_axis(x, last[:, None, None], axis=1)
    return cache, _logits(settings, params, x)


def _step(
    settings: _Settings, params: PyTree, new: Tokens, cache: _Cache, slot: Array
) -> tuple[_Cache, Array]:
    """The cache with a new token a row in its slot, and the logits there."""

    def put(x: Array, y: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(x, y.astype(x.dtype), slot, 1)

    cache = cache._replace(
        segment=put(cache.segment, new.segment), position=put(cache.position, new.position)
    )
    x = _embedded(settings, params, new)
    x, cache = _through(settings, params, new, x, cache, slot)
    return cache, _logits(settings, params, x)


def _embedded(settings: _Settings, params: PyTree, tokens: Tokens) -> Array:
    x, transform = settings.decoder.embed(params, tokens), settings.embedding_transform
    return keep_rows(x if transform is None else transform(x), settings.decoder.rows)


def _through(
    settings: _Settings, params: PyTree, tokens: Tokens, x: Array, cache: _Cache, slot: Array | int
) -> tuple[Array, _Cache]:
    """Tokens through all blocks; their keys and values go into the cache from `slot` on."""
    decoder = settings.decoder
    turn = rotation(decoder.config, tokens.position)
    place = (tokens.segment, tokens.position)
    seen = sight(decoder.config, place, (cache.segment, cache.position))

    def step(carry, own, number, windowed):
        x, *kept = carry

        def remember(*new: Array) -> tuple[Array, Array]:
            for k, y in enumerate(new):
                where = (number, 0, slot, 0, 0)
                kept[k] = jax.lax.dynamic_update_slice(
                    kept[k], y[None].astype(kept[k].dtype), where
                )
            key, value = (jax.lax.dynamic_index_in_dim(x, number, 0, keepdims=False) for x in kept)
            return key, value

        x = block(decoder.config, own, x, turn, choose(seen, windowed), remember)
        return (keep_rows(x, decoder.rows), *kept), None

    start = (x, cache.key, cache.value)
    (x, key, value), _ = decoder.through(params, start, step, decoder.config.depth)
    return x, cache._replace(key=key, value=value)


def _logits(settings: _Settings, params: PyTree, x: Array) -> Array:
    """Logits [B, V] of states [B, 1, d] behind all blocks."""
    decoder = settings.decoder
    return decoder.head(params, rms_norm(x, params["norm"], decoder.config.norm_eps))[:, 0]
