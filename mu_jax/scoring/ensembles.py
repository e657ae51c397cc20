"""What N unlearned models score: their numbers, with the floor and the oracles' value beside."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from mu_jax import evaluation
from mu_jax.reporting.records import Metric, Oracle, missing
from mu_jax.scoring.kinds import Part
from mu_jax.scoring.single import Own, membership, own_value

FEWEST = 20  # models of a row, below which KLoM is noise
ATTACKED = 5  # models on which the membership attack is run
COLLAPSED = "collapsed models"
p95 = functools.partial(np.percentile, q=95)


@dataclasses.dataclass(frozen=True, eq=False)
class Yardstick:
    """What N models of one forget set are measured against; equal to itself only.

    targets: labels int[n] of all examples. positions: where the examples of each split stand,
    "forget", "retain" and, where there is one, "test". oracles: margins f32[N', n] of retrained
    models. retrained: outputs f32[N, n, K] of other retrained models, whose numbers stand beside
    all others. others: outputs f32[N, n, K] of further retrained models, whose numbers stand beside
    those of `retrained`: the gap between both is the floor of the gaps to `retrained`. attacked: on
    how many models of a row the membership attack is run.
    """

    targets: np.ndarray
    positions: dict[str, np.ndarray]
    oracles: np.ndarray
    retrained: np.ndarray
    others: np.ndarray | None = None
    attacked: int = ATTACKED

    @functools.cached_property
    def reference(self) -> dict[str, Metric]:
        """The metrics of the retrained models, to which all others are compared."""
        return _measure(self, self.retrained, klom_of(self, self.retrained))

    @functools.cached_property
    def beside_reference(self) -> dict[str, Metric]:
        """The fractions of the further retrained models; those of `reference` if there are none."""
        if self.others is None or not np.isfinite(self.others).all():
            return self.reference
        return _fractions(self, self.others)


def klom_of(yardstick: Yardstick, outputs: np.ndarray) -> np.ndarray | None:
    """KLoM of N models for every example, f32[n]; None where an output is NaN or infinite."""
    if not np.isfinite(outputs).all():
        return None
    margins = evaluation.margins(outputs, yardstick.targets)
    return np.asarray(evaluation.klom(yardstick.oracles, margins))


def count_collapsed(yardstick: Yardstick, outputs: np.ndarray) -> evaluation.EnsembleCollapse:
    """Which of N models have collapsed on the retain set, by `evaluation.collapsed_models`."""
    where = yardstick.positions["retain"]
    return evaluation.collapsed_models(outputs[:, where], yardstick.targets[where])


def collapse(yardstick: Yardstick, outputs: np.ndarray) -> str:
    """Why N models cannot be read; empty if they can.

    The one rule of every table: a row has collapsed if most of its models have, `2 k > N`. The
    number k stands beside the other metrics of each row as "collapsed models", so that a row with
    few of them can be told from a row with none.
    """
    found = count_collapsed(yardstick, outputs)
    return found.reason if found.flag else ""


def measure(
    yardstick: Yardstick,
    outputs: np.ndarray,
    klom: np.ndarray | None = None,
    *,
    retrained: bool = False,
) -> dict[str, Metric]:
    """KLoM beside its floor, accuracies and membership attack beside those of retraining.

    Args:
      yardstick: what to compare with.
      outputs: f32[N, n, K] of N models on the training, then the test examples.
      klom: what `klom_of` says of them; computed if it is not given.
      retrained: whether they are the yardstick's retrained models, which are put beside others.

    Returns:
      Metrics by name: "KLoM forget p95" and the accuracy for each split, "MIA", and "collapsed
      models", the number of those that the rule of `collapse` counts. All but the last are missing
      where an output of any model is NaN or infinite.
    """
    klom = klom_of(yardstick, outputs) if klom is None else klom
    metrics = _measure(yardstick, outputs, klom)
    reference = yardstick.reference
    if retrained:
        reference = reference | yardstick.beside_reference
    beside = {
        name: metric if name == COLLAPSED else _beside(metric, reference[name])
        for name, metric in metrics.items()
    }
    for split in yardstick.positions:
        name = f"KLoM {split} p95"
        if beside[name].value is not None:
            beside[name] = _with_note(yardstick, outputs, split, beside[name])
    return beside


def measure_accuracies(
    yardstick: Yardstick, outputs: np.ndarray, *, retrained: bool = False
) -> dict[str, Metric]:
    """What `measure` says of accuracies and collapsed models alone, which costs next to nothing.

    Args:
      yardstick, outputs, retrained: as for `measure`.
    """
    found = {}
    beside = yardstick.others if retrained and yardstick.others is not None else None
    reference = _accuracies(yardstick, yardstick.retrained if beside is None else beside)
    for name, metric in _accuracies(yardstick, outputs).items():
        found[name] = _beside(metric, reference[name])
    return {**found, COLLAPSED: _counted(yardstick, outputs)}


def _counted(yardstick: Yardstick, outputs: np.ndarray) -> Metric:
    """How many of the models have collapsed."""
    number = count_collapsed(yardstick, outputs).collapsed
    return Metric(number, n=len(outputs), direction="lower is better", unit="models")


def _measure(
    yardstick: Yardstick, outputs: np.ndarray, klom: np.ndarray | None
) -> dict[str, Metric]:
    counted = _counted(yardstick, outputs)
    if klom is None:
        return {**_missing(yardstick, outputs), COLLAPSED: counted}
    metrics = {
        f"KLoM {split} p95": _klom_metric(yardstick, outputs, split, klom)
        for split in yardstick.positions
    }
    return {**metrics, **_fractions(yardstick, outputs), COLLAPSED: counted}


def _fractions(yardstick: Yardstick, outputs: np.ndarray) -> dict[str, Metric]:
    """Mean accuracies and membership attack of N models with finite outputs."""
    metrics = _accuracies(yardstick, outputs)
    if "test" in yardstick.positions:
        metrics["MIA"] = _membership(yardstick, outputs)
    return metrics


def _accuracies(yardstick: Yardstick, outputs: np.ndarray) -> dict[str, Metric]:
    """Mean accuracies of N models, missing where an output is NaN or infinite."""
    if not np.isfinite(outputs).all():
        found = _missing(yardstick, outputs)
        return {name: metric for name, metric in found.items() if name.endswith("accuracy")}
    correct = outputs.argmax(-1) == yardstick.targets
    return {
        f"{split} accuracy": _mean(correct[:, _retained(yardstick, split)].mean(axis=1))
        for split in yardstick.positions
    }


def _missing(yardstick: Yardstick, outputs: np.ndarray) -> dict[str, Metric]:
    """The metrics that need finite outputs, where some are not."""
    broken = sum(not np.isfinite(one).all() for one in outputs)
    reason = f"{broken} of {len(outputs)} models have outputs that are NaN or infinite"
    klom = missing(reason, direction="lower is better", unit="nats")
    fraction = missing(reason, unit="fraction")
    return {
        **{f"KLoM {split} p95": klom for split in yardstick.positions},
        **{f"{split} accuracy": fraction for split in yardstick.positions},
        **({"MIA": fraction} if "test" in yardstick.positions else {}),
    }


def _klom_metric(yardstick: Yardstick, outputs: np.ndarray, split: str, klom: np.ndarray) -> Metric:
    """KLoM of a split with its interval over models and examples, or the reason why it has none."""
    low, high, why = None, None, ""
    try:
        low, high = evaluation.klom_interval(*_margins(yardstick, outputs, split))[1:3]
    except ValueError as error:
        why = str(error)
    return Metric(
        p95(klom[yardstick.positions[split]]),
        n=len(outputs),
        low=low,
        high=high,
        no_interval=why,
        direction="lower is better",
        unit="nats",
    )


def _with_note(yardstick: Yardstick, outputs: np.ndarray, split: str, metric: Metric) -> Metric:
    """The metric, and which models make its value too small to be believed."""
    floor = metric.null if metric.better_than_perfect else None
    check = evaluation.klom_check(*_margins(yardstick, outputs, split), floor=floor, q=0.95)
    return dataclasses.replace(metric, note=check.reason)


def _margins(yardstick: Yardstick, outputs: np.ndarray, split: str) -> tuple[Any, Any]:
    """Margins of the oracles and of N models on the examples of a split."""
    where = yardstick.positions[split]
    found = evaluation.margins(outputs[:, where], yardstick.targets[where])
    return yardstick.oracles[:, where], np.asarray(found)


def _retained(yardstick: Yardstick, split: str) -> np.ndarray:
    """Positions of a split; of the test examples only those of classes that are retained."""
    where = yardstick.positions[split]
    if split != "test":
        return where
    classes = np.unique(yardstick.targets[yardstick.positions["retain"]])
    return where[np.isin(yardstick.targets[where], classes)]


def _membership(yardstick: Yardstick, outputs: np.ndarray) -> Metric:
    """Accuracy of the loss attack, forget against test, on some of the models."""
    found = []
    for seed, one in enumerate(outputs[: yardstick.attacked]):
        losses = np.asarray(evaluation.losses(one, yardstick.targets))
        forget, test = (losses[yardstick.positions[split]] for split in ("forget", "test"))
        found.append(membership(forget, test, seed))
    failed = [metric for metric in found if metric.value is None]
    return failed[0] if failed else _mean([metric.value for metric in found])


def measure_own(
    own: Mapping[str, Own], outputs: np.ndarray, targets: np.ndarray, split: str
) -> dict[str, Metric]:
    """Metrics of the caller on one split: means over N models, with 95 % intervals.

    Args:
      own: by name. outputs: [N, n, ...] on the split. targets: [n, ...].
    """
    found = {}
    for title, metric in own.items():
        values = [own_value(metric, Part(one, targets)) for one in outputs]
        found[f"{split} {title}"] = _mean(values, unit=metric.unit, direction=metric.direction)
    return found


def _mean(values: Any, *, unit: str = "fraction", **fields: Any) -> Metric:
    """Mean over models with its 95 % interval, or the reason why it has none."""
    values = np.asarray(values, np.float64)
    fields |= {"n": values.size, "unit": unit}
    try:
        found = evaluation.t_interval(values)
    except ValueError as error:
        return Metric(values.mean(), no_interval=str(error), **fields)
    return Metric(values.mean(), low=found.low, high=found.high, **fields)


def _beside(metric: Metric, reference: Metric) -> Metric:
    """A metric with what retraining scores: the floor of KLoM, the oracles' value of others."""
    if metric.direction == "lower is better":
        return dataclasses.replace(metric, null=reference.value)
    if reference.value is None:
        return metric
    oracle = Oracle(reference.value, reference.low, reference.high)
    return dataclasses.replace(metric, oracle=oracle)
