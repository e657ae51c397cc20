"""What a task asks for, and the rules that follow: losses, accuracy, collapse, the constant."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import evaluation, losses
from mu_jax.evaluation import Collapse

Kind = Literal["classification", "multilabel", "regression", "other"]
KINDS = get_args(Kind)


class Part(NamedTuple):
    """Outputs [n, ...] of one model on one set of examples, and the targets [n, ...]."""

    outputs: Any
    targets: Any


def kind_of(outputs: Any, targets: Any) -> Kind:
    """What targets and outputs of one model look like.

    Classes: integers [n] beside logits [n, K]. Labels of yes and no: integers or bools, all of them
    0 or 1, of the shape of the outputs, but for a last axis of size 1. Regression: other numbers of
    that shape, and real ones beside outputs with a further axis, of quantiles. All else, such as
    trees or a class for each position, is "other".
    """
    if not all(hasattr(x, "shape") and hasattr(x, "dtype") for x in (outputs, targets)):
        return "other"
    whole = not np.issubdtype(targets.dtype, np.floating)
    if whole and targets.ndim == 1 and outputs.ndim == 2 and outputs.shape[1] > 1:
        return "classification"
    if outputs.shape in (targets.shape, (*targets.shape, 1)):
        yes_or_no = whole and targets.ndim <= 2 and np.isin(targets, (0, 1)).all()
        return "multilabel" if yes_or_no else "regression"
    return "regression" if outputs.shape[:-1] == targets.shape and not whole else "other"


def point(outputs: Any, targets: Any) -> Any:
    """One prediction for each target: the middle one of several quantiles, or the only output."""
    return outputs[..., outputs.shape[-1] // 2] if outputs.ndim > targets.ndim else outputs


def predictions(kind: Kind, outputs: np.ndarray) -> np.ndarray:
    """What a model says: the class, yes or no, or the number itself."""
    if kind == "classification":
        return outputs.argmax(-1)
    return outputs > 0 if kind == "multilabel" else outputs


def accuracy(outputs: np.ndarray, targets: np.ndarray) -> float:
    """Accuracy of one model on classes [n]; on labels of yes and no [n, K] their mean accuracy.

    NaN where an output is NaN: it would count as a "no", and be right where that is the label.
    """
    if targets.ndim > 1:
        return float(np.where(np.isnan(outputs), np.nan, (outputs > 0) == targets).mean())
    return float(evaluation.accuracy(outputs, targets))


def example_losses(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Cross-entropy of every example; of several labels of yes and no their mean, `f32[n]`."""
    find = losses.binary_cross_entropy if targets.ndim > 1 else evaluation.losses
    return np.asarray(find(jnp.asarray(outputs), jnp.asarray(targets)))


def squared_errors(outputs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Squared error of every example, a mean over its targets, `f32[n]`."""
    return np.asarray(losses.squared_error(jnp.asarray(outputs), jnp.asarray(targets)))


def collapse(outputs: np.ndarray, targets: np.ndarray) -> Collapse:
    """Whether a classifier has collapsed; of labels of yes and no each combination is a class."""
    if targets.ndim == 1:
        return evaluation.collapsed(outputs, targets)
    if not np.isfinite(outputs).all():
        return Collapse(True, "non-finite outputs on retained examples")
    powers = 2 ** np.arange(targets.shape[1])
    return evaluation.collapsed((outputs > 0) @ powers, targets @ powers)


def collapse_of_regression(outputs: np.ndarray) -> Collapse:
    """Whether a regression says the same of all retained examples, or no number."""
    constant = not np.isfinite(outputs).all() or np.ptp(outputs, axis=0).max() == 0
    reason = "constant or non-finite predictions on the retain set" if constant else ""
    return Collapse(bool(constant), reason)


def collapse_of_losses(values: np.ndarray) -> Collapse:
    """All that can be said where nothing is known of the outputs: whether a loss is no number."""
    broken = int((~np.isfinite(values)).sum())
    return Collapse(bool(broken), f"non-finite losses on {broken} examples" if broken else "")


def constant_answer(kind: Kind, targets: np.ndarray, *, classes: int | None = None) -> np.ndarray:
    """The answer of a predictor that knows the retained labels and no input, `f32[...]`.

    Classes: the logits `log((n_k + 1) / (n + K))`, where n_k of the n retained examples are of
    class k of K; the largest is the majority class, and by the one added the loss of a class
    without a retained example is finite. Labels of yes and no: `log((n_yes + 1) / (n_no + 1))`.
    Regression: the median of the retained targets, whose absolute error no constant is below.

    Args:
        kind: not "other", which has no constant.
        targets: of the retain set. classes: K, where there are classes.
    """
    if kind == "regression":
        answer = np.asarray(evaluation.constant_predictions(targets, targets[:1]))[0]
    elif kind == "multilabel":
        answer = np.log((targets.sum(axis=0) + 1) / ((1 - targets).sum(axis=0) + 1))
    elif kind == "classification" and classes is not None:
        counts = np.bincount(targets, minlength=classes)
        answer = np.log((counts + 1) / (targets.size + classes))
    else:
        raise ValueError(
            f"expected classes with their number, labels of yes and no or numbers, found {kind!r} "
            f"with {classes} classes: a constant predictor is defined for these alone"
        )
    return np.asarray(answer, np.float32)


def repeated(answer: np.ndarray, num_examples: int) -> np.ndarray:
    """The same answer to every example, `f32[n, ...]`."""
    return np.broadcast_to(answer, (num_examples, *answer.shape))


def to_host(tree: Any) -> Any:
    """The same tree with NumPy arrays."""
    return jax.tree.map(np.asarray, tree)
