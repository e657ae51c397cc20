"""The one rule by which an example is forgotten, under-forgotten or over-forgotten."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mu_jax.plots.nothing import NothingToDraw

AS_RETRAINED, UNDER, OVER = "as retrained", "under-forgotten", "over-forgotten"
VERDICTS = (UNDER, AS_RETRAINED, OVER)
SPREAD = (2.5, 97.5)  # percentiles over retrained models


def verdicts(margins: ArrayLike, oracle_margins: ArrayLike) -> np.ndarray:
    """Whether a row of models treats each example as models retrained without it do.

    The mean margin of the row is compared with the spread of single retrained models on the same
    example, from the 2.5th to the 97.5th percentile over models (with fewer than 40 models about
    their range). Within the spread, ends included, the example is forgotten: "as retrained". Above
    it the models are surer of the label than retraining explains: "under-forgotten". Below it they
    avoid the label, which tells an attacker as much: "over-forgotten".

    A row of retrained models is nearly always "as retrained", since its mean varies less than the
    single models do. Of an example that was not to be forgotten the words say in which direction
    the models have left the retrained ones.

    Args:
        margins: float [N, n] of the row.
        oracle_margins: float [M, n] of retrained models, M >= 2.

    Returns:
        str [n], of `VERDICTS`.

    Raises:
        NothingToDraw: fewer than two retrained models, or margins that are not finite.

    Example:
        >>> oracle = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
        >>> verdicts([[0.5, 3.0, -2.0]], oracle).tolist()
        ['as retrained', 'under-forgotten', 'over-forgotten']
    """
    own, oracle = np.asarray(margins, np.float64), np.asarray(oracle_margins, np.float64)
    if len(oracle) < 2:
        raise NothingToDraw(
            f"No verdicts on examples: a spread needs two retrained models, found {len(oracle)}."
        )
    if not np.isfinite(own).all() or not np.isfinite(oracle).all():
        raise NothingToDraw("No verdicts on examples: margins are NaN or infinite.")
    low, high = np.percentile(oracle, SPREAD, axis=0)
    mean = own.mean(axis=0)
    return np.where(mean > high, UNDER, np.where(mean < low, OVER, AS_RETRAINED))
