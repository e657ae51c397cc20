"""Task negation: away from what fine-tuning on the forget set would do."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from mu_jax import merging
from mu_jax.data.checks import check_range
from mu_jax.loops.fit import fit
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.labels import check_labels
from mu_jax.model import Model
from mu_jax.objectives.supervised import supervised
from mu_jax.transforms._shared.transform import Unlearn, method, passes, report

PyTree = Any


@method
def task_negation(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    scale: jax.Array | float | Mapping[str, jax.Array | float] = 1.0,
    chosen: Callable[[str], bool] | PyTree = None,
    epochs: int = 10,
    steps: int | None = None,
    batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
) -> Unlearn:
    """Negate a task vector: `theta - scale (theta_over - theta)` on the chosen leaves.

    `theta_over` is the model, trained further on the forget set until it overfits. The vector from
    the one to the other stands for what is known of the set; nothing is retained on purpose.
    Statistics of normalizations stay as they were (see `mu.refresh_statistics`).

    It fails often: at scales that leave other knowledge alone it forgets nothing, and there is one
    number to choose: try several, and take the largest that keeps the accuracy on control examples
    (`mu.merging.largest_scale`). Vectors are trees: `mu.merging` subtracts, adds, trims and merges
    them, such as those of several seeds or of a corruption that is to be taken off.

    Args:
      model: the model, of any kind.
      optimizer: of the fit to the forget set, from a fresh state; 1e-5 in the benchmark MUSE.
      scale: of the negated vector, 0.5 in the examples of the program and 5 in the script of MUSE;
        default 1. One number, or one for each layer by its name, such as `{"dense_0": 2.0}`: of
        several names that fit a leaf the longest counts, and leaves that none fits stay as they
        are. May be traced.
      chosen: `name -> bool` over names such as `dense_0/kernel`, or a tree of bools: where the
        vector is applied. It is fitted on all leaves (`mu.masked` fits the chosen ones alone).
        Robust weight signatures are found in the shallow layers. Default all.
      epochs: passes over the forget set. steps: number of steps instead.
      batch_size: examples per step; default that of the set.
      training_mode: batch statistics of the batch and dropout; default inference mode.
      gradients: how to take the gradient, see `mu.fit`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles;
      `info.details` is a `FitInfo` of the fit to the forget set. The retain set is not read.

    Raises:
      ValueError: a negative scale; names in `scale` or a choice that no leaf has.

    Cost: `epochs` passes over the forget set; memory of the parameters once more.

    Differences from the reference program (`mlfoundations/task_vectors`):
      1. Every trained leaf is edited; there a leaf that the vector lacks is silently left as it is.
      2. Leaves that are not chosen keep every bit.
      3. The sum is computed in float32 at least.

    References:
      G. Ilharco, M. T. Ribeiro, M. Wortsman, S. Gururangan, L. Schmidt, H. Hajishirzi, A. Farhadi.
      Editing Models with Task Arithmetic. ICLR 2023.
      R. Cai, Z. Zhang, Z. Wang. Robust Weight Signatures: Gaining Robustness as Easy as Patching
      Weights? ICML 2023.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(3), jnp.arange(3), batch_size=3)
      >>> forget, retain = mu.split(data, [2])
      >>> unlearn = mu.task_negation(model, optax.sgd(1.0), scale=2.0)
      >>> unlearned, _ = unlearn(jax.random.key(0), mu.Variables(2.0 * jnp.eye(3)), forget, retain)
      >>> jnp.diag(unlearned.params).round(1)
      Array([ 2. ,  2. , -0.1], dtype=float32)
    """
    each: Any = scale if isinstance(scale, Mapping) else {"scale": scale}
    check_range(0, **each)
    negative = jax.tree.map(operator.neg, dict(scale) if isinstance(scale, Mapping) else scale)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        check_labels(model, variables, forget=forget)
        state, info = fit(
            model,
            supervised(model, training_mode=training_mode),
            optimizer,
            variables,
            forget,
            key=key,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            gradients=gradients,
        )
        params = model.params(variables)
        vector = merging.difference(model.params(state.variables), params)
        moved = merging.add(params, vector, scale=negative, chosen=chosen)
        return report(
            model,
            variables,
            model.with_params(variables, moved),
            (forget, retain),
            steps=state.step,
            example_passes=passes(info.examples),
            details=info,
        )

    return unlearn
