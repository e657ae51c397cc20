"""What a reference model says of rows of tokens, computed once and kept as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from mu_jax._tracing import cached
from mu_jax.data.batches import Batch
from mu_jax.loops.predict import map_rows
from mu_jax.model import Model
from mu_jax.token_losses import check_targets, segments, sequence_nll

PyTree = Any


def reference_nll(
    model: Model, variables: PyTree, examples: Any, *, documents: int = 1
) -> jax.Array:
    """What a model says of every row, to be kept as `TokenTargets.reference`.

    Args:
      model, variables: the reference model, which is that before unlearning.
      examples: `Batches` or a `Stream` of rows of tokens.
      documents: the most documents in a packed row; 1: each row is one document.

    Returns:
      The summed losses of the scored tokens, f32[n], or f32[n, S] for `documents` S > 1.

    Cost: one forward pass, in inference mode.
    """
    return map_rows(_reference_rows(model, documents), examples, variables)


@cached(maxsize=64)
def _reference_rows(model: Model, documents: int) -> Callable:
    def rows(batch: Batch, variables: PyTree) -> jax.Array:
        check_targets(batch.targets)
        logits = model.apply(variables, batch.inputs)
        return sequence_nll(logits, batch.targets, segments(batch.inputs, documents), documents)[0]

    return rows
