"""The numbers of one model: accuracy or error on each set, the membership attack, collapse."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mu_jax import evaluation
from mu_jax.evaluation import Collapse
from mu_jax.reporting.records import Direction, Metric, missing
from mu_jax.scoring import kinds
from mu_jax.scoring.kinds import Kind, Part

SETS = ("retain", "forget", "test")  # in the order of their columns


class Own(NamedTuple):
    """A metric of the caller: `function(outputs, targets)` gives a number, or one an example.

    direction: how to read it. unit: "fraction" is shown as a percentage, and counts in the average
    gap if its direction is "closer to retrain".
    """

    function: Callable[[Any, Any], Any]
    direction: Direction = "closer to retrain"
    unit: str = ""


def measure_model(
    kind: Kind,
    parts: Mapping[str, Part],
    seed: int,
    *,
    losses: Mapping[str, np.ndarray] | None = None,
    own: Mapping[str, Own] | None = None,
) -> tuple[dict[str, Metric], Collapse]:
    """The metrics of one model, and whether it has collapsed.

    Classes of which nothing is retained are left out of the test accuracy. The membership attack
    tells the forget set from the whole test set by the loss; when a class is forgotten a retrained
    model loses more on it than on the others, so the value to reach is that of retraining.

    Args:
        kind: what the task asks for. seed: of the subsample and the splits of the attack.
        parts: outputs and targets of "retain" and "forget", and of "test" where there is one.
        losses: of a task of the kind "other", those of the model for each part, f32[n].
        own: further metrics by name.
    """
    shown = [name for name in SETS if name in parts]
    if losses is None:
        losses = {name: losses_of(kind, parts[name]) for name in shown}
    metrics: dict[str, Metric] = {}
    for name in shown:
        metrics |= _of_set(kind, name, parts, losses[name])
    if "test" in parts:
        metrics["MIA"] = membership(losses["forget"], losses["test"], seed)
    for title, metric in (own or {}).items():
        metrics |= {f"{name} {title}": _own(metric, parts[name]) for name in shown}
    return metrics, _collapse(kind, parts["retain"], losses["retain"])


def losses_of(kind: Kind, part: Part) -> np.ndarray:
    """The loss of every example by which a task of this kind is scored, f32[n]."""
    find = kinds.squared_errors if kind == "regression" else kinds.example_losses
    return find(*part)


def membership(forget_losses: np.ndarray, test_losses: np.ndarray, seed: int) -> Metric:
    """Accuracy of the loss attack, forget against test, or the sentence why there is none."""
    try:
        attack = evaluation.loss_mia(forget_losses, test_losses, seed=seed)
    except (ValueError, ModuleNotFoundError) as error:
        return missing(str(error), unit="fraction")
    return Metric(attack.accuracy, n=attack.n, stderr=attack.accuracy_stderr, unit="fraction")


def _of_set(
    kind: Kind, name: str, parts: Mapping[str, Part], losses: np.ndarray
) -> dict[str, Metric]:
    if kind in ("regression", "other"):
        title = "squared error" if kind == "regression" else "loss"
        return {f"{name} {title}": Metric(losses.mean(), n=losses.size)}
    part = parts[name]
    if name == "test":
        part = _of_classes(part, np.unique(parts["retain"].targets))
    if not len(part.targets):
        return {f"{name} accuracy": missing("no class of it is retained", unit="fraction")}
    value = kinds.accuracy(*part)
    return {f"{name} accuracy": Metric(value, n=len(part.targets), unit="fraction")}


def _of_classes(part: Part, classes: np.ndarray) -> Part:
    if part.targets.ndim > 1:
        return part
    chosen = np.isin(part.targets, classes)
    return Part(part.outputs[chosen], part.targets[chosen])


def own_value(metric: Own, part: Part) -> float:
    """A metric of the caller on one set, a mean where it gives one number an example."""
    values = np.asarray(metric.function(*part), np.float64)
    if values.ndim > 1 or not values.size:
        raise ValueError(
            f"expected a number or one for each example from a metric, found shape {values.shape}: "
            "reduce over everything but the examples"
        )
    return float(values.mean())


def _own(metric: Own, part: Part) -> Metric:
    n = len(jax.tree.leaves(part.targets)[0])
    return Metric(own_value(metric, part), n=n, direction=metric.direction, unit=metric.unit)


def _collapse(kind: Kind, retain: Part, losses: np.ndarray) -> Collapse:
    if kind == "other":
        return kinds.collapse_of_losses(losses)
    if kind == "regression":
        return kinds.collapse_of_regression(retain.outputs)
    return kinds.collapse(*retain)
