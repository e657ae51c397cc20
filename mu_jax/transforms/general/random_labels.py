"""Random labels: fit other labels for the forget set, and the true ones for the retain set."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import jax
import optax

from mu_jax.data.forget_retain import marked_mix
from mu_jax.loops.fit import FitInfo, fit
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.labels import check_labels
from mu_jax.model import Model
from mu_jax.objectives.label_choices import chosen_labels
from mu_jax.objectives.relabel import LabelRule, relabeled, uniform_label, uniform_other_label
from mu_jax.transforms._shared.relabeling import relabel_in_turn
from mu_jax.transforms._shared.transform import Unlearn, method, report_fit, report_phases

PyTree = Any
Protocol = Literal["union", "redrawn_union", "alternating"]


class RandomLabelsInfo(NamedTuple):
    """What random labels did in passes that alternate; of a union there is one `FitInfo`.

    Attributes:
      forget: the fit of the forget set to other labels. retain: that of the retain set.
    """

    forget: FitInfo
    retain: FitInfo

    def messages(self) -> list[str]:
        """Sentences on phases that diverged."""
        return self.forget.messages() + self.retain.messages()


@method
def random_labels(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    protocol: Protocol = "union",
    label_rule: LabelRule | None = None,
    epochs: int = 3,
    batch_size: int | None = None,
    forget_batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
) -> Unlearn:
    """Random relabeling, also called amnesiac unlearning: train on with wrong labels to forget.

    `min (sum_forget w_i l(f_i, y'_i) + sum_retain w_i l(f_i, y_i)) / sum_i w_i`, where `y'_i` are
    labels by a rule and l is the model's loss. Two published protocols, and one between them:

    | protocol | labels `y'_i` | passes |
    |---|---|---|
    | `union` | drawn once, uniform over the other classes | both sets shuffled together |
    | `alternating` | drawn in every epoch, uniform over all classes | first the forget set |
    | `redrawn_union` | as in `alternating` | as in `union` |

    Published with Adam at 1e-4, 3 epochs and batches of 128 (`union`); with SGD at 0.01 to 0.013,
    momentum 0.9, decay 5e-4 and 10 epochs (`alternating`, and `redrawn_union` for 100 classes).
    One optimizer state runs through all passes. With a rule that looks at the model it is class
    unlearning by poisoning: the examples of a class get the labels of a class that is close.

    | `label_rule=mu.objectives...` | label of an example |
    |---|---|
    | `uniform_label` | any class, the true one included |
    | `uniform_other_label` | any other class |
    | `runner_up_label()` | the best logit of the original model without the true class |
    | `nearest_class_label(layer)` | the other class of nearest mean embedding, if retained |
    | `fixed_label(k)` | class k |

    It fails where the labels to forget are hardly learned, at a small rate; and where they are
    learned by heart, so that the examples are told from others by their wrong answers: the target
    is the retrained model, which still classifies most of a random forget set rightly.

    Args:
      model: a classifier with outputs f32[B, C] and integer labels.
      optimizer: from a fresh state; see above.
      protocol: see the table.
      label_rule: `(key, label, classes) -> label` for one example, or one of the rules above;
        default that of the protocol as published. Random rules follow the ids of the examples.
      epochs: passes over both sets, 3 as published for `union`.
      batch_size: examples per step; default that of the retain set. forget_batch_size: that of the
        passes over the forget set in `alternating`; default that of the forget set.
      training_mode: move batch statistics and use dropout, as published; default inference mode.
      gradients: how to take the gradient of a fit, see `mu.fit`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key draws and shuffles;
      `info.details` is a `FitInfo`, of `alternating` a `RandomLabelsInfo`. Two streams are read
      batch by batch; of other iterables a union reads both sets into memory.

    Raises:
      ValueError: an unknown protocol; labels that are not integers, outputs that are no logits of
        at least two classes; what the rule refuses.

    Cost: `epochs` passes over both sets; memory of one gradient and one optimizer state.
    `runner_up_label` takes a forward pass over the forget set more, and `nearest_class_label` one
    over both sets.

    Differences from the reference programs (`if-loops/selective-synaptic-dampening`, which has
    `union`, and `OPTML-Group/Unlearn-Saliency`):
      1. Inference mode by default.
      2. For a forgotten class the first program draws from all other classes of the data, here from
         all other classes of the model's outputs.
      3. The learning rate follows the steps (an optax schedule); the warm-up of the second program
         fails.
      4. Subtracting the logged updates of the original training, which is called amnesiac as well,
         is another method.

    References:
      L. Graves, V. Nagisetty, V. Ganesh. Amnesiac Machine Learning. AAAI 2021.
      A. Golatkar, A. Achille, S. Soatto. Eternal Sunshine of the Spotless Net: Selective Forgetting
      in Deep Networks. CVPR 2020.

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(3), jnp.arange(3), batch_size=3)
      >>> forget, retain = mu.split(data, [2])
      >>> unlearn = mu.random_labels(
      ...     model, optax.sgd(1.0), epochs=99, label_rule=mu.objectives.fixed_label(0))
      >>> start = mu.Variables(4 * jnp.eye(3))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> model.apply(unlearned, jnp.eye(3)).argmax(1).tolist()
      [0, 1, 0]
    """
    if protocol not in get_args(Protocol):
        raise ValueError(
            f"expected a protocol among {', '.join(get_args(Protocol))}, found {protocol!r}: "
            "name one of these"
        )
    rule = label_rule or (uniform_other_label if protocol == "union" else uniform_label)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        check_labels(model, variables, forget=forget, retain=retain)
        if protocol == "alternating":
            found = relabel_in_turn(
                model,
                optimizer,
                variables,
                (forget, retain),
                rule,
                key=key,
                epochs=epochs,
                batch_sizes=(forget_batch_size, batch_size),
                training_mode=training_mode,
                gradients=gradients,
            )
            details = RandomLabelsInfo(*found[1].fits)
            return report_phases(model, variables, found, (forget, retain), details)
        others, draw = chosen_labels(model, variables, forget, retain, rule)
        once = {"label_key": jax.random.fold_in(key, 0)} if protocol == "union" else None
        result = fit(
            model,
            relabeled(model, draw, training_mode=training_mode),
            optimizer,
            variables,
            marked_mix(others, retain),
            key=jax.random.fold_in(key, 1),
            epochs=epochs,
            batch_size=batch_size,
            frozen=once,
            gradients=gradients,
        )
        return report_fit(model, variables, result, (forget, retain))

    return unlearn
