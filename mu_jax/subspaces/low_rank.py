"""Transforms that may move in a subspace of the parameters only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from mu_jax import _words as words
from mu_jax.combinators import Chain
from mu_jax.loops.update_masks import masks_in_force
from mu_jax.model import Model
from mu_jax.subspaces.lifted import Held, Subspace, attach, lifted
from mu_jax.subspaces.lifted import merge as merged
from mu_jax.subspaces.lora import LoRA
from mu_jax.transforms._shared.transform import Transform, Unlearn, report

PyTree = Any


def low_rank(
    transform: Transform,
    subspace: Subspace | None = None,
    *,
    rank: int | None = None,
    alpha: jax.Array | float | None = None,
    chosen: Callable[[str], bool] | None = None,
    merge: bool = True,
) -> Transform:
    """The transform inside a subspace of the parameters, which is merged into them at its end.

    The transform changes the coordinates of the subspace alone, from where the outputs are those of
    before, bit for bit; then the parameters at these coordinates take the place of the old ones.
    The optimizer state is that of the coordinates, the model before unlearning is the base, and
    nothing is left that could be taken off. Importances, thresholds and norms of the transform are
    those of the coordinates.

    *A patch that can be taken off is no erasure.* With `merge=False` the base stays inside the
    result, and without the patch it knows all again: such a transform says of itself that it
    suppresses (`aim`). Merge, and keep no copy of the base.

    Args:
      transform: any single transform that changes parameters by a gradient; not one that starts
        anew or reads variables from elsewhere.
      subspace: such as `mu.subspaces.SSF()`, `FLoRA(rank=4)`, `SaRA(2e-3)`; default
        `LoRA(rank, alpha, chosen)`.
      rank, alpha, chosen: of `mu.subspaces.LoRA`, where no subspace is given; 8, 16 and every
        matrix.
      merge: False leaves the coordinates apart: the result is the variables of
        `mu.subspaces.lifted(model, subspace)` (with LoRA those of `mu.adapters.adapted(model)`,
        which `mu.adapters.keep_adapters` stores without their base), and no losses are measured.

    Returns:
      A `Transform` for the variables of the model itself; `info.edit` is about its parameters (with
      `merge=False` about the coordinates) and `info.details` about the fit.

    Raises:
      TypeError: a chain: give its members one by one; a subspace beside a rank, alpha or choice.
      ValueError: a rank larger than a chosen matrix, when it is called.

    Cost: that of the transform, the gradients of whole leaves with it; optimizer state, masks and
    statistics of the coordinates, with LoRA `r (in + out)` numbers in the place of `in out`.

    References:
      E. J. Hu, Y. Shen, P. Wallis, Z. Allen-Zhu, Y. Li, S. Wang, L. Wang, W. Chen. LoRA: Low-Rank
      Adaptation of Large Language Models. ICLR 2022.

    Example:
      >>> import jax.numpy as jnp, numpy as np, optax, mu_jax as mu
      >>> model = mu.from_function(lambda p, state, x: x @ p["w"], mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(4), jnp.arange(4), batch_size=4)
      >>> unlearn = mu.low_rank(mu.gradient_ascent(model, optax.sgd(0.5), epochs=3), rank=1)
      >>> start = mu.Variables({"w": 3.0 * jnp.eye(4)})
      >>> after, _ = unlearn(jax.random.key(0), start, *mu.split(data, [2]))
      >>> int(np.linalg.matrix_rank(after.params["w"] - start.params["w"], tol=1e-5))
      1
    """
    if isinstance(transform, Chain):
        raise TypeError(
            "expected a single transform, found a chain: give its members subspaces one by one"
        )
    own: dict[str, Any] = {"rank": rank, "alpha": alpha, "chosen": chosen}
    given = {name: value for name, value in own.items() if value is not None}
    if subspace is not None and given:
        raise TypeError(
            f"expected a subspace alone, found {' and '.join(given)} beside it: give "
            f"{'it' if len(given) == 1 else 'them'} to the subspace"
        )
    inside: Subspace = LoRA(**given) if subspace is None else subspace

    def method(model: Model) -> Unlearn:
        def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
            masks = masks_in_force(model)
            own = Held(inside, tuple(masks), tuple(masks.values())) if masks else inside
            start = attach(jax.random.fold_in(key, 0), model, variables, own)
            inner = transform.method(lifted(model, own))
            found, info = inner(jax.random.fold_in(key, 1), start, forget, retain)
            if not merge:
                return found, info
            return report(
                model,
                variables,
                merged(model, found, own),
                (forget, retain),
                steps=info.steps,
                example_passes=info.example_passes,
                details=info.details,
            )

        return unlearn

    numbers = {"rank": getattr(inside, "rank", None), "alpha": getattr(inside, "alpha", None)}
    told = {"subspace": inside} if subspace is not None else numbers
    method.words = words.call("low_rank", (transform,), told)  # type: ignore[attr-defined]
    method.aim = transform.aim if merge else "suppression"  # type: ignore[attr-defined]
    watch = transform.watch if merge else False
    return dataclasses.replace(transform, method=method, watch=watch)
