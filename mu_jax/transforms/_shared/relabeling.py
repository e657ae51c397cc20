"""Passes over a forget set with other labels, in turn with passes over the retain set."""

from __future__ import annotations

from typing import Any

import jax
import optax

from mu_jax.loops.fit import Objective
from mu_jax.loops.phases import Phase, PhasesInfo, PhasesState, fit_phases
from mu_jax.model import Model
from mu_jax.objectives.label_choices import chosen_labels
from mu_jax.objectives.relabel import LabelRule, relabeled
from mu_jax.objectives.supervised import supervised

PyTree = Any


def relabel_in_turn(
    model: Model,
    optimizer: optax.GradientTransformation,
    variables: PyTree,
    sets: tuple[Any, Any],
    rule: LabelRule,
    *,
    key: jax.Array,
    epochs: int,
    batch_sizes: tuple[int | None, int | None],
    training_mode: bool,
    **options: Any,
) -> tuple[PhasesState, PhasesInfo]:
    """In every epoch a pass over the forget set by a rule of labels, then one over the retain set.

    One optimizer state runs through all passes.

    Args:
      model, optimizer, variables: of the fit. sets: forget and retain set. rule: of labels.
      key: of the fit. epochs: passes over each set. batch_sizes: of both sets.
      training_mode: of both passes. options: of both, see `mu.Phase`.
    """
    others, draw = chosen_labels(model, variables, *sets, rule)
    passes: list[tuple[Objective, Any]] = [
        (relabeled(model, draw, training_mode=training_mode), others),
        (supervised(model, training_mode=training_mode), sets[1]),
    ]
    phases = [
        Phase(objective, optimizer, part, batch_size=size, optimizer_state="shared", **options)
        for (objective, part), size in zip(passes, batch_sizes)
    ]
    return fit_phases(model, phases, variables, key=key, cycles=epochs)
