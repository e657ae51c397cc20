"""Functions that hold traced arrays: no cache may keep them."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import jax
import numpy as np

Function = TypeVar("Function", bound=Callable[..., Any])
_LEAVES = (type, types.ModuleType, str, bytes, int, float, complex, np.ndarray, jax.Array)


def holds_tracer(*things: Any) -> bool:
    """Whether an object is a traced array, or a function or a container that holds one.

    Looks into what functions close over, defaults, partial arguments, attributes and elements:
    `optax.sgd(rate)` under `jax.vmap` over `rate` holds a tracer, and so does an optimizer chained
    from it.

    Args:
      *things: any objects.

    Cost: one look at every object that can be reached, without the elements of arrays.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> found = []
      >>> _ = jax.vmap(lambda rate: found.append(holds_tracer(optax.adam(rate))))(jnp.ones(2))
      >>> found, holds_tracer(optax.adam(0.1))
      ([True], False)
    """
    seen: set[int] = set()
    left = list(things)
    while left:
        thing = left.pop()
        if isinstance(thing, jax.core.Tracer):
            return True
        if id(thing) not in seen and not isinstance(thing, _LEAVES):
            seen.add(id(thing))
            left.extend(_parts(thing))
    return False


def cached(maxsize: int) -> Callable[[Function], Function]:
    """`functools.lru_cache`, but for calls with arguments that hold tracers: these are not kept.

    A cache that keeps a tracer keeps its whole trace alive, and hands a later call a value that
    belongs to a trace that is over.

    Args:
      maxsize: number of results kept.
    """

    def decorate(function):
        kept = functools.lru_cache(maxsize=maxsize)(function)

        @functools.wraps(function)
        def call(*args, **kwargs):
            return (function if holds_tracer(args, kwargs) else kept)(*args, **kwargs)

        return call

    return decorate


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit(function, static_argnums=0)`, but run as it is where that argument holds a tracer.

    Args:
      function: its first argument is a function or another object that can be hashed.
    """
    jitted = jax.jit(function, static_argnums=0)

    @functools.wraps(function)
    def call(static, *args):
        return (function if holds_tracer(static) else jitted)(static, *args)

    return call


def _parts(thing: Any) -> Iterable[Any]:
    """What an object is made of; nothing where its type vouches for it."""
    if getattr(type(thing), "holds_no_tracer", False):
        return ()
    if isinstance(thing, dict):
        return thing.values()
    if isinstance(thing, list | tuple | set | frozenset):
        return thing
    if isinstance(thing, functools.partial):
        return (thing.func, *thing.args, *thing.keywords.values())
    if isinstance(thing, types.MethodType):
        return thing.__self__, thing.__func__
    parts = list(getattr(thing, "__dict__", {}).values())
    if isinstance(thing, types.FunctionType):
        parts += thing.__defaults__ or ()
        parts += (thing.__kwdefaults__ or {}).values()
        parts += [cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell)]
    parts += [getattr(thing, name) for name in _slots(type(thing)) if hasattr(thing, name)]
    return parts


def _slots(kind: type) -> list[str]:
    found: list[str] = []
    for base in kind.__mro__:
        names = vars(base).get("__slots__", ())
        found += [names] if isinstance(names, str) else names
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:  # the variable is assigned later
        return False
    return True
