"""Rows of one length hold every document once, scored as it is alone, and say whose it is."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.data.tokens import Preference, Tokens, TokenTargets
from mu_jax.datasets import language
from mu_jax.datasets.language.packing import _fitted
from mu_jax.models.decoder import Decoder, DecoderConfig

BYTES = language.ByteTokenizer()
TEXTS = ["abcdef", "gh", "ijk", "lmnopqrs", "t", "uv"]
RECORDS = [
    {"text": text, "id": f"d{k}", "author": "xy"[k % 2], "secrets": [[1, 2]] if k == 2 else []}
    for k, text in enumerate(TEXTS)
]


def rows_of(**options):
    return language.documents(
        RECORDS, BYTES, ids="id", subjects={"author": "author"}, secrets="secrets", **options
    )


def documents_in(inputs, targets):
    """What each row holds: tokens, mask and secret of each segment, with padding checked."""
    for values in zip(*inputs, targets.tokens, targets.mask, targets.secret):
        tokens, position, segment, again, mask, secret = map(np.asarray, values)
        np.testing.assert_array_equal(tokens, again)
        filling = segment == 0
        assert (tokens[filling] == BYTES.pad).all() and not mask[filling].any()
        numbers = np.unique(segment[~filling])
        assert numbers.tolist() == list(range(1, len(numbers) + 1))
        assert (np.diff(segment[~filling]) >= 0).all()
        for number in numbers:
            here = np.flatnonzero(segment == number)
            assert (np.diff(here) == 1).all() and mask[here[0]] == 0
            np.testing.assert_array_equal(position[here], np.arange(len(here)))
            yield tokens[here].tolist(), mask[here].tolist(), secret[here].tolist()


def alone(rows):
    return [tuple(np.asarray(part, float).tolist() for part in row) for row in rows.rows]


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_stands_on_one_side_and_is_never_scored(side):
    rows = rows_of()
    data = language.padded(rows, 12, batch_size=4, side=side)
    assert list(documents_in(data.inputs, data.targets)) == alone(rows)
    edge = data.inputs.segment[:, 0 if side == "right" else -1]
    assert (edge == 1).all() and data.inputs.tokens.dtype == jnp.int32
    assert data.targets.mask.dtype == data.targets.secret.dtype == jnp.float32
    np.testing.assert_array_equal(data.index, rows.index)
    forget, retain = mu.split(data, "author:x", ids=rows.ids)
    assert forget.num_examples == retain.num_examples == 3
    assert language.padded(rows_of(), batch_size=4).inputs.tokens.shape == (6, 10)
    plain = language.documents(RECORDS, BYTES, ids="id")
    assert language.padded(plain, batch_size=4).targets.secret == ()


@pytest.mark.parametrize("most", [None, 1, 2])
def test_packed_rows_hold_every_document_once_and_say_which(most):
    rows = rows_of()
    found = language.packed(rows, 14, batch_size=2, most_documents=most)
    held = list(documents_in(found.data.inputs, found.data.targets))
    order = np.concatenate(found.documents)
    wanted = {number: row for number, row in zip(rows.index, alone(rows))}
    assert held == [wanted[number] for number in order]
    assert sorted(order) == sorted(rows.index)
    segments = np.asarray(found.data.inputs.segment).max(axis=1)
    assert segments.tolist() == list(map(len, found.documents))
    assert found.most_documents == segments.max() <= (most or 6)
    assert len(found.documents) == {None: 3, 1: 6, 2: 3}[most]
    np.testing.assert_array_equal(found.data.index, [~numbers[0] for numbers in found.documents])
    with pytest.raises(ValueError, match="expected numbers of the table of ids"):
        mu.split(found.data, "author:x", ids=rows.ids)
    again = language.packed(rows_of(), 14, batch_size=2, most_documents=most)
    np.testing.assert_array_equal(found.data.inputs.tokens, again.data.inputs.tokens)


def test_a_request_finds_the_rows_that_hold_its_documents():
    rows = rows_of()
    found = language.packed(rows, 14, batch_size=2)
    for request in ("author:x", ["d4"], "id:d1,d5"):
        wanted = rows.ids.find(request)
        held = [k for k, row in enumerate(found.documents) if set(row) & set(wanted)]
        assert found.find(request).tolist() == held != []
    forget, retain = mu.split(rows, "author:x", ids=rows.ids)
    both = [language.packed(part, 14, batch_size=2) for part in (forget, retain)]
    assert not set(np.concatenate(both[0].documents)) & set(np.concatenate(both[1].documents))
    assert not set(both[0].data.index.tolist()) & set(both[1].data.index.tolist())
    with pytest.raises(ValueError, match="for documents of these rows, found one for others"):
        both[1].find("author:x")


def test_rows_are_never_overfull_and_few():
    draws = np.random.default_rng(0)
    for length, most in itertools.product((9, 16), (2, 50)):
        sizes = draws.integers(1, 10, size=200).tolist()
        groups = _fitted(sizes, length, most)
        assert sorted(k for group in groups for k in group) == list(range(200))
        totals = [sum(sizes[k] for k in group) for group in groups]
        assert max(totals) <= length and max(map(len, groups)) <= most
        assert groups == sorted(groups) and all(group == sorted(group) for group in groups)
        if most == 50:
            assert len(groups) <= 1.25 * sum(sizes) / length + 1


@pytest.mark.parametrize("overlap", [1, 2])
def test_pieces_of_documents_score_every_token_once_where_they_overlap(overlap):
    rows = rows_of()
    pieces = language.cut(rows, 5, overlap=overlap)
    assert max(pieces.lengths) == 5
    for place, row in enumerate(rows.rows):
        name = f"d{place}"
        owned = pieces.ids.owned("document", [name])
        own = pieces.take(np.flatnonzero(np.isin(pieces.index, owned)))
        scored = [piece.tokens[piece.scored] for piece in own.rows]
        np.testing.assert_array_equal(np.concatenate(scored), row.tokens[row.scored])
        secret = [piece.tokens[piece.secret] for piece in own.rows]
        np.testing.assert_array_equal(np.concatenate(secret), row.tokens[row.secret])
        ids = own.ids.names(own.index).tolist()
        assert ids == [f"{name}#{k}" for k in range(len(ids))]
    forget, retain = mu.split(pieces, "document:d3", ids=pieces.ids)
    assert len(forget) > 1 and len(forget) + len(retain) == len(pieces)
    assert set(pieces.ids.owned("author", ["y"])) > set(forget.index)


def test_pieces_of_some_documents_keep_their_owners():
    pieces = language.cut(rows_of().take([3, 4]), 5)
    owners = zip(pieces.ids.subjects["document"], pieces.ids.subjects["author"])
    assert sorted(set(owners)) == [("d3", "y"), ("d4", "x")]


def test_pieces_without_overlap_are_consecutive():
    rows = rows_of(end=False)
    pieces = language.cut(rows, 4)
    whole = [piece.tokens for piece in pieces.rows]
    assert [BYTES.decode(tokens) for tokens in whole][:4] == ["abc", "def", "gh", "ijk"]
    assert not any(piece.scored[0] for piece in pieces.rows)
    assert all(piece.scored[1:].all() for piece in pieces.rows)
    assert pieces.ids.names(pieces.index).tolist() == [
        "d0#0", "d0#1", "d1#0", "d2#0", "d3#0", "d3#1", "d4#0", "d5#0"
    ], "the last token of d3, alone, is left out"  # fmt: skip
    for arguments in ((1, 0), (4, 4), (4, -1)):
        with pytest.raises(ValueError, match="at least 2 tokens and a shorter overlap"):
            language.cut(rows, arguments[0], overlap=arguments[1])
    with pytest.raises(ValueError, match=r"rows have 'author': give another word"):
        language.cut(rows, 4, document="author")


@pytest.mark.parametrize("form", ["padded", "packed"])
def test_pairs_are_aligned(form):
    records = [
        {"question": q, "winner": w, "loser": x, "id": q}
        for q, w, x in [("a", "no", "yes!"), ("bb", "nothing", "b"), ("ccc", "no", "c")]
    ]
    rows = language.preferences(records, BYTES, ids="id")
    if form == "padded":
        data, segments = language.padded(rows, batch_size=2), [1, 1, 1]
    else:
        found = language.packed(rows, 65, batch_size=2)
        data, segments = found.data, [2, 1]
        assert list(map(len, found.documents)) == segments
    assert isinstance(data.inputs, Preference) and isinstance(data.targets.loser, TokenTargets)
    for part, made in zip(("winner", "loser"), (rows.winner, rows.loser)):
        inputs, targets = getattr(data.inputs, part), getattr(data.targets, part)
        targets = targets._replace(secret=np.zeros_like(targets.mask))
        assert list(documents_in(inputs, targets)) == alone(made)
        assert inputs.segment.max(axis=1).tolist() == segments
    assert data.inputs.winner.tokens.shape == data.inputs.loser.tokens.shape


def test_texts_that_do_not_fit_are_refused_by_their_id():
    rows = rows_of()
    for make in (language.padded, language.packed):
        with pytest.raises(ValueError, match=r"at most 7 tokens, found 8 in 'd0' and 1 more: cut"):
            make(rows, 7, batch_size=2)
        with pytest.raises(ValueError, match="at least one text, found none"):
            make(rows.take(np.zeros(0, int)), 7, batch_size=2)
    with pytest.raises(ValueError, match="found 'middle'"):
        language.padded(rows, batch_size=2, side="middle")
    with pytest.raises(ValueError, match="at least one document in a row, found 0"):
        language.packed(rows, 14, batch_size=2, most_documents=0)


def test_a_decoder_says_the_same_of_padded_and_packed_documents():
    config = DecoderConfig(
        "llama", vocab_size=BYTES.size, width=8, depth=1, num_heads=2, num_kv_heads=1, head_dim=4,
        mlp_width=8, max_positions=16,
    )  # fmt: skip
    decoder, rows = Decoder(config), rows_of()
    params = decoder.init(jax.random.key(0)).params

    @jax.jit
    def token_losses(inputs: Tokens, targets: TokenTargets):
        log_p = jax.nn.log_softmax(decoder.logits(params, inputs))
        found = jnp.take_along_axis(log_p[:, :-1], targets.tokens[:, 1:, None], axis=2)[..., 0]
        return -found * targets.mask[:, 1:]

    def losses(data):
        found = np.asarray(token_losses(data.inputs, data.targets))
        segment, number = np.asarray(data.inputs.segment)[:, 1:], []
        for line, own in zip(found, segment):
            number += [line[own == k].sum() for k in range(1, own.max() + 1)]
        return number

    right = losses(language.padded(rows, 14, batch_size=6))
    left = losses(language.padded(rows, 14, batch_size=6, side="left"))
    found = language.packed(rows, 14, batch_size=6)
    place = {number: k for k, number in enumerate(rows.index)}
    order = [place[number] for number in np.concatenate(found.documents)]
    np.testing.assert_allclose(left, right, rtol=1e-5)
    np.testing.assert_allclose(losses(found.data), np.array(right)[order], rtol=1e-5)
