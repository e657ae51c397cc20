"""Rules that look labels up in the original model: the runner-up, and the nearest class."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax._at_once import as_array, elementwise
from mu_jax._tracing import cached
from mu_jax.data.batches import Batches, in_memory, is_concrete
from mu_jax.data.forget_retain import Data, with_targets
from mu_jax.data.streams import Stream
from mu_jax.loops.labels import weights, weights_of
from mu_jax.loops.predict import all_targets, map_rows, outputs, unweighted
from mu_jax.losses import wide
from mu_jax.mesh.shards import reduction
from mu_jax.model import Model
from mu_jax.objectives.relabel import (
    Draw,
    LabelRule,
    check_integers,
    classes_among,
    kept_label,
)

PyTree = Any


@dataclasses.dataclass(frozen=True)
class runner_up_label:
    """The class that the original model holds most likely without the true one.

    `y'_i = argmax_{k != y_i} z_ik` with the logits z of the original model in inference mode.

    Cost: one forward pass over the examples to forget.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.array([[9.0, 1.0, 3.0]]), jnp.array([0]), batch_size=1)
      >>> runner_up_label().choose(model, mu.Variables(jnp.eye(3)), data, data).tolist()
      [2]
    """

    def choose(self, model: Model, variables: PyTree, forget: Data, retain: Data) -> jax.Array:
        """The new labels, see `Choice`."""
        labels, logits = wide(all_targets(forget)), outputs(model, variables, forget)
        classes_among(logits, labels)
        return _best_of_others(labels, logits)


@elementwise
def _best_of_others(xp: Any, labels: jax.Array, logits: jax.Array) -> jax.Array:
    classes = xp.arange(logits.shape[-1], dtype=labels.dtype)
    return xp.argmax(xp.where(labels[..., None] == classes, -jnp.inf, logits), -1).astype(
        labels.dtype
    )


@dataclasses.dataclass(frozen=True)
class nearest_class_label:
    """The class whose retained examples have the nearest mean embedding.

    `y'_i = argmin_{k != y_i} ||h_i - mean_{j in retain, y_j = k} h_j||`, where h is an activation
    of the original model in inference mode. Classes without a retained example are left out.

    Args:
      layer: name of the activation, as `model.observe` gives it; default: the logits themselves.

    Raises:
      ValueError: an activation that the model does not name; examples of a class beside which none
        is retained. (Under `jit` their label is -1, with which the loss is NaN.)

    Cost: one forward pass over both sets; memory of one embedding for each example.

    References:
      W. Chang, T. Zhu, H. Xu, W. Liu, W. Zhou. Class Machine Unlearning for Complex Data via
      Concepts Inference and Data Poisoning. arXiv:2405.15662, 2024. (The targeted labels alone,
      without its bottleneck of concepts.)
    """

    layer: str | None = None

    def choose(self, model: Model, variables: PyTree, forget: Data, retain: Data) -> jax.Array:
        """The new labels, see `Choice`."""
        rows = _rows(model, self.layer)
        theirs, others = (map_rows(rows, unweighted(x), variables) for x in (forget, retain))
        labels, known = wide(all_targets(forget)), wide(all_targets(retain))
        check_integers(known)
        classes = np.arange(classes_among(theirs["logits"], labels))
        weight = weights(model, known, weights_of(retain))
        found = _nearest(labels, theirs["hidden"], known, others["hidden"], weight, classes)
        if is_concrete(found) and (np.asarray(found) < 0).any():
            alone = np.asarray(labels)[np.asarray(found) < 0][0]
            raise ValueError(
                f"expected retained examples of a class other than {alone} to take its place, "
                "found none: retain another class, or choose another rule of labels"
            )
        return found


@reduction
def _nearest(
    xp: Any,
    labels: jax.Array,
    hidden: jax.Array,
    known: jax.Array,
    others: jax.Array,
    weight: jax.Array,
    classes: jax.Array,
) -> jax.Array:
    """The nearest class mean of each row of `hidden` that is not its own; -1 without any."""
    own = xp.where(known[:, None] == classes, weight[:, None], 0).astype(others.dtype)
    others = xp.where(weight[:, None] > 0, others, 0)  # of padding, which may be NaN
    center = own.sum(1) @ others / own.sum()  # what lies close together keeps its digits
    total = own.sum(0)
    means = own.T @ (others - center) / xp.where(total > 0, total, 1)[:, None]
    apart = xp.square(means).sum(1) - 2 * (hidden - center) @ means.T  # and ||h_i||^2, for all k
    allowed = (total > 0) & (labels[:, None] != classes)
    found = xp.argmin(xp.where(allowed, apart, jnp.inf), 1)
    return xp.where(allowed.any(1), found, -1).astype(labels.dtype)


@cached(maxsize=64)
def _rows(model: Model, layer: str | None) -> Callable:
    """Logits and embedding of the rows of a batch, the latter f[B, D]."""

    def rows(batch, variables):
        if layer is None:
            logits = model.apply(variables, batch.inputs)
            return {"logits": logits, "hidden": logits.reshape(len(logits), -1)}
        named: dict = {}
        if model.observe is not None:
            logits, named = model.observe(*model.split(variables), batch.inputs)
        if layer not in named:
            raise ValueError(
                f"expected the name of an activation among {', '.join(named) or 'none'}, found "
                f"{layer!r}: name one that the model gives in `observe`"
            )
        return {"logits": logits, "hidden": named[layer].reshape(len(logits), -1)}

    return rows


def chosen_labels(
    model: Model, variables: PyTree, forget: Any, retain: Any, rule: LabelRule
) -> tuple[Any, Draw]:
    """The set to forget and what draws its labels: a rule that looks at the model is done here.

    Args:
      model, variables: the original model.
      forget, retain: the two sets; iterables of batches are read into memory where the rule looks
        at the model.
      rule: of the labels.

    Returns:
      `(forget, draw)`: the set as it is and the rule itself; or, of a rule that looks at the model,
      the set with its new labels, and a draw that keeps them. Labels that the loss ignores stay.
    """
    if not hasattr(rule, "choose"):
        return forget, rule
    forget, retain = (
        x if isinstance(x, Batches | Stream) else in_memory(x) for x in (forget, retain)
    )
    old = all_targets(forget)
    check_integers(old)
    new = rule.choose(model, variables, forget, retain)
    read = weights(model, old, as_array(np.ones(forget.num_examples, np.float32)))
    return with_targets(forget, _where_read(wide(old), new, read)), kept_label


@elementwise
def _where_read(xp: Any, old: jax.Array, new: jax.Array, read: jax.Array) -> jax.Array:
    return xp.where(read.reshape(-1, *(1,) * (old.ndim - 1)) > 0, new, old)
