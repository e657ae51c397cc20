"""SalUn: random labels for the forget set, and only the weights that it is salient for."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from mu_jax import edits
from mu_jax.data.checks import check_range
from mu_jax.entries import saliency_mask
from mu_jax.loops.fit import FitInfo
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.labels import check_labels
from mu_jax.mesh.shards import reduction
from mu_jax.model import Model
from mu_jax.objectives.relabel import LabelRule, uniform_label
from mu_jax.statistics import collect, mean_gradient
from mu_jax.transforms._shared.relabeling import relabel_in_turn
from mu_jax.transforms._shared.transform import Unlearn, method, report_phases

PyTree = Any


class SalUnInfo(NamedTuple):
    """What SalUn did.

    Attributes:
      forget: the fit of the forget set to random labels. retain: that of the retain set.
      selected: share of the weights that may change, f32[].
    """

    forget: FitInfo
    retain: FitInfo
    selected: jax.Array

    def messages(self) -> list[str]:
        """Sentences on phases that diverged."""
        return self.forget.messages() + self.retain.messages()


@method
def salun(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    fraction: jax.Array | float = 0.5,
    epochs: int = 10,
    label_rule: LabelRule = uniform_label,
    batch_size: int | None = None,
    forget_batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
) -> Unlearn:
    """Saliency unlearning: random relabeling that may only move the salient weights.

    1. `g = mean_i grad l_i` over the forget set; the mask is true for the given fraction of all
       weights, those with the largest `|g_j|`.
    2. In every epoch, a pass over the forget set with random labels, then a pass over the retain
       set with its own. One optimizer state runs through all passes, and masked-out weights keep
       every bit.

    It fails as random labels do (`mu.random_labels`), and where the mask leaves out what the forget
    set is known by: at a small fraction little can change.

    SalUn-soft, which has no mask and pulls weights back to the start, is `mu.random_labels` with
    `mu.loops.pull_back` as the last link of its optimizer.

    Args:
      model: a classifier with outputs f32[B, C] and integer labels.
      optimizer: from a fresh state; published for CIFAR-10: SGD at 0.013 with momentum 0.9 and
        weight decay 5e-4, the rate tuned for each setting.
      fraction: share of the weights that may change, 0.5 as published; may be traced.
      epochs: number of passes over each set, 10 as published.
      label_rule: `(key, label, classes) -> label` for one example, called anew at every visit, or a
        rule that looks at the original model once, see `mu.random_labels`. Default: uniform over
        all classes, the true one included, as published.
      batch_size, forget_batch_size: examples per step; default those of the two sets.
      training_mode: move batch statistics and use dropout, as published; default inference mode.
      gradients: how to take the gradient of a fit, see `mu.fit`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key draws and shuffles;
      `info.details` is a `SalUnInfo`.

    Raises:
      ValueError: a fraction outside [0, 1]; labels that are not integers, outputs that are no
        logits.

    Cost: one forward and backward pass over the forget set, one sort of as many numbers as there
    are weights, and `epochs` passes over both sets; memory of a mask, one gradient and one
    optimizer state.

    Differences from the reference program (`OPTML-Group/Unlearn-Saliency`):
      1. Inference mode by default; the gradient of the mask in inference mode there, too.
      2. The gradient of the mask is the mean over the examples; there the sum over batches of the
         mean of each, in which the examples of a smaller last batch count more.
      3. Weights of equal `|g_j|` at the edge of the fraction are chosen in the order of the leaves;
         there by an unstable sort.
      4. Masked-out weights keep every bit, as in the program since its repair; weight decay and
         momentum moved them in the published tables.

    References:
      C. Fan, J. Liu, Y. Zhang, E. Wong, D. Wei, S. Liu. SalUn: Empowering Machine Unlearning via
      Gradient-based Weight Saliency in Both Image Classification and Generation. ICLR 2024.

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(3), jnp.arange(3), batch_size=2)
      >>> forget, retain = mu.split(data, [2])
      >>> unlearn = mu.salun(model, optax.sgd(0.5), fraction=1 / 3)
      >>> start = mu.Variables(4 * jnp.eye(3))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> (unlearned.params != start.params).any(1).tolist()  # one row of weights for each input
      [False, False, True]
    """

    check_range(0, 1, fraction=fraction)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        check_labels(model, variables, forget=forget, retain=retain)
        saliency = collect(mean_gradient(model), variables, forget)
        mask = saliency_mask(saliency.value, fraction)
        found = relabel_in_turn(
            model,
            optimizer,
            variables,
            (forget, retain),
            label_rule,
            key=key,
            epochs=epochs,
            batch_sizes=(forget_batch_size, batch_size),
            training_mode=training_mode,
            update_mask=mask,
            gradients=gradients,
        )
        relabeling, own = found[1].fits
        details = SalUnInfo(relabeling, own, _share(mask))
        return report_phases(model, variables, found, (forget, retain), details, saliency.weight)

    return unlearn


@reduction
def _share(xp: Any, mask: PyTree) -> jax.Array:
    return edits.mean(mask, xp=xp)
