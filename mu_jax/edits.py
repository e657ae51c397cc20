"""Edits: changes of the parameters as optax updates trees, and what they did."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mu_jax._at_once import elementwise
from mu_jax.data.checks import check_range
from mu_jax.mesh.shards import reduction, summary

PyTree = Any
_LARGEST = 3e38  # of float32: infinity times an importance of 0 is NaN


def dampen(
    params: PyTree,
    forget_importance: PyTree,
    full_importance: PyTree,
    *,
    alpha: jax.Array | float,
    dampening: jax.Array | float = 1.0,
    exponent: float = 1.0,
    upper: float = 1.0,
) -> optax.Updates:
    """Selective synaptic dampening of the parameters that matter most for the forget set.

    `selected_j: F_f,j > alpha F_j` (strict); `beta_j = min((dampening F_j / F_f,j)^exponent,
    upper)`; the update is `(beta_j - 1) theta_j` where selected, 0 elsewhere. `F_j = 0 < F_f,j`
    is selected with `beta_j = 0`; `F_f,j = 0` is never selected.

    Args:
      params: the parameters theta.
      forget_importance: F_f, a tree like `params`, entries >= 0.
      full_importance: F, of the same definition, over the full training data.
      alpha: selection threshold, may be traced. The two importances must share it: 10 belongs to
        the published grouped form, see `mu.ssd`.
      dampening: lambda, may be traced; 1 is the published default.
      exponent: 1 in the reference program.
      upper: upper clip of beta, 1 in the reference program (there called `lower_bound`).

    Raises:
      ValueError: a number that is negative or NaN, where it can be seen.

    Returns:
      An updates tree for `optax.apply_updates`, in the dtype of `params`, computed in float32 or
      wider.

    Cost: one element-wise pass.

    Example:
      >>> theta, full = jnp.array([1.0, 1.0, 1.0]), jnp.array([1.0, 1.0, 0.0])
      >>> dampen(theta, jnp.array([4.0, 8.0, 1.0]), full, alpha=4.0, dampening=2.0)
      Array([ 0.  , -0.75, -1.  ], dtype=float32)

    References:
      J. Foster, S. Schoepf, A. Brintrup. Fast Machine Unlearning Without Retraining Through
      Selective Synaptic Dampening. AAAI 2024.
    """
    check_range(alpha=alpha, exponent=exponent, upper=upper)
    check_range(high=_LARGEST, dampening=dampening)

    return _dampen(params, forget_importance, full_importance, alpha, dampening, exponent, upper)


@elementwise
def _dampen(xp, params, forget_importance, full_importance, alpha, dampening, exponent, upper):
    def leaf(theta, f, full):
        chosen = f > alpha * full
        beta = (dampening * full / xp.where(chosen, f, 1)) ** exponent
        wide = theta.astype(jnp.promote_types(theta.dtype, jnp.float32))
        update = xp.where(chosen, (xp.minimum(beta, upper) - 1) * wide, 0)
        return update.astype(theta.dtype)

    return jax.tree.map(leaf, params, forget_importance, full_importance)


def selected(
    forget_importance: PyTree, full_importance: PyTree, alpha: jax.Array | float
) -> PyTree:
    """Which parameters `dampen` selects, a tree of Booleans."""
    return jax.tree.map(lambda f, full: f > alpha * full, forget_importance, full_importance)


def ratios(forget_importance: PyTree, full_importance: PyTree, *, xp: Any = jnp) -> PyTree:
    """`F_f / F` with `0 / 0 = 0` and `x / 0 = inf`."""

    def leaf(f, full):
        ratio = f / xp.where(full > 0, full, 1)
        return xp.where(full > 0, ratio, xp.where(f > 0, xp.inf, 0)).astype(ratio.dtype)

    return jax.tree.map(leaf, forget_importance, full_importance)


@summary
def adaptive_alpha(
    forget_importance: PyTree, reference_importance: PyTree, forget_fraction: jax.Array | float
) -> jax.Array:
    """The threshold of adaptive SSD: a percentile of all importance ratios.

    `p = 100 - ln(1 + 100 forget_fraction)`; alpha is the p-th percentile (linear interpolation)
    of the ratios `F_f / F_ref`, pooled over all parameters where both are defined (0/0 and x/0
    are left out), so the share of parameters to dampen is fixed in advance: 0.69 % for a forget
    set of 1 %, 2.4 % for one of 10 %.

    Args:
      forget_importance, reference_importance: trees of one definition; the authors' program takes
        the retain set as the reference.
      forget_fraction: `|D_f| / |D|`.

    Returns:
      alpha, f32[].

    Cost: one sort of as many numbers as there are parameters.

    References:
      S. Schoepf, J. Foster, A. Brintrup. Parameter-tuning-free Data Entry Error Unlearning with
      Adaptive Selective Synaptic Dampening. 2024 (arXiv 2402.10098).
    """
    pairs = zip(
        jax.tree.leaves(forget_importance), jax.tree.leaves(reference_importance), strict=True
    )
    pooled = jnp.concatenate(
        [jnp.where(ref > 0, f / jnp.where(ref > 0, ref, 1), jnp.nan).ravel() for f, ref in pairs]
    )
    percentile = 100 - jnp.log1p(100 * forget_fraction)
    return jnp.nanpercentile(pooled, percentile)


class Summary(NamedTuple):
    """What an edit did.

    Attributes:
      changed: fraction of parameters that are not bit-identical, f32[].
      changed_by_leaf: the same for each leaf.
      update_norm, params_norm: global L2 norms of the change and of the parameters before it.
      update_norm_by_leaf: L2 norm of the change of each leaf.
      finite: whether every parameter afterwards is finite.
    """

    changed: jax.Array
    changed_by_leaf: PyTree
    update_norm: jax.Array
    update_norm_by_leaf: PyTree
    params_norm: jax.Array
    finite: jax.Array


@reduction
def summarize(xp: Any, before: PyTree, after: PyTree) -> Summary:
    """Compare parameters before and after an edit; one element-wise pass."""
    moved = jax.tree.map(lambda a, b: a != b, before, after)
    change = jax.tree.map(lambda a, b: _norm(xp, [b - a]), before, after)
    finite = [xp.isfinite(x).all() for x in jax.tree.leaves(after)]
    return Summary(
        changed=mean(moved, xp=xp),
        changed_by_leaf=jax.tree.map(lambda leaf: mean(leaf, xp=xp), moved),
        update_norm=_norm(xp, jax.tree.leaves(change)),
        update_norm_by_leaf=change,
        params_norm=_norm(xp, jax.tree.leaves(before)),
        finite=xp.stack(finite).all(),
    )


def _norm(xp: Any, leaves: list) -> Any:
    """The L2 norm over all entries of all leaves, f32[]."""
    squares = [xp.square(x.astype(jnp.float32)).sum() for x in leaves]
    return xp.sqrt(xp.asarray(sum(squares), jnp.float32))


def mean(tree: PyTree, *, xp: Any = jnp) -> jax.Array:
    """Mean over all entries of all leaves, f32[]; 0 if there are none."""
    leaves = jax.tree.leaves(tree)
    total = sum(x.sum(dtype=jnp.float32) for x in leaves)
    return xp.asarray(total / xp.float32(max(sum(x.size for x in leaves), 1)))


def largest(tree: PyTree, *, xp: Any = jnp) -> jax.Array:
    """Largest entry of all leaves that have any."""
    return xp.stack([x.max() for x in jax.tree.leaves(tree) if x.size]).max()


@elementwise
def apply(xp: Any, params: PyTree, updates: optax.Updates) -> PyTree:
    """`params + updates`, added in float32 or wider and cast back."""
    del xp

    def leaf(p, u):
        wide = jnp.promote_types(p.dtype, jnp.float32)
        return (p.astype(wide) + u.astype(wide)).astype(p.dtype)

    return jax.tree.map(leaf, params, updates)


def where(mask: PyTree) -> optax.GradientTransformation:
    """Let an update through only where `mask` is true, element by element.

    End an optimizer with it, so that neither momentum nor weight decay moves the rest.

    Args:
      mask: tree of Boolean arrays shaped like the parameters.
    """
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, m: jnp.where(m, u, 0), updates, mask)
    )


def normalized(
    scale: float, norm: Literal["per_leaf", "global"] = "global"
) -> optax.GradientTransformation:
    """`-scale ||theta|| g / ||g||`: a step of a size that does not depend on that of the gradient.

    Args:
      scale: size of the step relative to the parameters.
      norm: over each leaf or over the whole tree.
    """

    def step(x, length, size):
        return jnp.where(length > 0, -scale * size * x / jnp.where(length > 0, length, 1), 0)

    def update(updates, params):
        if norm == "global":
            length, size = optax.tree.norm(updates), optax.tree.norm(params)
            return jax.tree.map(lambda u: step(u, length, size), updates)
        return jax.tree.map(
            lambda u, p: step(u, jnp.linalg.norm(u.ravel()), jnp.linalg.norm(p.ravel())),
            updates,
            params,
        )

    return optax.stateless(update)
