"""What a reference model says of rows of tokens, computed once and kept as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from mu_jax._tracing import cached
from mu_jax.data.batches import Batch
from mu_jax.data.tokens import Preference, TokenTargets
from mu_jax.loops.predict import map_rows
from mu_jax.model import Model
from mu_jax.token_losses import segments, sequence_nll

PyTree = Any


def reference_nll(model: Model, variables: PyTree, examples: Any, *, documents: int = 1) -> PyTree:
    """What a model says of every row, to be kept as `TokenTargets.reference`.

    Args:
      model, variables: the reference model, which is that before unlearning.
      examples: `Batches` or a `Stream` of rows of tokens.
      documents: the most documents in a packed row; 1: each row is one document.

    Returns:
      The summed losses of the scored tokens, f32[n], or f32[n, S] for `documents` S > 1; a
      `Preference` of both where the examples are preferences.

    Cost: one forward pass, in inference mode.
    """
    return map_rows(_reference_rows(model, documents), examples, variables)


@cached(maxsize=64)
def _reference_rows(model: Model, documents: int) -> Callable:
    def rows(batch: Batch, variables: PyTree) -> PyTree:
        if isinstance(batch.inputs, Preference):
            return Preference(*(one(variables, *part) for part in zip(batch.inputs, batch.targets)))
        return one(variables, batch.inputs, batch.targets)

    def one(variables: PyTree, inputs: PyTree, targets: TokenTargets) -> jax.Array:
        logits = model.for_loss(*model.split(variables), inputs)
        return sequence_nll(logits, targets, segments(inputs, documents), documents)[0]

    return rows
