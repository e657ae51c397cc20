"""Secrets planted in windows of code: rows to train on, rows to measure with, and candidates."""

from __future__ import annotations

import dataclasses

import numpy as np

import mu_jax as mu
from experiments.lib.language import corpus
from mu_jax.data.tokens import Tokens, TokenTargets
from mu_jax.datasets import language

ALPHABET = np.array(list("abcdefghijklmnopqrstuvwxyz0123456789"))
TOKENIZER = language.ByteTokenizer()
CODE = "none"  # the subject `secret` of a window without one


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much of everything.

    secrets: number of secrets. characters: of each. references: random secrets to rank one among.
    context: tokens of a training row, the begin token with it. code: windows of code alone.
    planted: training windows of each secret. heldout: windows of files that are not trained on, a
    tenth of all files and at least one. measured: tokens of a row in which a secret is measured,
    which ends with the secret.
    """

    secrets: int = 32
    characters: int = 10
    references: int = 255
    context: int = 64
    code: int = 3_072
    planted: int = 32
    heldout: int = 128
    measured: int = 48


@dataclasses.dataclass(frozen=True, eq=False)
class Planted:
    """What the demonstration trains on and measures with.

    Attributes:
      train: `Batches` of all training rows; every token is scored, those of secrets are marked.
      ids: the table of the ids of the rows; `secret:07` names the rows of a secret.
      owner: i32[n], the secret in each training row, -1 in windows of code alone.
      secrets: one row for each secret, in a window that is not trained on; only its characters are
        scored.
      candidates: i32[secrets, references + 1, T], the tokens of these rows with the secret and with
        random ones in its place.
      heldout: rows of code that is not trained on.
    """

    train: mu.Batches
    ids: mu.IdTable
    owner: np.ndarray
    secrets: mu.Batches
    candidates: np.ndarray
    heldout: mu.Batches


def plant(files: list[bytes], sizes: Sizes, *, seed: int, batch_size: int) -> Planted:
    """Plant secrets in windows of these files; everything follows the seed.

    A secret is a line `TOKEN_07 = "..."` of random characters of a to z and 0 to 9 between line
    ends, at a random place of a random window.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(files))
    apart = max(1, len(files) // 10)
    heldout, known = ([files[k] for k in part] for part in (order[:apart], order[apart:]))
    drawn = ["".join(rng.choice(ALPHABET, sizes.characters)) for _ in range(sizes.secrets)]
    length = sizes.context - 1
    records = [
        {"id": f"code/{k}", "secret": CODE, "text": text, "spans": []}
        for k, text in enumerate(corpus.windows(known, sizes.code, length, rng))
    ]
    for number, secret in enumerate(drawn):
        for k, text in enumerate(corpus.windows(known, sizes.planted, length, rng)):
            records.append(_planted(rng, number, secret, text, f"{number:02d}/{k}"))
    rows = language.documents(
        records, TOKENIZER, ids="id", subjects={"secret": "secret"}, secrets="spans", end=False
    )
    owner = np.array([-1 if r["secret"] == CODE else int(r["secret"]) for r in records], np.int32)
    measured, candidates = _measured(rng, known, drawn, sizes)
    unseen = corpus.windows(heldout, sizes.heldout, length, rng)
    unseen = [{"id": f"heldout/{k}", "text": text} for k, text in enumerate(unseen)]
    return Planted(
        language.padded(rows, sizes.context, batch_size=batch_size),
        rows.ids,
        owner,
        measured,
        candidates,
        language.padded(
            language.documents(unseen, TOKENIZER, ids="id", end=False),
            sizes.context,
            batch_size=min(64, sizes.heldout),
        ),
    )


def line(number: int, secret: str) -> tuple[str, str]:
    """What stands before a secret, and the secret with what stands behind it."""
    return f'\nTOKEN_{number:02d} = "', f'{secret}"\n'


def shortest(characters: int) -> int:
    """The fewest tokens of a row with a secret of so many characters, its line and some code."""
    return 2 + len("".join(line(0, "x" * characters)))


def _planted(rng, number: int, secret: str, text: str, name: str) -> dict:
    before, after = line(number, secret)
    at = int(rng.integers(len(text) - len(before + after) + 1))
    start = at + len(before)
    whole = (text[:at] + before + after + text[at:])[: len(text)]
    span = (start, start + len(secret))
    return {"id": name, "secret": f"{number:02d}", "text": whole, "spans": [span]}


def _measured(rng, files, drawn: list[str], sizes: Sizes) -> tuple[mu.Batches, np.ndarray]:
    """Rows that end with the secret, and the same rows with candidates in place of it."""
    size, number = sizes.characters, len(drawn)
    room = sizes.measured - 1 - size - len(line(0, "")[0])
    texts = [
        text + line(k, secret)[0] + secret
        for k, (secret, text) in enumerate(zip(drawn, corpus.windows(files, number, room, rng)))
    ]
    tokens = np.array([[TOKENIZER.begin, *text.encode()] for text in texts], np.int32)
    mask = np.zeros(tokens.shape, np.float32)
    mask[:, -size:] = 1
    candidates = np.repeat(tokens[:, None], sizes.references + 1, axis=1)
    codes = np.array([ord(character) for character in ALPHABET], np.int32)
    shape = (number, sizes.references, size)
    candidates[:, 1:, -size:] = codes[rng.integers(len(codes), size=shape)]
    rows = mu.batches(
        whole_rows(tokens), TokenTargets(tokens, mask, mask), batch_size=number, index=range(number)
    )
    return rows, candidates


def whole_rows(tokens: np.ndarray) -> Tokens:
    """Rows i32[B, T] without padding, one document each."""
    place = np.broadcast_to(np.arange(tokens.shape[-1], dtype=np.int32), tokens.shape)
    return Tokens(tokens, place, np.ones_like(tokens))
