"""The multiplier of datamodel matching, from groups whose retrained models are known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from mu_jax.attribution.group_effects import multiplier
from mu_jax.attribution.trak import Trak
from mu_jax.data.batches import Batches
from mu_jax.loops.predict import outputs
from mu_jax.model import Model

PyTree = Any


def calibrate_multiplier(
    model: Model,
    trak: Trak,
    originals: Sequence[PyTree],
    groups: Iterable[tuple[Batches, Sequence[PyTree]]],
    *,
    retain_only: bool = False,
) -> float:
    """The factor from predicted to observed changes of outputs, mean over held-out groups.

    `c = mean_g argmin_c |c P_g - O_g|^2`, P_g the change of the outputs on group g that the
    attribution predicts for its removal, O_g the observed one: mean outputs of the originals minus
    those of models retrained without the group. Least squares on a predictor with noise makes the
    factor too small, so take groups of the kind that will be forgotten.

    Args:
      model: how to compute.
      trak: `mu.attribution.trak(...)`, of the originals.
      originals: variables of models trained on all data.
      groups: `(rows of the group, variables of models retrained without them)`, groups other than
        the one to be forgotten.
      retain_only: as in `trak.directions`.

    Returns:
      The `multiplier` of `mu.dmm`.

    Cost: for each group a prediction, and a forward pass over its rows for every model.

    Reference:
      K. Georgiev, R. Rinberg, S. M. Park, S. Garg, A. Ilyas, A. Madry, S. Neel.
      Attribute-to-Delete: Machine Unlearning via Datamodel Matching. ICLR 2025.
    """
    factors = []
    for rows, retrained in groups:
        means = [
            np.mean([np.asarray(outputs(model, one, rows)) for one in models], axis=0)
            for models in (originals, retrained)
        ]
        predicted = trak.effect(rows, rows, retain_only=retain_only)
        factors.append(float(multiplier(predicted, means[0] - means[1])))
    if not factors:
        raise ValueError(
            "expected at least one group with its retrained models, found none; give held-out "
            "groups of the kind that will be forgotten"
        )
    return float(np.mean(factors))
