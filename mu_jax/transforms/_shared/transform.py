"""What every transform shares: its signature, the check of its sets, and its report."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Literal, NamedTuple, ParamSpec, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import _at_once as at_once
from mu_jax import _words as words
from mu_jax import edits
from mu_jax.data.batches import Batches, ids_of, is_concrete
from mu_jax.data.checks import check_arrays, check_counts
from mu_jax.data.forget_retain import check_sets
from mu_jax.data.overlap import refusing_shared
from mu_jax.freezing import settled
from mu_jax.loops.fit import FitInfo, FitState
from mu_jax.loops.phases import PhasesInfo, PhasesState
from mu_jax.loops.scan import unobserved
from mu_jax.mesh.shards import reduction
from mu_jax.model import Model
from mu_jax.transforms._shared.effect import glance, measure
from mu_jax.transforms._shared.keys import asking_for_key, check_places

PyTree = Any
P = ParamSpec("P")
Function = TypeVar("Function", bound=Callable[..., Any])
Aim = Literal["removal", "suppression"]


@dataclasses.dataclass(frozen=True)
class Transform:
    """An unlearning method: `transform(key, variables, forget, retain) -> (variables, info)`.

    Pure: arrays in, arrays out, nothing mutated; `jax.jit` and `jax.vmap` take it as it is.

    Attributes:
      model: how to compute, and which part of the variables may change.
      method: the method for any model, `model -> unlearn`, where
        `unlearn(key, variables, forget, retain) -> (variables, info)`.
      watch: whether `info.effect` says what happened to the losses: True, False, or None for
        wherever a warning can be seen, see `Info`.
    """

    model: Model
    method: Callable[[Model], Unlearn]
    watch: bool | None = None

    def __call__(
        self, key: jax.Array, variables: PyTree, forget: Any, retain: Any
    ) -> tuple[PyTree, Info]:
        """Unlearn `forget`, keep `retain`; both are `Batches` or iterables of `Batch`."""
        check_places(key, variables)
        check_arrays(self.model.params(variables))
        check_sets(forget, retain)
        _warn_if_swapped(forget, retain)
        forget, retain = refusing_shared(forget, retain)
        model = settled(self.model, variables)
        with asking_for_key(key):
            after, info = self.method(model)(key, variables, forget, retain)
        return after, with_effect(self, variables, after, (forget, retain), info)

    @property
    def words(self) -> str:
        """The method and its hyper-parameters as a call."""
        return getattr(self.method, "words", words.short(self.method))

    @property
    def aim(self) -> Aim:
        """What the method means to do: "removal", or "suppression", see `suppression`."""
        return getattr(self.method, "aim", "removal")

    def __repr__(self) -> str:
        return f"Transform({self.words} of {self.model!r})"

    def restricted(self, restriction: Callable[[Model], Model]) -> Transform:
        """The same method with a model of which only a part may change."""
        return dataclasses.replace(self, model=restriction(self.model))


def method(
    factory: Callable[Concatenate[Model, P], Unlearn],
) -> Callable[Concatenate[Model, P], Transform]:
    """Make `factory(model, ...) -> unlearn` a factory of transforms.

    The arguments are kept, and the factory runs again for every model that the transform is given:
    `mu.masked` replaces the model by one with fewer trainable leaves. The `model` that the code of
    a method sees is therefore always the one to use; there is no other in its scope.

    Args:
      factory: a function of the model and the hyper-parameters. It returns
        `unlearn(key, variables, forget, retain) -> (variables, info)`.

    Returns:
      A function with the same arguments that returns a `Transform`.

    Example:
      >>> import mu_jax as mu
      >>> @method
      ... def shrink(model, share=0.5):
      ...     def unlearn(key, variables, forget, retain):
      ...         params = jax.tree.map(lambda x: (1 - share) * x, model.params(variables))
      ...         after = model.with_params(variables, params)
      ...         return report(
      ...             model, variables, after, (forget, retain), steps=0, example_passes=0)
      ...     return unlearn
      >>> model = mu.from_function(lambda w, state, x: x @ w["w"] + w["b"], mu.losses.squared_error)
      >>> sets = mu.split(mu.batches(jnp.eye(2), jnp.ones(2), batch_size=2), [0])
      >>> start = mu.Variables({"w": jnp.ones(2), "b": jnp.ones(())})
      >>> masked = mu.masked(shrink(model), lambda name: name == "b")
      >>> masked(jax.random.key(0), start, *sets)[0].params
      {'b': Array(0.5, dtype=float32), 'w': Array([1., 1.], dtype=float32)}
    """

    @functools.wraps(factory)
    def build(model: Model, *args: P.args, **kwargs: P.kwargs) -> Transform:
        _check_counts(inspect.signature(factory).bind(model, *args, **kwargs).arguments)

        def bind(model: Model) -> Unlearn:
            return factory(model, *args, **kwargs)

        bind.words = words.call(factory.__name__, args, kwargs)  # type: ignore[attr-defined]
        bind.aim = getattr(factory, "aim", "removal")  # type: ignore[attr-defined]
        unlearn = bind(model)  # refuses wrong arguments here, not when the transform is called
        bind.kept = getattr(unlearn, "kept", None)  # type: ignore[attr-defined]
        return Transform(model, bind)

    return build


def suppression(function: Function) -> Function:
    """Mark a method that hides knowledge and does not remove it: its `aim` is "suppression".

    The others mean to change weights so that the knowledge is gone ("removal"). Whether it is, is a
    question to relearning and to retrained models, for every method. What is suppressed comes back
    without any training, when a gate, an adapter or a prompt is taken away.

    Example:
      >>> @method
      ... @suppression
      ... def hide(model):
      ...     return lambda key, variables, forget, retain: (variables, None)
      >>> hide.aim, hide(None).aim
      ('suppression', 'suppression')
    """
    function.aim = "suppression"  # type: ignore[attr-defined]
    return function


def _check_counts(given: Mapping[str, Any]) -> None:
    """Refuse numbers of epochs, steps and examples that are none, in the recipe as well.

    Zero epochs or steps are a fit that changes nothing, of which the transform warns.
    """
    recipe: Any = given.get("recipe")
    given = {**given, **(recipe._asdict() if hasattr(recipe, "_asdict") else {})}
    for name, value in given.items():
        if name.endswith(("batch_size", "group_size", "retain_rows", "documents")):
            check_counts(1, **{name: value})
        elif name.endswith(("epochs", "steps", "skip")):
            check_counts(0, **{name: value})


class Info(NamedTuple):
    """What a transform did; diagnostics only, never needed to continue.

    Attributes:
      edit: the change of the parameters, see `mu.edits.Summary`.
      steps: optimizer steps, i32[].
      example_passes: forward and backward passes of single examples, f32[].
      overlap: number of ids that the forget and retain sets share, i32[]; -1 if not known.
      details: what the method reports of itself, a NamedTuple of arrays. Its `messages()`, where it
        has them, are sentences on what went wrong or did nothing.
      effect: losses and accuracies of the forget set and of as many retained examples before and
        after, an `Effect`: `info.effect.forget.loss`, `info.effect.retain.accuracy`. `messages`
        says if nothing was forgotten. Measured where warnings can be seen, outside `jit` and
        `vmap`, for two forward passes over the forget set and over as many retained examples.
        `mu.watched` measures the whole retain set, also inside `jit`, or nothing; () then.
    """

    edit: edits.Summary
    steps: jax.Array
    example_passes: jax.Array
    overlap: jax.Array
    details: Any = ()
    effect: Any = ()

    def __repr__(self) -> str:
        edit = {name: value for name, value in self.edit._asdict().items() if "leaf" not in name}
        rest = {name: value for name, value in self._asdict().items() if name != "edit"}
        return words.call("Info", (), edit | {k: v for k, v in rest.items() if jax.tree.leaves(v)})

    def messages(self) -> list[str]:
        """Sentences on a no-op, a collapse or a bad input; empty if all is well.

        For results that came out of `jit` or `vmap`; a transform called without them has already
        issued these sentences as warnings.
        """
        found = []
        finite = np.all(np.asarray(self.edit.finite))
        if not finite:
            known = np.all(np.isfinite(np.asarray(self.edit.params_norm)))
            before = "" if known else ", nor were those before"
            found.append(f"The edited parameters are not finite{before}: do not use them.")
        if not np.all(np.asarray(self.edit.changed) > 0):
            found.append("Nothing was changed: the model still knows the forget set.")
        if np.any(np.asarray(self.overlap) > 0):
            found.append(
                f"The forget and retain sets share {np.max(self.overlap)} examples: make them "
                "with mu.split."
            )
        for part in (self.details, self.effect if finite else ()):
            own = getattr(part, "messages", None)
            found += own() if own else []
        return found


Unlearn = Callable[[jax.Array, PyTree, Any, Any], tuple[PyTree, Info]]


class UnlearningWarning(UserWarning):
    """A transform did nothing, did too much, or was given sets that cannot be right."""


class _Watchable(Protocol):
    @property
    def model(self) -> Model: ...
    @property
    def watch(self) -> bool | None: ...


def with_effect(
    transform: _Watchable, before: PyTree, after: PyTree, sets: tuple[Any, Any], infos: Any
) -> Any:
    """The `info` of a transform, or the infos of a chain, with the effect of the whole in the last.

    Warns where warnings can be seen.

    Args:
      transform: its `model` computes the losses; its `watch` says whether.
    """
    seen = at_once.is_known((infos, before, after, *map(_arrays, sets)))
    if transform.watch is False or not (transform.watch or seen):
        return infos
    edits_made = [info.edit for info in jax.tree.leaves(infos, is_leaf=_is_info)]
    moved = _moved([edit.changed for edit in edits_made])
    look = measure if transform.watch else glance
    with unobserved():
        effect = look(settled(transform.model, before), before, after, sets, moved)
    if seen and effect and at_once.holds(_all_finite, edits_made[-1].finite):
        for message in effect.messages():
            warnings.warn(message, UnlearningWarning, stacklevel=3)
    return _in_the_last(infos, effect)


def _in_the_last(infos: Any, effect: Any) -> Any:
    if isinstance(infos, Info):
        return infos._replace(effect=effect)
    return (*infos[:-1], _in_the_last(infos[-1], effect))


def _is_info(tree: Any) -> bool:
    return isinstance(tree, Info)


def _all_finite(xp: Any, finite: Any) -> Any:
    return xp.all(finite)


def _arrays(data: Any) -> Any:
    return data if isinstance(data, Batches) else ()


@reduction
def _moved(xp: Any, changes: list) -> Any:
    return functools.reduce(xp.logical_or, [change > 0 for change in changes])


def report(
    model: Model,
    before: PyTree,
    after: PyTree,
    sets: tuple[Any, Any],
    *,
    steps: jax.Array | int,
    example_passes: jax.Array | float,
    details: Any = (),
) -> tuple[PyTree, Info]:
    """The end of every transform: `(variables, info)`, with warnings where they can be seen."""
    info = Info(
        edit=edits.summarize(model.params(before), model.params(after)),
        steps=number(steps, jnp.int32),
        example_passes=number(example_passes, jnp.float32),
        overlap=_overlap(*sets),
        details=details,
    )
    if all(is_concrete(leaf) for leaf in jax.tree.leaves(info)):
        for message in info.messages():
            warnings.warn(message, UnlearningWarning, stacklevel=3)
    return after, info


def report_fit(
    model: Model, before: PyTree, result: tuple[FitState, FitInfo], sets: tuple[Any, Any]
) -> tuple[PyTree, Info]:
    """The end of a transform that is one fit."""
    state, info = result
    return report(
        model,
        before,
        state.variables,
        sets,
        steps=state.step,
        example_passes=passes(info.examples),
        details=info,
    )


def report_phases(
    model: Model,
    before: PyTree,
    result: tuple[PhasesState, PhasesInfo],
    sets: tuple[Any, Any],
    details: Any,
    *read: Any,
) -> tuple[PyTree, Info]:
    """The end of a transform that is fits in turn; `read` counts examples read before them."""
    state, info = result
    number = passes(*read, *(each.examples for each in info.fits))
    common: dict[str, Any] = {"steps": total(state.steps), "example_passes": number}
    return report(model, before, state.variables, sets, details=details, **common)


def _warn_if_swapped(forget: Any, retain: Any) -> None:
    """Warn where more is to be forgotten than kept, which is mostly a mistake."""
    m, n = (getattr(part, "num_examples", 0) for part in (forget, retain))
    if m > n > 0:
        warnings.warn(
            f"The forget set has {m} examples and the retain set {n}: if they are swapped, call "
            "unlearn(key, variables, forget, retain).",
            UnlearningWarning,
            stacklevel=3,
        )


@reduction
def _passes(xp: Any, weights: tuple, times: int) -> jax.Array:
    return times * sum(xp.asarray(weight, jnp.float32).sum() for weight in weights)


def passes(*weights: jax.Array | float, times: int = 1) -> jax.Array:
    """`times` the sum of weights, numbers or arrays, f32[]: the passes over examples."""
    return _passes(weights, times)


@reduction
def total(xp: Any, counts: tuple) -> jax.Array:
    """The sum of numbers of one type, such as the steps of several fits."""
    del xp
    return sum(counts[1:], start=counts[0])


def number(value: Any, dtype: Any) -> jax.Array:
    """A scalar array; compiles nothing where the value is known."""
    if is_concrete(value) and at_once.on_host(value):
        return jax.device_put(np.asarray(value, dtype))
    return jnp.asarray(value, dtype)


def _overlap(forget: Any, retain: Any) -> jax.Array:
    """Number of shared ids, also under `jit`."""
    ids = [ids_of(x) for x in (forget, retain)]
    if any(i is None for i in ids):
        return number(-1, jnp.int32)
    if all(is_concrete(i) for i in ids):
        return number(np.isin(np.asarray(ids[0]), np.asarray(ids[1])).sum(), jnp.int32)
    forget_ids, retain_ids = (jnp.asarray(i) for i in ids)
    position = jnp.searchsorted(jnp.sort(retain_ids), forget_ids)
    found = jnp.sort(retain_ids)[jnp.minimum(position, retain_ids.size - 1)]
    return jnp.sum(found == forget_ids, dtype=jnp.int32)
