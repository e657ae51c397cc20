"""O3 (suppression, not removal): one low-rank adapter a request, orthogonal to earlier ones."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mu_jax.adapters.kept import KeptAdapters
from mu_jax.adapters.lifting import Adapted, check_adapted
from mu_jax.adapters.low_rank import Adapters, check_same_kernels, num_layers, orthogonality
from mu_jax.data.batches import Batch
from mu_jax.data.checks import check_range
from mu_jax.data.tokens import TokenTargets
from mu_jax.loops.fit import fit
from mu_jax.loops.gradients import Gradients, Term, Terms
from mu_jax.loops.labels import check_labels, counted
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.model import Model
from mu_jax.objectives.modes import InEitherMode
from mu_jax.transforms._shared.pairing import numbers_of
from mu_jax.transforms._shared.transform import Unlearn, method, report_fit, suppression

PyTree = Any


@method
@suppression
def o3(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    earlier: Sequence[Adapters | Adapted | KeptAdapters] = (),
    penalty: jax.Array | float = 0.1,
    epochs: int = 15,
    steps: int | None = None,
    batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
) -> Unlearn:
    """Fit the adapters to wrong labels of the forget set, orthogonal to those of earlier requests.

    *Suppression, not removal*: the base keeps all that it knows. The adapters are put on by a gate
    where an input looks like the forget set (`mu.suppression`), and whoever takes them off, or has
    the base, has everything back. It fails where the gate does: an input to forget that does not
    look like the forget set is answered by the base.

    `mean_i l(f(x_i), y'_i) + lambda / L sum_earlier sum_kernels ||A_earlier A^T||_F^2`, with wrong
    labels y', drawn once for every example, and L layers (`mu.adapters.num_layers`). A request
    continues from the adapters of the last one: give its result as variables, and every earlier
    result as `earlier`.

    Args:
      model: an adapted model, `mu.adapters.adapted(model)`, of classes or of tokens. (Other
        methods, such as NPO, take it as well.)
      optimizer: any optax optimizer, from a fresh state; 3e-4 as published, batches of 128.
      earlier: adapters of earlier requests, kept or with their base, of any rank and with the
        kernels of this one.
      penalty: lambda, may be traced; 0 lets requests overwrite one another.
      epochs: passes over the forget set. steps: number of steps instead.
      batch_size: examples per step; default that of the set.
      training_mode: dropout of the model; default inference mode. Adapters have none.
      gradients: how to take the gradient, see `mu.fit`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)` for `Adapted` variables; the
      key shuffles and draws labels; `info.details` is a `FitInfo`. The retain set is not read.

    Raises:
      TypeError: variables without adapters; targets that are no whole numbers.
      ValueError: earlier adapters of other kernels.

    Cost: `epochs` passes over the forget set; memory of one gradient and one optimizer state of the
    adapters alone.

    Differences from the reference program (`GCYZSL/O3-LLM-UNLEARNING`):
      1. Any model and any kernels; there the linear layers of one decoder.
      2. Wrong labels are uniform over the other classes or tokens, at every scored position; there
         answers are replaced by other ones when the data are prepared.
      3. No dropout in front of the adapters, where it is 0.05.

    References:
      C. Gao, L. Wang, K. Ding, C. Weng, X. Wang, Q. Zhu. On Large Language Model Continual
      Unlearning. ICLR 2025.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> base = mu.from_function(lambda p, state, x: x @ p["w"], mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(3), jnp.arange(3), batch_size=3)
      >>> forget, retain = mu.split(data, [2])
      >>> start = mu.adapters.attach(
      ...     jax.random.key(0), base, mu.Variables({"w": 5.0 * jnp.eye(3)}), rank=1)
      >>> model = mu.adapters.adapted(base)
      >>> unlearned, _ = mu.o3(model, optax.sgd(0.1))(jax.random.key(1), start, forget, retain)
      >>> bool(model.apply(unlearned, jnp.eye(3))[2].argmax() == 2)
      False
      >>> bool((unlearned.base.params["w"] == start.base.params["w"]).all())
      True
    """
    check_range(0, penalty=penalty)
    others: tuple[Any, ...] = tuple(getattr(each, "adapters", each) for each in earlier)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        check_adapted(variables)
        for adapters in others:
            check_same_kernels(variables.adapters, adapters)
        check_labels(model, variables, forget=forget)
        frozen = {
            "earlier": others,
            "labels": jax.random.key_data(jax.random.fold_in(key, 1)),
            "numbers": numbers_of(penalty=penalty),
        }
        result = fit(
            model,
            _WrongLabels(model, training_mode),
            optimizer,
            variables,
            forget,
            key=jax.random.fold_in(key, 0),
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            gradients=gradients,
            frozen=frozen,
        )
        return report_fit(model, variables, result, (forget, retain))

    return unlearn


@dataclasses.dataclass(frozen=True)
class _WrongLabels(InEitherMode):
    """The loss with a wrong label for every example, and the penalty."""

    model: Model
    training_mode: bool

    @property
    def bounded(self) -> bool:
        return True

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        batch, adapters = counted(self.model, batch), variables.adapters
        outputs, variables = self.model.forward(
            variables, batch.inputs, training=self.training_mode, key=key
        )
        own = jax.random.wrap_key_data(frozen["labels"], impl=jax.random.key_impl(key))
        targets = wrong_targets(own, batch, outputs.shape[-1])
        losses = self.model.per_example(outputs, batch._replace(targets=targets))
        loss = Term(weighted_sum(losses, batch.weight), total_weight(batch.weight))
        terms = {"loss": loss}
        if frozen["earlier"]:
            apart = [orthogonality(other, adapters) for other in frozen["earlier"]]
            one = jnp.ones_like(apart[0])
            value = functools.reduce(jnp.add, apart) / num_layers(adapters)
            terms["orthogonality"] = Term(value, one, frozen["numbers"]["penalty"])
        return terms, variables


def wrong_targets(key: jax.Array, batch: Batch, classes: int) -> PyTree:
    """Labels or scored tokens of a batch, replaced by others, uniformly over the other classes.

    The draw follows the id of the example.

    Args:
      key: a PRNG key. batch: of integer labels [B, ...] or of `TokenTargets`.
      classes: their number.

    Raises:
      TypeError: targets that are no whole numbers.
    """
    targets = batch.targets
    labels = targets.tokens if isinstance(targets, TokenTargets) else targets
    if not jnp.issubdtype(getattr(labels, "dtype", float), jnp.integer):
        raise TypeError(
            "expected labels or tokens of whole numbers to draw wrong ones, found "
            f"{jax.tree.map(jnp.shape, labels)} of another type: give classes or TokenTargets"
        )

    def draw(index: jax.Array, label: jax.Array) -> jax.Array:
        own = jax.random.fold_in(key, index)
        return (label + jax.random.randint(own, label.shape, 1, classes, label.dtype)) % classes

    wrong = jax.vmap(draw)(batch.index, labels)
    return targets._replace(tokens=wrong) if isinstance(targets, TokenTargets) else wrong
