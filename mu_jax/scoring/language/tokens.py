"""Statistics of the tokens of a language model on rows of data, in one pass."""

from __future__ import annotations

from typing import Any

from mu_jax._tracing import cached
from mu_jax.data.batches import Batch
from mu_jax.evaluation.language.token_stats import TokenStatistics, token_statistics
from mu_jax.loops.predict import RowFunction, map_rows, unweighted
from mu_jax.model import Model

PyTree = Any


def statistics_of(model: Model, variables: PyTree, data: Any) -> TokenStatistics:
    """Token statistics of every row of the data, `[n, T]`, in the order of the rows.

    Args:
        model: gives logits [B, T, V], in inference mode. variables: its arrays.
        data: `Batches` or a `Stream` with `Tokens` as inputs and `TokenTargets` as targets; rows of
            weight 0 get their statistics too.

    Returns:
        `TokenStatistics`, of which all teacher-forced metrics are functions: five numbers a token.

    Raises:
        ValueError: the data have no targets of tokens.

    Cost:
        One forward pass, and one array of float32 beside the logits of a batch; of a decoder with
        the loss `TokenCrossEntropy()` both are of some columns at a time, [B, chunk, V].
    """
    return map_rows(_rows(model), unweighted(data), variables)


@cached(maxsize=16)
def _rows(model: Model) -> RowFunction:
    def rows(batch: Batch, variables: PyTree) -> TokenStatistics:
        targets = batch.targets
        if not (hasattr(targets, "tokens") and hasattr(targets, "mask")):
            raise ValueError(
                f"expected targets with tokens and a mask, found {type(targets).__name__}: make "
                "the data with TokenTargets"
            )
        outputs = model.for_loss(*model.split(variables), batch.inputs)
        return token_statistics(outputs, targets)

    return rows
