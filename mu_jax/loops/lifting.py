"""Functions as computations and numbers: a fresh optimizer of the same kind is the same program.

An optimizer is a pair of closures, and two of them are never equal, so that a program compiled for
one would be compiled again for the next. Here a function is traced, which is cheap, and taken
apart: into a *computation*, which compares by what it computes, and the numbers and arrays in it,
which are arguments. `optax.sgd(0.1)` and `optax.sgd(0.2)` then share one compiled program, and a
step size that is traced is never kept by a cache.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Hashable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from mu_jax._tracing import holds_tracer
from mu_jax.mesh.shards import vary, varying_axes

PyTree = Any


class OtherTypes(TypeError):
    """A computation was given arrays of other shapes or types than it was traced for."""


class Instruction(NamedTuple):
    """One primitive applied to numbered values; `inputs` below 0 count from the lifted ones."""

    primitive: Any
    parameters: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    has_effects: bool


class Computation:
    """What a function computes, without its numbers: `computation(values, *args)`.

    Two computations are equal, and hash alike, if they apply the same primitives in the same order
    to arrays of the same shapes and types. Numbers inside loops and branches belong to the
    computation.
    """

    holds_no_tracer = True  # read by `holds_tracer`: the numbers, which may be traced, are not here

    def __init__(
        self,
        instructions: list[Instruction],
        results: list[int],
        types: tuple,
        trees: tuple,
        ignored: tuple[str, ...] = (),
    ):
        self._instructions, self._results = tuple(instructions), tuple(results)
        self._types, self._trees = types, trees
        steps = tuple(
            (i.primitive, _key(i.parameters, ignored), i.inputs, i.outputs) for i in instructions
        )
        self._key = (steps, self._results, types, trees, ignored)
        self._hash = hash(self._key)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Computation) and self._key == other._key

    def __call__(self, values: tuple, *args: PyTree) -> PyTree:
        """The function of its arguments; `values` are the numbers that it was lifted with."""
        leaves, tree = jax.tree.flatten(args)
        if tree != self._trees[0] or tuple(map(_type, leaves)) != self._types[0]:
            raise OtherTypes(
                f"expected arrays like {self._trees[0]} of {self._types[0]}, found {tree} of "
                f"{tuple(map(_type, leaves))}: lift the function for these"
            )
        axes = varying_axes((leaves, values))
        leaves, values = vary((leaves, values), axes) if axes else (leaves, values)
        known = dict(enumerate(leaves)) | {-1 - k: value for k, value in enumerate(values)}
        for primitive, parameters, inputs, outputs, _ in self._instructions:
            found = primitive.bind(
                *(known[number] for number in inputs), **primitive.get_bind_params(parameters)
            )
            known.update(zip(outputs, found if primitive.multiple_results else [found]))
        return jax.tree.unflatten(self._trees[1], [known[number] for number in self._results])


class Lifted(NamedTuple):
    """A function as a computation and its numbers: `computation(values, *args)`."""

    computation: Computation
    values: tuple


def lift(
    function: Callable[..., PyTree],
    *args: PyTree,
    owners: tuple = (None,),
    differentiable: bool = True,
) -> Lifted:
    """Trace `function` at arguments like these, arrays or `jax.ShapeDtypeStruct`s.

    Args:
      function: pure.
      *args: its arguments; shapes and types matter alone.
      owners: objects that decide what the function is, so that it is traced once for the same
        ones and types of arguments; kept as long as the first lives. Default: trace anew.
      differentiable: False where nobody takes a derivative through the result. Computations are
        then equal whatever their own rules of differentiation (`jax.custom_jvp`), of which each
        trace makes new ones.

    Example:
      >>> import jax.numpy as jnp
      >>> first, second = (lift(lambda x, s=s: s * jnp.sin(x), jnp.ones(3)) for s in (2.0, 3.0))
      >>> first.computation == second.computation, *map(float, first.values + second.values)
      (True, 2.0, 3.0)
    """
    if holds_tracer(owners):  # nothing may keep what belongs to a trace
        return _lift(function, args, differentiable)
    kept = _kept_by(owners[0])
    leaves, tree = jax.tree.flatten(args)
    kind = (
        owners[1:],
        differentiable,
        tree,
        tuple(map(_type, leaves)),
        jax.dtypes.canonicalize_dtype(float),
    )
    if kind not in kept:
        if len(kept) >= _KEPT:
            kept.clear()
        kept[kind] = _lift(function, args, differentiable)
    return kept[kind]


_KEPT = 8
_OWNERS: weakref.WeakKeyDictionary[Any, dict] = weakref.WeakKeyDictionary()


def _kept_by(owner: Any) -> dict:
    try:
        return _OWNERS.setdefault(owner, {})
    except TypeError:  # None, or of a type to which there are no weak references
        return {}


def _lift(function: Callable[..., PyTree], args: tuple, differentiable: bool) -> Lifted:
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    leaves, tree = jax.tree.flatten(args)
    reader = _Reader(len(leaves), differentiable)
    results = reader.read(closed, list(range(len(leaves))))
    instructions, results, values = _needed(reader, results)
    types = tuple(map(_type, leaves)), tuple(map(_type, values))
    trees = tree, jax.tree.structure(shapes)
    ignored = () if differentiable else _RULES
    return Lifted(Computation(instructions, results, types, trees, ignored), tuple(values))


def _needed(reader: _Reader, results: list[int]) -> tuple[list[Instruction], list[int], list]:
    """The instructions and values that the results need; an `init` often runs its model as well."""
    alive, kept = set(results), []
    for instruction in reversed(reader.instructions):
        if instruction.has_effects or not alive.isdisjoint(instruction.outputs):
            kept.append(instruction)
            alive.update(instruction.inputs)
    lifted = [k for k in range(len(reader.values)) if -1 - k in alive]
    place = {-1 - k: -1 - number for number, k in enumerate(lifted)}

    def moved(numbers: Iterable[int]) -> tuple[int, ...]:
        return tuple(place.get(number, number) for number in numbers)

    instructions = [each._replace(inputs=moved(each.inputs)) for each in reversed(kept)]
    return instructions, list(moved(results)), [reader.values[k] for k in lifted]


def run(lifted: Lifted, *args: PyTree) -> PyTree:
    """The function of its arguments, compiled once for all that are computed alike."""
    return _compiled(lifted.computation, lifted.values, *args)


@functools.partial(jax.jit, static_argnums=0)
def _compiled(computation: Computation, values: tuple, *args: PyTree) -> PyTree:
    return computation(values, *args)


class _Reader:
    """Read a jaxpr as instructions; calls are written out, numbers and constants taken out."""

    def __init__(self, arguments: int, differentiable: bool) -> None:
        self._calls = {"jit": "jaxpr"} if differentiable else _CALLS
        self.instructions: list[Instruction] = []
        self.values: list[Any] = []
        self._next = arguments

    def read(self, closed: ClosedJaxpr, arguments: list[int]) -> list[int]:
        jaxpr = closed.jaxpr
        known = dict(zip(jaxpr.invars, arguments, strict=True))
        known.update(zip(jaxpr.constvars, map(self._lift, closed.consts)))

        def number(atom: Any) -> int:
            return self._lift(_value(atom)) if isinstance(atom, Literal) else known[atom]

        for equation in jaxpr.eqns:
            inputs = [number(atom) for atom in equation.invars]
            called = self._calls.get(equation.primitive.name)
            if called is not None:
                outputs = self.read(equation.params[called], inputs)
            else:
                outputs = [self._new() for _ in equation.outvars]
                one = equation.primitive, equation.params, tuple(inputs), tuple(outputs)
                self.instructions.append(Instruction(*one, bool(equation.effects)))
            known.update(zip(equation.outvars, outputs))
        return [number(atom) for atom in jaxpr.outvars]

    def _new(self) -> int:
        self._next += 1
        return self._next - 1

    def _lift(self, value: Any) -> int:
        self.values.append(value)
        return -len(self.values)


def _value(literal: Literal) -> Any:
    """A literal as an argument of the same type: a Python number where the type is weak."""
    kind: Any = literal.aval
    if kind.weak_type:
        return np.asarray(literal.val).item()
    return np.asarray(literal.val, kind.dtype)


def _type(leaf: Any) -> tuple:
    kind = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
    return kind.shape, str(kind.dtype)


# Where no derivative is taken, calls with rules of their own are calls, and the rules say nothing.
_CALLS = {"jit": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr"}
_RULES = ("jvp_jaxpr_fun", "fwd_jaxpr_thunk", "bwd")


def _key(parameter: Any, ignored: tuple[str, ...]) -> Hashable:
    """A parameter of a primitive as something that compares by value, where it can."""
    if isinstance(parameter, ClosedJaxpr):
        return _key(parameter.jaxpr, ignored), tuple(map(_Same, parameter.consts))
    if isinstance(parameter, Jaxpr):
        return _jaxpr_key(parameter, ignored)
    if isinstance(parameter, dict):
        used = [(name, value) for name, value in parameter.items() if name not in ignored]
        return tuple((name, _key(value, ignored)) for name, value in used)
    if isinstance(parameter, tuple | list):
        return type(parameter), tuple(_key(part, ignored) for part in parameter)
    try:
        hash(parameter)
    except TypeError:
        return _Same(parameter)
    return type(parameter), parameter


def _jaxpr_key(jaxpr: Jaxpr, ignored: tuple[str, ...]) -> Hashable:
    """Equations inside a loop or branch, by value, numbers included."""
    names: dict[Any, int] = {}

    def name(atom: Any) -> Hashable:
        if isinstance(atom, Literal):
            return str(atom.aval), np.asarray(atom.val).tobytes()
        return names.setdefault(atom, len(names)), str(atom.aval)

    head = tuple(map(name, [*jaxpr.constvars, *jaxpr.invars]))
    body = tuple(
        (
            e.primitive,
            _key(e.params, ignored),
            *(tuple(map(name, x)) for x in (e.invars, e.outvars)),
        )
        for e in jaxpr.eqns
    )
    return head, body, tuple(map(name, jaxpr.outvars))


class _Same:
    """Compares by identity, and keeps the object from being replaced by another at its place."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value
