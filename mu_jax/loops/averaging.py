"""Weight averaging: the running mean of the parameters along a fit is its result.

A schedule-free optimizer ends likewise, at its own mean; see `mu_jax.loops.schedule_free`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax import _at_once as at_once
from mu_jax.data.batches import is_concrete
from mu_jax.data.checks import check_counts
from mu_jax.loops import schedule_free
from mu_jax.model import Model

PyTree = Any


class AverageState(NamedTuple):
    """The state of `average_weights`.

    Attributes:
      steps: that were seen, i32[]. number: parameters in the mean, i32[].
      start, every: as given, i32[].
      mean: of the parameters, float32 at least.
      current: behind a fit, the parameters at its last step, from which it goes on; `()` in it.
    """

    steps: jax.Array
    number: jax.Array
    start: jax.Array
    every: jax.Array
    mean: PyTree
    current: PyTree = ()


def average_weights(
    start: jax.Array | int = 0, every: jax.Array | int = 1
) -> optax.GradientTransformation:
    """An optimizer's link whose fit ends at the mean of its parameters, in place of the last ones.

    With the parameters theta_t after t steps, the result of a fit of T steps is the mean of theta_t
    over `t = start, start + every, start + 2 every, ... <= T`. The steps themselves are those of
    the optimizer. Chain it: `optax.chain(optax.adamw(1e-5), average_weights(100, 5))`. Every fit of
    the library, and so every transform that has an optimizer, then returns the mean: its
    `state.variables` are the mean, and its `state.opt_state` keeps the last parameters, so that a
    fit that is given `state=` goes on from these, bit for bit. What is not trained, or masked out,
    keeps every bit.

    The mean lies in a flatter place than the last parameters, which makes what was forgotten harder
    to relearn. It forgets less than the last parameters where the fit still moves: start late.

    Args:
      start: first number of steps whose parameters count, may be traced; 100 of 125 published.
      every: steps from one to the next, may be traced; 5 published.

    Returns:
      An optax transformation that leaves updates as they are.

    Raises:
      ValueError: by the fit: a start behind its last step, where it can be seen. Inside `jit` the
        result of such a fit are the last parameters.

    Cost: one float32 copy of the trained parameters, and at the end of a fit one more.

    Note: batch statistics are those of the last step; `mu.refresh_statistics` computes them anew.
    Of several phases that train the same parameters by optimizer states of their own, the result
    is the mean of the last one.

    References:
      P. Izmailov, D. Podoprikhin, T. Garipov, D. Vetrov, A. G. Wilson. Averaging Weights Leads to
      Wider Optima and Better Generalization. UAI 2018.
      C. Fan, J. Jia, Y. Zhang, A. Ramakrishna, M. Hong, S. Liu. Towards LLM Unlearning Resilient to
      Relearning Attacks: A Sharpness-Aware Minimization Perspective and Beyond. ICML 2025.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w * x, lambda z, y: -z)
      >>> data = mu.batches(jnp.ones(1), jnp.zeros(1), batch_size=1)
      >>> optimizer = optax.chain(optax.sgd(1.0), average_weights(start=2, every=2))
      >>> state, _ = mu.fit(model, mu.supervised(model), optimizer, mu.Variables(jnp.zeros(())),
      ...     data, key=jax.random.key(0), steps=5)
      >>> float(state.variables.params)  # 1, 2, 3, 4, 5 after the steps, of which 2 and 4 count
      3.0
    """
    check_counts(0, start=start)
    check_counts(1, every=every)

    def init(params: PyTree) -> AverageState:
        steps, number, first, apart = (jnp.asarray(x, jnp.int32) for x in (0, 0, start, every))
        zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), _wide(x)), params)
        return AverageState(steps, number, first, apart, zeros)

    def update(updates: PyTree, state: AverageState, params: PyTree | None = None):
        if params is None:
            raise ValueError("expected the parameters, found none: call update(..., params)")
        number, mean = _with(jnp, params, state)
        return updates, state._replace(steps=state.steps + 1, number=number, mean=mean)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]


def _wide(x: Any) -> Any:
    return jnp.promote_types(jnp.result_type(x), jnp.float32)


def _with(xp: Any, params: PyTree, state: AverageState) -> tuple[Any, PyTree]:
    """The number and the mean, with the parameters after `steps` steps where these count."""
    past = state.steps - state.start
    due = (past >= 0) & (past % state.every == 0)
    number = state.number + due.astype(state.number.dtype)

    def leaf(mean, param):
        if isinstance(mean, optax.MaskedNode):
            return mean
        param = param.astype(mean.dtype)
        moved = mean + (param - mean) / xp.maximum(number, 1).astype(mean.dtype)
        # What does not move keeps every bit, also the sign of a zero.
        moved = xp.where(number == 1, param, xp.where(param == mean, mean, moved))
        return xp.where(due, moved, mean)

    return number, jax.tree.map(leaf, state.mean, params, is_leaf=_is_masked)


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


@at_once.elementwise
def _result(xp: Any, params: PyTree, state: AverageState) -> PyTree:
    number, mean = _with(xp, params, state)

    def leaf(mean, param):
        if isinstance(mean, optax.MaskedNode):
            return param
        return xp.where(number > 0, mean.astype(param.dtype), param)

    return jax.tree.map(leaf, mean, params, is_leaf=_is_masked)


def _is_average(x: Any) -> bool:
    return isinstance(x, AverageState)


def _averages(opt_states: PyTree) -> list[AverageState]:
    leaves = jax.tree.leaves(opt_states, is_leaf=_is_average)
    return [leaf for leaf in leaves if _is_average(leaf)]


def check_start(opt_state: optax.OptState, steps: Any) -> None:
    """Refuse an average that begins behind the last step, where both can be seen.

    Refused is also a second mean: that of a schedule-free optimizer, whose parameters on the way
    are not those to evaluate.
    """
    if _averages(opt_state) and schedule_free.holds_schedule_free(opt_state):
        raise ValueError(
            "expected one mean of the parameters, found average_weights beside a schedule-free "
            "optimizer, which returns its own: leave out one of them"
        )
    for state in _averages(opt_state):
        if not (is_concrete(state.start) and is_concrete(steps)):
            continue
        first, last = np.max(state.start), np.max(steps)
        if first > last:
            raise ValueError(
                f"expected average_weights to start within the {last} steps of the fit, found "
                f"start={first}: start earlier, or fit for more steps"
            )


def averaged(
    model: Model,
    variables: PyTree,
    before: PyTree,
    opt_state: optax.OptState,
    mask: PyTree | None = None,
) -> tuple[PyTree, optax.OptState]:
    """The end of a fit: the variables with the mean, and a state that keeps the parameters.

    Args:
      model: says which parameters are trained.
      variables: at the end, which get the mean.
      before: at the end, without the means of other phases.
      opt_state: of the optimizer; without an average nothing changes.
      mask: which entries of the parameters may change, bools.
    """
    if schedule_free.holds_schedule_free(opt_state):
        result, kept = schedule_free.evaluated(model.params(before), opt_state, mask)
        return model.with_params(variables, result), kept
    if not _averages(opt_state):
        return variables, opt_state
    last = result = model.params(before)
    for state in _averages(opt_state):
        result = _merged(_result(last, state), result, state.mean)
    kept = jax.tree.map(
        lambda x: x._replace(current=last) if _is_average(x) else x,
        opt_state,
        is_leaf=_is_average,
    )
    return model.with_params(variables, result), kept


def _merged(found: PyTree, other: PyTree, mean: PyTree) -> PyTree:
    """The parameters of which there is a mean, and the other ones."""

    def leaf(mean, new, old):
        return old if isinstance(mean, optax.MaskedNode) else new

    return jax.tree.map(leaf, mean, found, other, is_leaf=_is_masked)


def going_on(
    model: Model, variables: PyTree, opt_state: optax.OptState
) -> tuple[PyTree, optax.OptState]:
    """The inverse of `averaged`: the parameters at the last step, from which a fit goes on."""
    current, opt_state = schedule_free.going_on(opt_state)
    if current is not None:
        return model.with_params(variables, current), opt_state
    kept = [state.current for state in _averages(opt_state) if jax.tree.leaves(state.current)]
    if not kept:
        return variables, opt_state
    state = jax.tree.map(
        lambda x: x._replace(current=()) if _is_average(x) else x, opt_state, is_leaf=_is_average
    )
    return model.with_params(variables, kept[0]), state


State = TypeVar("State", bound=Any)


def with_average(model: Model, state: State, mask: PyTree | None = None) -> State:
    """The end of a fit: where its optimizer averages the parameters, their mean is the result."""
    variables, opt_state = averaged(model, state.variables, state.variables, state.opt_state, mask)
    return state._replace(variables=variables, opt_state=opt_state)


def without_average(model: Model, state: State) -> State:
    """The inverse: a fit as it stood at its last step."""
    variables, opt_state = going_on(model, state.variables, state.opt_state)
    return state._replace(variables=variables, opt_state=opt_state)


def with_averages(models: Sequence[Model], state: State, masks: Sequence[PyTree | None]) -> State:
    """`with_average` of phases: each optimizer state of its own phase's model."""
    variables, opt_states = state.variables, []
    for model, opt_state, mask in zip(models, state.opt_states, masks):
        variables, own = averaged(model, variables, state.variables, opt_state, mask)
        opt_states.append(own)
    return state._replace(variables=variables, opt_states=tuple(opt_states))


def without_averages(models: Sequence[Model], state: State) -> State:
    """The inverse of `with_averages`."""
    variables, opt_states = state.variables, []
    for model, opt_state in zip(models, state.opt_states):
        variables, own = going_on(model, variables, opt_state)
        opt_states.append(own)
    return state._replace(variables=variables, opt_states=tuple(opt_states))
