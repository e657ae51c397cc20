"""NTK scrubbing: where the linearized model goes when it is trained on the retain set alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import merging
from mu_jax._at_once import elementwise
from mu_jax._tracing import cached
from mu_jax.data.checks import check_range
from mu_jax.data.forget_retain import mix, readable
from mu_jax.loops.labels import check_labels, count_classes
from mu_jax.mesh.shards import bare, reduction
from mu_jax.model import Model
from mu_jax.solvers import Problem, Solution, Solver, conjugate_gradients
from mu_jax.statistics import Statistic, collect, mean_gradient
from mu_jax.transforms._shared.transform import Unlearn, method, report

PyTree = Any
_SOLVER = conjugate_gradients(iterations=200)


class NTKScrubInfo(NamedTuple):
    """What NTK scrubbing found.

    Attributes:
      scale: s of the trapezium rule, f[].
      cosine: between the direction and `m = theta - theta_init - w_retain`, f[].
      direction_norm: `|delta|`, f[].
      trained_norm: `|theta - theta_init|`, f[].
      retain, direction: what the solver reports of `w_retain` and of `delta`.
    """

    scale: jax.Array
    cosine: jax.Array
    direction_norm: jax.Array
    trained_norm: jax.Array
    retain: Any
    direction: Any

    def messages(self) -> list[str]:
        """Sentences on initial parameters that are none, and on systems that were not solved."""
        found = []
        if np.any(np.asarray(self.trained_norm) == 0):
            found.append(
                "The initial parameters are those of the trained model, so the rule for the scale "
                "is that of another quantity: give those from before the training."
            )
        for details in (self.retain, self.direction):
            found += details.messages() if hasattr(details, "messages") else []
        return found


@method
def ntk_scrub(
    model: Model,
    initial: PyTree,
    *,
    weight_decay: jax.Array | float = 0.1,
    solver: Solver = _SOLVER,
) -> Unlearn:
    """NTK scrubbing: from training on all data to training on the rest, in the linearized model.

    With the Jacobian `J_i` of the logits at the trained parameters theta and the residual `r_i`
    (the gradient of the loss in the logits, `softmax(f_i) - onehot(y_i)` for cross-entropy), a
    network that is linear in its parameters and trained to the end on a set S moves by

        w_S = -(sum_S J_i^T J_i + |S| wd I)^-1 sum_S J_i^T r_i,

    which is `-G_S (G_S^T G_S + |S| wd I)^-1 r` of the paper, with `J_i^T` as the columns of `G_S`.
    Then `theta' = theta + s delta`, `delta = w_retain - w_all`, and by the trapezium rule

        s = 1 + 2 |cos(delta, m)| |m| / |delta|,   m = theta - theta_init - w_retain.

    No matrix is built. Conjugate gradients solve for `w_retain`; what all data would change is
    solved for directly, `(sum_all J^T J + n wd I) delta = sum_forget (J^T J + wd I) w_retain + J^T
    r`, since a difference of two solutions would lose the digits in which they differ.

    It fails where the network is not near its linearization, which is so after long training at
    large rates, and where wd is too small for the conjugate gradients to converge: the solver then
    says so. The factor s is a rule of thumb and often 5 or more; `mu.scaled` turns it down.

    Args:
      model: a classifier with outputs f32[B, C] and integer labels.
      initial: the variables from which this model was trained, in the form of its own variables; of
        these the trained parameters are read. They are no default: the rule for s needs them.
      weight_decay: wd, the coefficient of `wd / 2 |theta|^2` beside the mean loss in training; 0.1
        as published. May be traced.
      solver: of `mu.solvers`; default 200 conjugate gradients, relative residual 1e-5.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key is not used;
      `info.details` is an `NTKScrubInfo`. Two streams are read batch by batch, once for each
      product; of other iterables both sets are read into memory.

    Raises:
      ValueError: a regression; initial variables of another tree; a negative weight decay.

    Cost: two passes for gradients, one product over the forget set, one pass over the retain set
    and one over all data for each iteration of the solver, each a forward, a forward-mode and a
    backward pass; memory of eight trees. The programs take memory of `(n C)^2 + P n C` numbers and
    time of `(n C)^3`, so that 1,000 examples were the most.

    Differences from the reference programs (`AdityaGolatkar/SelectiveForgetting`, and its copy in
    `if-loops/selective-synaptic-dampening`):
      1. Neither G nor the kernel is built: products with vectors, and conjugate gradients.
      2. The initial parameters are an argument. The copy passes the trained model for them, so m is
         `-w_retain`, and s another number (3.6 in place of 6.1 in the golden case).
      3. delta is solved for directly.
      4. The two branches of the rule for s, by the sign of the cosine, are one formula.
      5. Sums are weighted, with the total weight as |S|.
      6. The Jacobian is that at the trained parameters, as in the programs; that of the paper is at
         the initial ones. Inference mode.

    References:
      A. Golatkar, A. Achille, S. Soatto. Forgetting Outside the Box: Scrubbing Deep Networks of
      Information Accessible from Input-Output Observations. ECCV 2020.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(3), jnp.arange(3), batch_size=3)
      >>> forget, retain = mu.split(data, [2])
      >>> unlearn = mu.ntk_scrub(model, mu.Variables(jnp.zeros((3, 3))))
      >>> unlearned, info = unlearn(
      ...     jax.random.key(0), mu.Variables(3 * jnp.eye(3)), forget, retain)
      >>> jnp.diag(unlearned.params).round(1)
      Array([ 3.3,  3.3, -0.4], dtype=float32)
    """
    check_range(0, weight_decay=weight_decay)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        del key
        params = model.params(variables)
        start = _checked(model, initial, params)
        check_labels(model, variables, forget=forget, retain=retain)
        forget_set, retain_set = readable(forget, retain)
        gradient = _gradient_of_classes(model)
        parts = [collect(gradient, variables, each) for each in (forget_set, retain_set)]
        part, rest = (each.weight for each in parts)
        linear = dataclasses.replace(model, loss=_half_square(model))

        def problem(data):
            return Problem(linear, variables, data, "gauss_newton", weight_decay)

        kept: Solution = solver(problem(retain_set), _negative(parts[1].value))
        lost = _lost(problem(forget_set).product(kept.value), parts[0].value, part, rest)
        moved: Solution = solver(problem(mix(forget_set, retain_set)), lost)
        numbers = trapezium(moved.value, params, start, kept.value)
        after = merging.add(params, moved.value, scale=numbers["scale"])
        products = (getattr(each.details, "products", 0) for each in (kept, moved))
        return report(
            model,
            variables,
            model.with_params(variables, after),
            (forget, retain),
            steps=0,
            example_passes=_example_passes(part, rest, *products),
            details=NTKScrubInfo(**numbers, retain=kept.details, direction=moved.details),
        )

    return unlearn


@dataclasses.dataclass(frozen=True)
class _HalfSquare:
    """`|f_i|^2 / 2`, whose Hessian in the outputs is the identity: products are with `J^T J`.

    Attributes:
      counts: which labels the loss of the model counts, where it ignores some.
    """

    counts: Callable | None

    def __call__(self, outputs: jax.Array, targets: PyTree) -> jax.Array:
        return jnp.square(outputs).sum(axis=-1) / 2


def _half_square(model: Model) -> _HalfSquare:
    return _HalfSquare(getattr(model.loss, "counts", None))


@cached(maxsize=64)
def _gradient_of_classes(model: Model) -> Statistic:
    """The mean gradient of a classifier, `mean_i J_i^T r_i`."""
    mean = mean_gradient(model)

    def terms(variables, batch):
        outputs = jax.eval_shape(model.apply, *bare((variables, batch.inputs)))
        count_classes(outputs, batch.targets)
        return mean.terms(variables, batch)

    return mean.replace(terms=terms)


def _checked(model: Model, initial: PyTree, params: PyTree) -> PyTree:
    """The initial parameters; refuses those of another tree."""
    try:
        start = model.params(initial)
        found = merging.unlike(start, params)
    except (TypeError, ValueError, AttributeError):  # of another form altogether
        found = type(initial).__name__
    if found:
        raise ValueError(
            f"expected initial variables in the form of the model's own, found {found}: give those "
            "from which this model was trained"
        )
    return start


@elementwise
def _negative(xp: Any, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: -x, tree)


@elementwise
def _lost(xp: Any, product: PyTree, gradient: PyTree, part: jax.Array, rest: jax.Array) -> PyTree:
    """The right-hand side of delta: means over the forget set, times its share of all data."""
    share = part / (part + rest)
    return jax.tree.map(lambda a, g: share.astype(a.dtype) * (a + g), product, gradient)


@reduction
def trapezium(xp: Any, delta: PyTree, params: PyTree, start: PyTree, kept: PyTree) -> dict:
    """The scale of the direction, and what it is made of."""
    trained = jax.tree.map(lambda a, b, like: a.astype(like.dtype) - b, params, start, delta)
    rest = jax.tree.map(lambda a, b: a - b, trained, kept)

    def dot(first, second):
        pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
        return sum(xp.sum(a * b) for a, b in pairs)

    size, other = xp.sqrt(dot(delta, delta)), xp.sqrt(dot(rest, rest))
    some = (size > 0) & (other > 0)
    cosine = xp.where(some, dot(delta, rest) / xp.where(some, size * other, 1), 0)
    scale = 1 + 2 * xp.abs(cosine) * other / xp.where(size > 0, size, 1)
    return {
        "scale": xp.asarray(scale),
        "cosine": xp.asarray(cosine),
        "direction_norm": xp.asarray(size),
        "trained_norm": xp.asarray(xp.sqrt(dot(trained, trained))),
    }


@reduction
def _example_passes(xp: Any, part: Any, rest: Any, kept: Any, moved: Any) -> jax.Array:
    """One pass for the gradients, one product over the forget set, and those of the solver."""
    return 2 * part + rest + kept * rest + moved * (part + rest)
