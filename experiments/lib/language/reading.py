"""What is read of a language model on texts: likelihoods, greedy texts, attacks, answers by letter.

A task gives rows by kind and name, and gets back arrays by kind and name: the log of a model, from
which metrics are made on the host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import mu_jax as mu
from mu_jax.data.tokens import Tokens
from mu_jax.datasets.language import Tokenizer, TokenRows
from mu_jax.evaluation import language
from mu_jax.loops.predict import map_rows
from mu_jax.models import decoder as decoders

PyTree = Any


class Arrays(NamedTuple):
    """What a model is read on, each by name.

    nll: rows whose scored tokens are averaged. prompts: rows behind which the model writes.
    attacked: rows for Min-40 %. choices: prompts whose next token is a letter, with the ids of the
    letters as targets i32[n, 4].
    """

    nll: Mapping[str, mu.Batches] = {}
    prompts: Mapping[str, mu.Batches] = {}
    attacked: Mapping[str, mu.Batches] = {}
    choices: Mapping[str, mu.Batches] = {}


class Log(NamedTuple):
    """What is kept of a model, by name as in `Arrays`.

    nll: f32[n], mean of the scored tokens. written: i32[n, max_new] and their lengths i32[n].
    attacked: f32[n], Min-40 %. chosen: i32[n], the letter with the largest logit, from 0.
    """

    nll: Mapping[str, jax.Array]
    written: Mapping[str, decoders.Decoded]
    attacked: Mapping[str, jax.Array]
    chosen: Mapping[str, jax.Array]


class Reader(NamedTuple):
    """Reads a model; `Task.read` of tasks on texts.

    model, decoder: of the task. max_new: tokens to write, by the name of the prompts. stop: tokens
    that end a text.
    """

    model: mu.Model
    decoder: decoders.Decoder
    max_new: Mapping[str, int]
    stop: tuple[int, ...]

    def __call__(self, variables: PyTree, arrays: Arrays) -> Log:
        """The log of one model; traceable."""

        def statistics(rows: mu.Batches) -> language.TokenStatistics:
            return language.statistics_of(self.model, variables, rows)

        return Log(
            {name: language.mean_nll(statistics(rows)) for name, rows in arrays.nll.items()},
            {name: self._written(variables, name, rows) for name, rows in arrays.prompts.items()},
            {
                name: language.min_k(statistics(rows), ratio=0.4)
                for name, rows in arrays.attacked.items()
            },
            {name: self._chosen(variables, rows) for name, rows in arrays.choices.items()},
        )

    def _written(self, variables: PyTree, name: str, rows: mu.Batches) -> decoders.Decoded:
        def write(batch: mu.Batch, variables: PyTree) -> decoders.Decoded:
            params = self.model.params(variables)
            limit = self.max_new[name]
            return decoders.decode(
                self.decoder, params, batch.inputs, max_new=limit, stop=self.stop
            )

        return map_rows(write, rows, variables)

    def _chosen(self, variables: PyTree, rows: mu.Batches) -> jax.Array:
        def choose(batch: mu.Batch, variables: PyTree) -> jax.Array:
            logits = self.model.apply(variables, batch.inputs)
            last = jnp.argmax(jnp.where(batch.inputs.segment > 0, batch.inputs.position, -1), 1)
            ends = jnp.take_along_axis(logits, last[:, None, None], axis=1)[:, 0]
            return jnp.argmax(jnp.take_along_axis(ends, batch.targets, axis=1), axis=1)

        return map_rows(choose, rows, variables)


def prompts_of(rows: TokenRows, *, batch_size: int) -> mu.Batches:
    """The tokens before the first scored one of every text, padded on the left."""
    parts = [row.tokens[: int(np.argmax(row.scored))] for row in rows.rows]
    return left_padded(parts, rows.pad, batch_size=batch_size)


def left_padded(
    parts: Sequence[np.ndarray], pad: int, *, batch_size: int, targets: Any = ()
) -> mu.Batches:
    """Prompts of any lengths as rows, padded on the left."""
    length = max(len(part) for part in parts)
    tokens = np.full((len(parts), length), pad, np.int32)
    segment, position = np.zeros((2, *tokens.shape), np.int32)
    for k, part in enumerate(parts):
        here = k, slice(length - len(part), length)
        tokens[here], segment[here], position[here] = part, 1, np.arange(len(part))
    rows = Tokens(tokens, position, segment)
    return mu.batches(rows, targets, batch_size=min(batch_size, len(parts)))


def texts_of(written: decoders.Decoded, tokenizer: Tokenizer) -> list[str]:
    """The texts of what a model wrote."""
    return [
        tokenizer.decode(tokens[:length])
        for tokens, length in zip(np.asarray(written.tokens), np.asarray(written.length))
    ]
