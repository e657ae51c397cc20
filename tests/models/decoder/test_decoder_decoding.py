"""Greedy texts: with a cache as without, on either side of padding, with ends and transforms."""

from __future__ import annotations

import functools

import checkpoints
import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.data.tokens import Tokens
from mu_jax.models.decoder import decode

NEW = 8
LENGTHS = (6, 9)


def prompts(side, lengths=LENGTHS, room=9):
    """Rows of these lengths with padding on the right, on the left, or on both sides."""
    ids = np.full((3, len(lengths), room), 59)
    ids[1:] = 0
    for row, length in enumerate(lengths):
        start = {"right": 0, "left": room - length, "both": (room - length) // 2}[side]
        place = slice(start, start + length)
        ids[0, row, place] = checkpoints.rows()[row, :length]
        ids[1, row, place], ids[2, row, place] = range(length), 3
    return Tokens(*map(jnp.array, ids.astype(np.int32)))


@functools.partial(jax.jit, static_argnums=0)
def last_logits(decoder, params, row, length):
    segment = (jnp.arange(len(row)) < length).astype(jnp.int32)
    rows = Tokens(row[None], jnp.arange(len(row))[None], segment[None])
    return decoder.logits(params, rows)[0, length - 1]


def without_cache(decoder, params, row, length, new=NEW):
    """The text by one whole forward pass a token."""
    text = jnp.zeros(length + new, jnp.int32).at[:length].set(row[:length])
    for end in range(length, length + new):
        text = text.at[end].set(last_logits(decoder, params, text, end).argmax())
    return np.asarray(text[length:])


@pytest.mark.quick("mistral")
@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_a_cache_and_the_side_of_padding_change_nothing(name, tiny):
    decoder, params = tiny(name, scan_layers=True)
    wanted = [
        without_cache(decoder, params, checkpoints.rows()[row], length)
        for row, length in enumerate(LENGTHS)
    ]
    assert len(set(np.concatenate(wanted).tolist())) > 4  # a text, not one token again and again
    for side in ("right", "left", "both"):
        found = decode(decoder, params, prompts(side), max_new=NEW)
        np.testing.assert_array_equal(found.tokens, wanted)
    assert found.length.tolist() == [NEW, NEW]


def test_unrolled_blocks_write_the_same(tiny):
    found = [
        decode(*tiny("mistral", scan_layers=scan), prompts("right"), max_new=NEW).tokens
        for scan in (False, True)
    ]
    np.testing.assert_array_equal(*found)


def test_stop_tokens_end_a_text(tiny):
    decoder, params = tiny("qwen3", scan_layers=True)
    free = np.asarray(decode(decoder, params, prompts("left"), max_new=NEW).tokens)
    stop = int(free[0, 2])
    first = [list(row).index(stop) if stop in row else NEW - 1 for row in free]
    found = decode(decoder, params, prompts("left"), max_new=NEW, stop=[60, stop])
    assert 60 not in free
    for row, end in enumerate(first):
        assert found.length[row] == end + 1
        np.testing.assert_array_equal(found.tokens[row, : end + 1], free[row, : end + 1])
        assert (found.tokens[row, end + 1 :] == stop).all() or end == NEW - 1
    assert first[0] < NEW - 1
    alone = decode(decoder, params, prompts("left"), max_new=NEW, stop=stop)
    np.testing.assert_array_equal(alone.tokens, found.tokens)


def test_logits_of_several_models_are_combined(tiny):
    decoder, params = tiny("qwen3", scan_layers=True)
    other = jax.tree.map(lambda x: 1.2 * x, params)

    def both(base, over):
        return base - 2.0 * jax.nn.relu(over - base)

    row, length = jnp.zeros(9 + NEW, jnp.int32).at[:9].set(checkpoints.rows()[1, :9]), 9
    for end in range(length, length + NEW):
        logits = (last_logits(decoder, each, row, end) for each in (params, other))
        row = row.at[end].set(both(*logits).argmax())
    found = decode(
        decoder, params, prompts("left"), max_new=NEW, logits_transform=both, also=[other]
    )
    np.testing.assert_array_equal(found.tokens[1], row[9:])
    plain = decode(decoder, params, prompts("left"), max_new=NEW)
    assert (found.tokens[1] != plain.tokens[1]).any()
    none = decode(
        decoder, params, prompts("left"), max_new=NEW, embedding_transform=lambda x: 0 * x
    )
    assert (none.tokens != plain.tokens).any()


def test_a_second_call_compiles_nothing(tiny):
    decoder, params = tiny("qwen3", scan_layers=True)
    decode(decoder, params, prompts("left"), max_new=NEW)
    other, again = tiny("qwen3", scan_layers=True)[0], prompts("right")
    with compilations.counted_compilations() as count:
        decode(other, params, again, max_new=NEW)
    assert count == []


BAD = {
    "empty": (lambda: prompts("left", (0, 9)), NEW, {}, "one document .* found 0 in row 0"),
    "packed": (
        lambda: prompts("left")._replace(segment=jnp.array([[1] * 4 + [2] * 5] * 2)),
        NEW,
        {},
        "expected one document in every row of prompts, found 2 in row 0",
    ),
    "long": (lambda: prompts("left"), 88, {}, "at most 96 together, found 9 and 88"),
    "none": (lambda: prompts("left"), 0, {}, "expected max_new of at least 1, found 0"),
    "alone": (lambda: prompts("left"), 2, {"also": [{"blocks": 0}]}, "logits_transform that takes"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_in_one_sentence(case, tiny):
    made, new, options, message = BAD[case]
    with pytest.raises(ValueError, match=message) as raised:
        decode(*tiny("qwen3", scan_layers=True), made(), max_new=new, **options)
    assert "\n" not in str(raised.value)
