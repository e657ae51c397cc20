"""The constant predictor, which stands in every table: what is no better has learned nothing."""

from __future__ import annotations

import numpy as np

import mu_jax as mu
from experiments.lib.tasks import Task
from mu_jax import evaluation

CONSTANT = "constant"


def constant_outputs(task: Task, retain: mu.Batches, num_examples: int) -> np.ndarray:
    """The answer to every example of what knows the retained labels and no input, `f32[n, ...]`.

    Classes: the logits `log((n_k + 1) / (n + K))`, where n_k of the n retained examples are of
    class k of K; the largest is the majority class, and by the one added the loss of a class
    without a retained example is finite. Labels of yes and no: `log((n_yes + 1) / (n_no + 1))`.
    Regression: the median of the retained targets, whose absolute error no constant is below.
    """
    targets = np.asarray(retain.targets)
    if task.info.task == "regression":
        answer = np.asarray(evaluation.constant_predictions(targets, targets[:1]))[0]
    elif task.info.task == "multilabel":
        answer = np.log((targets.sum(axis=0) + 1) / ((1 - targets).sum(axis=0) + 1))
    else:
        classes = task.info.num_classes
        counts = np.bincount(targets, minlength=classes)
        answer = np.log((counts + 1) / (targets.size + classes))
    return np.broadcast_to(answer.astype(np.float32), (num_examples, *answer.shape))
