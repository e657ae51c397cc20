"""The programs of a run, noted in place of running: what `launch_tpu` compiles ahead of time."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

PyTree = Any


class Program(NamedTuple):
    """One program of a run over streams: `function(*arguments)`, called `times` times.

    `arguments` are trees of `jax.ShapeDtypeStruct`, with shardings on explicit mesh axes; the first
    is donated if `donates`.
    """

    function: Callable[..., PyTree]
    arguments: tuple
    times: int
    donates: bool


_PROGRAMS: contextvars.ContextVar[list[Program] | None] = contextvars.ContextVar(
    "programs", default=None
)


@contextlib.contextmanager
def record() -> Iterator[list[Program]]:
    """Let loops in this block note their programs in place of running.

    Inside, trace a transform with `jax.eval_shape`: its `Batches` may be as large as they like,
    since nothing is computed. The list then holds the programs of the same run over streams, one
    step for each loop, ready to be compiled for any devices.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> data = mu.batches(jnp.eye(4), jnp.ones(4), batch_size=2)
      >>> with record() as programs:
      ...     _ = jax.eval_shape(mu.ssd(model, 2.0), jax.random.key(0), mu.Variables(jnp.ones(4)),
      ...         *mu.split(data, [3]))
      >>> [program.times for program in programs]
      [1, 2]
    """
    programs: list[Program] = []
    token = _PROGRAMS.set(programs)
    try:
        yield programs
    finally:
        _PROGRAMS.reset(token)


_REPEATS: contextvars.ContextVar[int] = contextvars.ContextVar("repeats", default=1)


@contextlib.contextmanager
def repeated(times: int) -> Iterator[None]:
    """Let `record` count programs of this block `times` times: the turns of a loop around them."""
    token = _REPEATS.set(_REPEATS.get() * times)
    try:
        yield
    finally:
        _REPEATS.reset(token)


def is_recording() -> bool:
    """Whether loops note their programs in place of running."""
    return _PROGRAMS.get() is not None


def once(function: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """`function(*arguments)`, noted as a program of its own by `record`."""
    return noted(function, arguments, times=1, donates=False)


def noted(function: Callable, arguments: tuple, *, times: int, donates: bool) -> PyTree:
    """`function(*arguments)`, noted by `record` as called `times` times in a run."""
    programs = _PROGRAMS.get()
    if programs is not None:
        shapes = jax.tree.map(_abstract, arguments)
        programs.append(Program(function, shapes, times * _REPEATS.get(), donates))
    return function(*arguments)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    kind = jax.typeof(leaf)
    sharding = None if kind.sharding.mesh.empty else kind.sharding
    return jax.ShapeDtypeStruct(kind.shape, kind.dtype, sharding=sharding)
