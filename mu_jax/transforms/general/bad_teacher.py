"""Bad Teacher: an incompetent teacher for the forget set, the original model for the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax.data.batches import Batch
from mu_jax.data.checks import check_range
from mu_jax.data.forget_retain import Data, marked_mix, readable
from mu_jax.data.rows import permutation
from mu_jax.loops.fit import fit
from mu_jax.loops.gradients import Gradients, Term, Terms
from mu_jax.losses import total_weight, weighted_sum
from mu_jax.mesh.shards import created_like
from mu_jax.model import Model
from mu_jax.objectives.modes import InEitherMode
from mu_jax.transforms._shared.transform import Unlearn, method, number, report_fit
from mu_jax.transforms.general.scrub import divergence

PyTree = Any
_COLDEST = float(np.finfo(np.float32).tiny)


@method
def bad_teacher(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    init: Callable[[jax.Array], PyTree],
    retain_share: float = 0.3,
    temperature: jax.Array | float = 1.0,
    scale: jax.Array | float = 1.0,
    epochs: int = 1,
    batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
) -> Unlearn:
    """Learn from an incompetent teacher what to say of the forget set, and from the old model else.

    With outputs f of the student, b of a freshly initialized network and g of the given model, the
    two teachers frozen and in inference mode, and u = 1 on rows to forget,

    `min (scale / W) sum_i w_i KL(softmax(t_i / T) || softmax(f_i / T))`, `t_i = u_i b_i + (1 - u_i)
    g_i`, `W = sum_i w_i`,

    over the forget set and a random share of the retain set, shuffled together. Labels are not
    read. The student starts from the given model. (The program calls the method blindspot, which is
    another one, `mu.blindspot`.)

    It fails to hide: the answers on the forget set become nearly uniform, so that a threshold on
    the entropy tells the forgotten examples from others (the Streisand effect), though attacks on
    confidence find no members. With SGD the rate has to fit `scale`; Adam hardly sees it.

    Args:
      model: a classifier with outputs f32[B, C].
      optimizer: from a fresh state; `optax.adam(1e-4)` as published.
      init: `key -> variables`, fresh ones in the form of the model's own variables: of the
        incompetent teacher.
      retain_share: share of the retain set that is read, 0.3 as published; at least one example.
      temperature: T, 1 as published; may be traced. No factor T^2.
      scale: factor of the objective; may be traced. `1 / C` is the published program, whose mean is
        over the batch and the C classes.
      epochs: passes over the forget set and the share, 1 as published.
      batch_size: examples per step, 256 as published; default that of the retain set.
      training_mode: move batch statistics and use dropout for the student, as published; default
        inference mode.
      gradients: how to take the gradient, see `mu.fit`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key initializes, chooses
      and shuffles; `info.details` is a `FitInfo`. Two streams are read batch by batch; of other
      iterables both sets are read into memory.

    Raises:
      ValueError: a share outside [0, 1]; outputs that are not logits of at least two classes.

    Cost: `epochs` passes over the forget set and the share, each with a forward pass more for
    either teacher; memory of two more sets of variables.

    Differences from the reference program (`vikram2000b/bad-teaching-unlearning`):
      1. A mean over the batch of the sum over classes; `scale=1 / C` gives the program's mean over
         both, an artifact.
      2. Inference mode by default.
      3. A class that a teacher excludes (a logit of -inf) counts 0, there NaN.

    References:
      V. S. Chundawat, A. K. Tarun, M. Mandal, M. Kankanhalli. Can Bad Teaching Induce Forgetting?
      Unlearning in Deep Networks Using an Incompetent Teacher. AAAI 2023.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(3), jnp.arange(3), batch_size=3)
      >>> forget, retain = mu.split(data, [2])
      >>> unlearn = mu.bad_teacher(model, optax.sgd(1.0), retain_share=1.0, epochs=200,
      ...     init=lambda key: mu.Variables(jnp.eye(3)[::-1]))
      >>> unlearned, _ = unlearn(jax.random.key(0), mu.Variables(9 * jnp.eye(3)), forget, retain)
      >>> model.apply(unlearned, jnp.eye(3)).argmax(1).tolist()  # the last as the teacher says
      [0, 1, 0]
    """
    check_range(0, 1, retain_share=retain_share)
    check_range(_COLDEST, temperature=temperature)
    check_range(scale=scale)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        keys = [jax.random.fold_in(key, part) for part in range(3)]
        forget_set, retain_set = readable(forget, retain)
        result = fit(
            model,
            _Taught(model, training_mode),
            optimizer,
            variables,
            marked_mix(forget_set, _some(keys[1], retain_set, retain_share)),
            key=keys[2],
            epochs=epochs,
            batch_size=batch_size,
            gradients=gradients,
            frozen={
                "bad": model.refresh(variables, created_like(variables, init, keys[0])),
                "good": variables,
                "temperature": number(temperature, float),
                "scale": number(scale, float),
            },
        )
        return report_fit(model, variables, result, (forget, retain))

    return unlearn


def _some(key: jax.Array, examples: Data, share: float) -> Data:
    """A random share of the examples, at least one, in a random order."""
    rows = permutation(key, examples.num_examples)
    return examples.take(rows[: max(1, int(share * examples.num_examples))])


@dataclasses.dataclass(frozen=True)
class _Taught(InEitherMode):
    """`scale mean KL` of the student from the teacher of each row."""

    model: Model
    training_mode: bool

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        bad, good = (self.model.apply(frozen[name], batch.inputs) for name in ("bad", "good"))
        found, variables = self.model.forward(
            variables, batch.inputs, training=self.training_mode, key=key
        )
        forget, temperature = batch.targets.forget, frozen["temperature"]

        def of_its_teacher(bad, good):
            return jnp.where(forget.reshape(-1, *(1,) * (bad.ndim - 1)), bad, good)

        apart = divergence(found, jax.tree.map(of_its_teacher, bad, good), temperature)
        total, scale = total_weight(batch.weight), frozen["scale"] / temperature**2
        return {"distance": Term(weighted_sum(apart, batch.weight), total, scale)}, variables
