"""Fits of several phases: what each one minimizes, on which examples, in which cycles."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax import _at_once as at_once
from mu_jax._callables import with_numbers, without_numbers
from mu_jax._tracing import holds_tracer
from mu_jax.data.batches import Batch, Batches
from mu_jax.loops import update_masks
from mu_jax.loops.averaging import check_start, with_averages, without_averages
from mu_jax.loops.fit import (
    FitInfo,
    FitState,
    Objective,
    advance,
    initial_state,
    lifted_update,
    no_info,
    num_steps,
    position_of,
    trimmed,
    with_batch_size,
)
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.lifting import OtherTypes
from mu_jax.loops.recording import is_recording
from mu_jax.loops.stopping import Progress, Until, after_cycle, before
from mu_jax.mesh.shards import enter
from mu_jax.model import Model

PyTree = Any
Memory = Literal["kept", "fresh", "shared"]


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of `mu.fit_phases`: the arguments of a fit that the phases do not share.

    Attributes:
      objective, optimizer, batches: see `mu.fit`.
      epochs: passes over the batches in each cycle. steps: number of steps in each cycle instead;
        the next cycle then goes on where this one stopped reading.
      cycles: numbers of the cycles that the phase takes part in, such as `range(3)` for the first
        three; default all.
      optimizer_state: `kept`: the phase has its own, which it takes up again in its next cycle.
        `fresh`: its own, initialized anew in every cycle. `shared`: one for all phases that say so,
        each step starting from what the step before it left, whichever phase that was; their
        optimizers must have states of one shape.
      model: which part of the variables the phase trains; default the model of the fit. With
        `mu.restrict` an adversary trains one part of the variables and its opponent the other.
      batch_size, frozen, gradients, shuffle, update_mask: see `mu.fit`.
    """

    objective: Objective
    optimizer: optax.GradientTransformation
    batches: Batches | Iterable[Batch]
    _: dataclasses.KW_ONLY
    epochs: int = 1
    steps: int | None = None
    cycles: Container[int] | None = None
    optimizer_state: Memory = "kept"
    model: Model | None = None
    batch_size: int | None = None
    frozen: dict[str, PyTree] | None = None
    gradients: Gradients | None = None
    shuffle: bool = True
    update_mask: PyTree | None = None


class PhasesState(NamedTuple):
    """Everything needed to continue a fit of phases bit-identically.

    Attributes:
      steps: the steps that each phase has taken, i32[] each: the position.
      variables: the result so far.
      opt_states: the optimizer state of each phase; the first of the phases that share one has it,
        the others have `()`.
      key: the PRNG key of the fit.
    """

    steps: tuple[jax.Array, ...]
    variables: PyTree
    opt_states: tuple[optax.OptState, ...]
    key: jax.Array


Carry = tuple[PhasesState, tuple[FitInfo, ...]]


class PhasesInfo(NamedTuple):
    """What a fit of phases did.

    Attributes:
      fits: a `mu.FitInfo` for each phase, over all its steps.
      records: what `record` returned after each cycle, with a leading axis of cycles.
      known: what the rule of `until` knew at the end; `()` without a rule.
    """

    fits: tuple[FitInfo, ...]
    records: PyTree = ()
    known: PyTree = ()

    def messages(self) -> list[str]:
        """A sentence for each phase that diverged."""
        found = []
        for number, fit in enumerate(self.fits):
            found += [f"Phase {number}: {message}" for message in fit.messages()]
        return found


def fit_phases(
    model: Model,
    phases: Sequence[Phase],
    variables: PyTree,
    *,
    key: jax.Array,
    cycles: int = 1,
    steps: int | None = None,
    record: Callable[[PyTree], PyTree] | None = None,
    until: Until | None = None,
    state: PhasesState | None = None,
) -> tuple[PhasesState, PhasesInfo]:
    """Fit in phases, one after another, and again for every cycle.

    One phase is exactly `mu.fit`, interrupted at the end of each cycle and continued in the next
    one with the variables that the other phases left. Phase p draws its orders and its randomness
    from `fold_in(key, p)`, so nothing depends on where a run was stopped.

    | method | call |
    |---|---|
    | one after another (UNSIR) | `cycles=1`, epochs by phase |
    | in turn, some only at first (SCRUB) | `cycles=E`, `Phase(..., cycles=range(m))` |
    | adversaries | `Phase(..., steps=k, model=mu.restrict(model, part))` for each |

    Args:
      model: says which part of the variables is trained, where a phase does not say it itself.
      phases: in the order of their turns.
      variables: where to start.
      key: a PRNG key.
      cycles: how often the phases take their turns.
      steps: number of steps of all phases together after which to stop, in the middle of a cycle if
        need be; default all.
      record: `variables -> tree`, called after every cycle: a checkpoint, an error. The results
        come back stacked as `info.records`. Cycles that ended before a given `state` record that
        state.
      until: a rule by which the cycles end early, see `mu.loops.Until`. What was not taken is 0 in
        `info`. It begins anew with a given `state`.
      state: continue from here; `variables` and `key` are then not used.

    Returns:
      `(state, info)`: `state.variables` is the result, `info` a `PhasesInfo`.

    Raises:
      ValueError: no phases; an iterable whose length is not known, without `steps` of its phase;
        phases that share an optimizer state whose shapes differ.

    Cost: that of the fits; memory of the parameters, one gradient, one batch, every optimizer state
    and, with `record`, `cycles` results. Under `jit` each phase is compiled once, whatever the
    number of cycles.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> data = mu.batches(jnp.eye(2), jnp.array([1.0, 3.0]), batch_size=2)
      >>> there, back = mu.supervised(model, sign=-1.0), mu.supervised(model)
      >>> phases = [Phase(there, optax.sgd(0.1), data, cycles=range(1)),
      ...           Phase(back, optax.sgd(0.5), data, epochs=2)]
      >>> start = mu.Variables(jnp.zeros(2))
      >>> state, info = fit_phases(model, phases, start, key=jax.random.key(0), cycles=3)
      >>> [int(steps) for steps in state.steps], state.variables.params.round(1)
      ([1, 6], Array([1. , 2.9], dtype=float32))
    """
    phases = tuple(
        dataclasses.replace(phase, batches=with_batch_size(phase.batches, phase.batch_size))
        for phase in phases
    )
    stops, models = _stops(phases, cycles, steps), [phase.model or model for phase in phases]
    done: list[int | jax.Array] = [0] * len(phases)
    if state is None:
        state = _start(model, phases, variables, key)
    else:
        done = [position_of(step) for step in state.steps]
        state = without_averages(models, state)
    _check_starts(phases, state, stops[-1])
    carry = state, tuple(no_info(int(stop)) for stop in stops[-1])
    ends = _Ends(record, until)
    if cycles > 1 and _is_traced(model, phases, state, until) and not is_recording():
        carry, records, progress = _as_one_loop(model, phases, carry, stops, ends)
    else:
        # A recording notes each phase once, with all its steps.
        stops = stops[-1:] if is_recording() else stops
        carry, records, progress = _by_turns(model, phases, carry, stops, ends, done)
    fits = tuple(trimmed(info, int(stop)) for info, stop in zip(carry[1], stops[-1]))
    known = () if progress is None else progress.known
    given = zip((phase.update_mask for phase in phases), models)
    masks = [update_masks.checked(mask, m, m.params(carry[0].variables)) for mask, m in given]
    return with_averages(models, carry[0], masks), PhasesInfo(fits, records, known)


def _check_starts(phases: tuple[Phase, ...], state: PhasesState, stops: np.ndarray) -> None:
    """Refuse an average of parameters that begins behind the last step of its phases."""
    for number, opt_state in enumerate(state.opt_states):
        sharing = [n for n in range(len(phases)) if _owner(phases, n) == number]
        check_start(opt_state, sum(int(stops[n]) for n in sharing))


def _stops(phases: tuple[Phase, ...], cycles: int, steps: int | None) -> np.ndarray:
    """The number of steps that each phase has taken after each cycle, i32[cycles, phases]."""
    if not phases or cycles < 1:
        raise ValueError(
            f"expected at least one phase and one cycle, found {len(phases)} and {cycles}: give "
            "what to fit"
        )
    each = [num_steps(p.batches, p.epochs) if p.steps is None else p.steps for p in phases]
    turns = [[p.cycles is None or cycle in p.cycles for p in phases] for cycle in range(cycles)]
    taken = np.asarray(turns, np.int32) * np.asarray(each, np.int32)
    if steps is not None:
        if not 0 <= steps <= taken.sum():
            raise ValueError(
                f"expected a number of steps up to {taken.sum()}, those of all cycles, found "
                f"{steps}: give fewer steps or more cycles"
            )
        before = np.cumsum(taken).reshape(taken.shape) - taken
        taken = np.clip(steps - before, 0, taken)
    return np.cumsum(taken, axis=0, dtype=np.int32)


def _start(model: Model, phases: tuple[Phase, ...], variables: PyTree, key: jax.Array):
    """The state before the first step."""
    states: list[Any] = []
    for number, phase in enumerate(phases):
        found = initial_state(phase.optimizer, (phase.model or model).params(variables))
        owner = _owner(phases, number)
        if owner != number:
            _check_shared(states[owner], found)
        states.append(found if owner == number else ())
    steps = tuple(at_once.as_array(np.zeros((), np.int32)) for _ in phases)
    return PhasesState(steps, variables, tuple(states), key)


def _owner(phases: tuple[Phase, ...], number: int) -> int:
    """Which phase has the optimizer state of phase `number`."""
    sharing = [n for n, phase in enumerate(phases) if phase.optimizer_state == "shared"]
    return sharing[0] if number in sharing else number


def _check_shared(first: optax.OptState, other: optax.OptState) -> None:
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), state) for state in (first, other)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            "expected phases that share an optimizer state to have optimizers of one kind, found "
            f"states {jax.tree.structure(first)} and {jax.tree.structure(other)}: give the phases "
            "states of their own"
        )


class _Ends(NamedTuple):
    """What happens at the end of a cycle."""

    record: Callable[[PyTree], PyTree] | None
    until: Until | None


def _is_traced(
    model: Model, phases: tuple[Phase, ...], state: PhasesState, until: Until | None
) -> bool:
    """Whether the fit is part of a program, so that its cycles can be one loop in it."""
    if not all(isinstance(phase.batches, Batches) for phase in phases):
        return False
    own = [vars(phase) for phase in phases]
    return holds_tracer(model, jax.tree.leaves(state), own, until)


def _by_turns(
    model: Model,
    phases: tuple[Phase, ...],
    carry: Carry,
    stops: np.ndarray,
    ends: _Ends,
    done: list[int | jax.Array],
) -> tuple[Carry, PyTree, Progress | None]:
    """Every turn as a loop of its own, which can be watched, saved and resumed."""
    records, progress = [], before(ends.until)
    for cycle, targets in enumerate(stops):
        for number, stop in enumerate(targets.tolist()):
            start = done[number]
            if isinstance(start, jax.core.Tracer) or start < stop:
                begin = int(stops[cycle - 1, number]) if cycle else 0
                carry = _turn(model, phases, number, carry, (start, begin, stop))
                done[number] = stop
        if ends.record is not None:
            records.append(ends.record(carry[0].variables))
        progress = after_cycle(ends.until, progress, carry[0].variables, cycle)
        if progress is not None and cycle + 1 < len(stops) and bool(progress.ended):
            break
    return carry, at_once.stacked(records) if records else (), progress


def _as_one_loop(
    model: Model,
    phases: tuple[Phase, ...],
    carry: Carry,
    stops: np.ndarray,
    ends: _Ends,
) -> tuple[Carry, PyTree, Progress | None]:
    """The cycles as one loop inside a program, which then holds each phase once."""
    phases = tuple(_numbers_outside(model, phases, n, carry[0]) for n in range(len(phases)))
    begins = np.concatenate([np.zeros_like(stops[:1]), stops[:-1]])
    bounds = jnp.arange(len(stops)), jnp.asarray(begins), jnp.asarray(stops)
    for mesh in {phase.batches.mesh for phase in phases}:  # type: ignore[union-attr]
        if mesh is not None:
            carry, bounds = enter((carry, bounds), mesh)

    def cycle(both, bounds):
        (carry, progress), (number_of_cycle, begins, stops) = both, bounds
        for number in range(len(phases)):
            start, stop = carry[0].steps[number], stops[number]
            stop = stop if progress is None else jnp.where(progress.ended, start, stop)
            carry = _turn(model, phases, number, carry, (start, begins[number], stop))
        variables = carry[0].variables
        progress = after_cycle(ends.until, progress, variables, number_of_cycle)
        return (carry, progress), () if ends.record is None else ends.record(variables)

    both, records = jax.lax.scan(cycle, (carry, before(ends.until)), bounds)
    return both[0], records, both[1]


def _numbers_outside(
    model: Model, phases: tuple[Phase, ...], number: int, state: PhasesState
) -> Phase:
    """A phase whose numbers are arrays that are made here: a loop then takes them as arguments."""
    phase, opt_state = phases[number], state.opt_states[_owner(phases, number)]
    params = (phase.model or model).params(state.variables)
    computation, values = lifted_update(phase.optimizer, params, opt_state)
    values = tuple(map(jnp.asarray, values))

    def update(grads, state, params, *, value, **rest):
        try:
            return computation(values, grads, state, params, value)
        except OtherTypes:  # gradients that are not of the types of the parameters
            given = optax.with_extra_args_support(phase.optimizer)
            return given.update(grads, state, params, value=value, **rest)

    form, numbers = without_numbers(phase.objective)
    return dataclasses.replace(
        phase,
        objective=with_numbers(form, tuple(map(jnp.asarray, numbers))),
        optimizer=optax.GradientTransformationExtraArgs(phase.optimizer.init, update),  # type: ignore[arg-type]
    )


def _turn(
    model: Model,
    phases: tuple[Phase, ...],
    number: int,
    carry: Carry,
    bounds: tuple[Any, Any, Any],
) -> Carry:
    """The steps of one phase in one cycle: from `start` to `stop`; the cycle's first is `begin`."""
    (state, infos), (start, begin, stop) = carry, bounds
    phase, owner = phases[number], _owner(phases, number)
    model, opt_state = phase.model or model, state.opt_states[owner]
    if phase.optimizer_state == "fresh":
        fresh = phase.optimizer.init(model.params(state.variables))
        begins = jnp.asarray((start == begin) & (start < stop))
        opt_state = jax.tree.map(lambda x, y: jnp.where(begins, x, y), fresh, opt_state)
    own_key = jax.random.fold_in(state.key, number)
    own, info = advance(
        model,
        phase.objective,
        phase.optimizer,
        (FitState(state.steps[number], state.variables, opt_state, own_key), infos[number]),
        phase.batches,
        start=start,
        stop=stop,
        frozen=phase.frozen,
        gradients=phase.gradients,
        shuffle=phase.shuffle,
        update_mask=phase.update_mask,
    )
    state = PhasesState(
        _replaced(state.steps, number, own.step),
        own.variables,
        _replaced(state.opt_states, owner, own.opt_state),
        state.key,
    )
    return state, _replaced(infos, number, info)


def _replaced(items: tuple, number: int, item: Any) -> tuple:
    return (*items[:number], item, *items[number + 1 :])
