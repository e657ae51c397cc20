"""The one loop over batches: inside one program for arrays, on the host for streams."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import jax

from mu_jax import _at_once as at_once
from mu_jax import _target as target
from mu_jax._tracing import holds_tracer
from mu_jax.data.batches import Batch, Batches, checked_batch, pad, without_padding_values
from mu_jax.data.blocks import blocks, can_be_cut
from mu_jax.loops.recording import is_recording, noted
from mu_jax.mesh.shards import enter, mesh_of, place

PyTree = Any
Step = Callable[..., PyTree]


class Observer(Protocol):
    """Watches the loops of a program that runs outside `jit`: progress, saving, resuming."""

    def begin(self, total: int | None, carry: PyTree, position: int) -> tuple[PyTree, int]:
        """A loop of `total` batches starts; returns the carry and position to start from."""

    def advance(self, carry: PyTree, position: int) -> None:
        """The loop has done `position` batches."""

    def end(self, carry: PyTree, position: int) -> None:
        """The loop is done."""


_OBSERVERS: contextvars.ContextVar[tuple[Observer, ...]] = contextvars.ContextVar(
    "observers", default=()
)
_SEGMENTS = 20


@contextlib.contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Let `observer` watch every loop in this block; it never changes what is computed.

    A loop inside `jit` is one program and cannot be watched; the same transform called without
    `jit` runs its loops in segments, and reports between them.
    """
    token = _OBSERVERS.set((*_OBSERVERS.get(), observer))
    try:
        yield
    finally:
        _OBSERVERS.reset(token)


@contextlib.contextmanager
def unobserved() -> Iterator[None]:
    """Let no observer watch the loops in this block: of a look at a result, which is not work."""
    token = _OBSERVERS.set(())
    try:
        yield
    finally:
        _OBSERVERS.reset(token)


def fold(
    step: Step,
    carry: PyTree,
    batches: Batches | Iterable[Batch],
    *frozen: PyTree,
    epochs: int = 1,
    start: int | jax.Array = 0,
    stop: int | None = None,
    key: jax.Array | None = None,
) -> PyTree:
    """The one loop over batches: `carry = step(carry, batch, *frozen)`.

    Array-backed batches run inside one program, also under a caller's `jit`; any other iterable is
    a host loop around the same jitted step. Both give the same carry.

    Args:
      step: pure function; pass the same object again to reuse its compilation.
      carry: any pytree of arrays.
      batches: `Batches`, or an iterable of `Batch` (re-iterable if `epochs > 1`; its first batch
        is the largest). A `Stream` shuffles itself and starts anywhere.
      *frozen: pytrees that every step reads; passed as arguments, never captured.
      epochs: passes over the data.
      start, stop: first batch, and the batch before which to stop, counted over all epochs;
        default all.
      key: shuffle the rows anew in every epoch; default the given order.

    Returns:
      The last carry.

    Cost: one call of `step` per batch; memory of one batch, the carry, and one permutation.
    """
    if isinstance(batches, Batches):
        total = batches.num_batches * epochs if stop is None else stop
        if not at_once.is_known((carry, batches, frozen, key)) or holds_tracer(step):
            if batches.mesh is not None:
                carry, frozen, key = enter((carry, frozen, key), batches.mesh)
            if is_recording():
                arguments = (carry, batches.at(0), *frozen)
                return noted(step, arguments, times=total - int(start), donates=True)
            known = isinstance(start, int) and isinstance(total, int) and not holds_tracer(step)
            run = _traced_run if known else _run
            return run(step, carry, batches, frozen, key, start, total)
        if batches.mesh is not None:
            carry, frozen, key = place((carry, frozen, key), batches.mesh)
        return _in_segments(step, carry, batches, frozen, key, (start, total))
    if not at_once.is_known((carry, frozen, key)):
        raise ValueError(
            "expected array-backed Batches under jit, found an iterable: call the transform "
            "without jit, its steps are compiled all the same"
        )
    return _over_iterable(step, carry, batches, frozen, epochs, (start, stop), key)


def _run(
    step: Step,
    carry: PyTree,
    batches: Batches,
    frozen: tuple,
    key: jax.Array | None,
    start: int | jax.Array,
    stop: int | jax.Array,
) -> PyTree:
    """Batches `start` to `stop`, counted over all epochs, as one loop."""
    per_epoch = batches.num_batches

    def shuffle(epoch):
        assert key is not None
        return batches.order(jax.random.fold_in(key, epoch))

    def body(position, state):
        carry, order = state
        epoch, position = position // per_epoch, position % per_epoch
        if order is not None:
            order = jax.lax.cond(position == 0, lambda: shuffle(epoch), lambda: order)
        return step(carry, batches.at(position, order), *frozen), order

    order = None if key is None else shuffle(start // per_epoch)
    return jax.lax.fori_loop(start, stop, body, (carry, order))[0]


# The bounds are traced, so that a loop cut into segments anywhere is the same program: a resumed
# run is then bit-identical to an uninterrupted one.
_compiled_run = jax.jit(_run, static_argnums=0, donate_argnums=1)
# Under `vmap` outside `jit` this is the one program; the number of turns is known, so that a
# gradient can be taken through the loop.
_traced_run = jax.jit(_run, static_argnums=(0, 5, 6))


def _run_block(
    step: Step, carry: PyTree, block: Batch, frozen: tuple, start: jax.Array | int, stop: Any
) -> PyTree:
    """Batches `start` to `stop` of a block."""

    def body(position, carry):
        batch = jax.tree.map(lambda x: x[position], block)
        return step(carry, batch, *frozen)

    return jax.lax.fori_loop(start, stop, body, carry)


_compiled_block = jax.jit(_run_block, static_argnums=0, donate_argnums=1)
# A pass lasts little longer than its compilation. On a CPU the compiler's full effort costs a
# fifth of that and gains nothing: matrix products are library calls, see `benchmarks/README.md`.
_quickly_compiled_block = jax.jit(
    _run_block,
    static_argnums=0,
    donate_argnums=1,
    compiler_options={"xla_backend_optimization_level": 1},
)


def _block_program(key: jax.Array | None) -> Callable[..., PyTree]:
    """The program of a pass in the given order, or of training; XLA_FLAGS of the user decide."""
    chosen = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")
    if key is None and not chosen and target.platform() == "cpu":
        return _quickly_compiled_block
    return _compiled_block


def _in_segments(
    step: Step,
    carry: PyTree,
    batches: Batches,
    frozen: tuple,
    key: jax.Array | None,
    bounds: tuple[Any, int],
) -> PyTree:
    start, total = bounds
    carry, position = _begin(total, carry, int(start))
    length = max(1, math.ceil(total / _SEGMENTS)) if _OBSERVERS.get() else total
    while position < total:
        end = min(total, position + length)
        carry = _segment(step, carry, batches, frozen, key, position, end)
        position = end
        _advance(carry, position)
    return _end(carry, position)


def _segment(
    step: Step,
    carry: PyTree,
    batches: Batches,
    frozen: tuple,
    key: jax.Array | None,
    start: int,
    stop: int,
) -> PyTree:
    if not can_be_cut(batches):
        return _compiled_run(step, carry, batches, frozen, key, start, stop)
    for block in blocks(batches, key, start, stop):
        carry = _block_program(key)(step, carry, block.batches, frozen, 0, block.used)
    return carry


def _one_step(
    step: Step, carry: PyTree, batch: Batch, frozen: tuple, overwrite_padding: bool
) -> PyTree:
    return step(carry, without_padding_values(batch) if overwrite_padding else batch, *frozen)


_compiled_step = jax.jit(_one_step, static_argnums=(0, 4), donate_argnums=1)


def _over_iterable(
    step: Step,
    carry: PyTree,
    batches: Iterable[Batch],
    frozen: tuple,
    epochs: int,
    bounds: tuple[Any, int | None],
    key: jax.Array | None,
) -> PyTree:
    start, stop = bounds
    if stop is None and epochs > 1 and iter(batches) is batches:
        raise ValueError(
            f"expected batches that can be walked through {epochs} times, found an iterator: "
            "give a list, Batches or a Stream"
        )
    foreign = not hasattr(batches, "iterate")  # a Stream fills up its batches as `Batches` does
    total = stop if stop is not None else (num_batches(batches) or 0) * epochs or None
    carry, position = _begin(total, carry, start)
    run: Callable[..., PyTree] = functools.partial(_compiled_step, step)
    if holds_tracer(step):  # compiled for this loop alone: no cache may keep it
        run = jax.jit(lambda *args: _one_step(step, *args), static_argnums=3)
    for batch in itertools.islice(_epochs(batches, epochs, position, key), _left(stop, position)):
        carry = run(carry, batch, frozen, foreign and mesh_of(batch) is None)
        position += 1
        _advance(carry, position)
    if position == 0:
        raise ValueError("expected at least one batch, found an empty iterable: give data")
    if position < (stop or 0):
        raise ValueError(
            f"expected {stop} batches, found {position}: give more data or fewer steps"
        )
    return _end(carry, position)


def _left(stop: int | None, position: int) -> int | None:
    return None if stop is None else max(0, stop - position)


def _epochs(
    batches: Iterable[Batch], epochs: int, skip: int, key: jax.Array | None
) -> Iterator[Batch]:
    """All batches of all epochs but the first `skip`, each of the size of the very first."""
    iterate = getattr(batches, "iterate", None)
    if iterate is not None:
        first, offset = divmod(skip, batches.num_batches)  # type: ignore[attr-defined]
        for epoch in range(first, epochs):
            epoch_key = None if key is None else jax.random.fold_in(key, epoch)
            yield from iterate(key=epoch_key, start=offset if epoch == first else 0)
        return
    size, length = None, num_batches(batches)
    first = skip // length if length else 0  # epochs that need not be read to be skipped
    every = itertools.chain.from_iterable(batches for _ in range(epochs - first))
    for number, batch in enumerate(map(checked_batch, every), first * (length or 0)):
        size = batch.weight.shape[0] if size is None else size
        if number >= skip:
            yield pad(batch, size)


def in_turns(turn: Callable[[PyTree, int], PyTree], carry: PyTree, total: int) -> PyTree:
    """Programs one after another on the host, `carry = turn(carry, number)` for `total` numbers.

    They are watched, saved and resumed like the batches of a loop. The carry is not copied: no turn
    may donate it.
    """
    position = 0
    for observer in _OBSERVERS.get():
        carry, position = observer.begin(total, carry, position)
    while position < total:
        carry = turn(carry, position)
        position += 1
        _advance(carry, position)
    return _end(carry, position)


def num_batches(batches: Any) -> int | None:
    """Batches in one epoch, or None for an iterable that cannot say."""
    return getattr(batches, "num_batches", len(batches) if hasattr(batches, "__len__") else None)


def _begin(total: int | None, carry: PyTree, position: int) -> tuple[PyTree, int]:
    # The loop donates its carry: copy, so that the caller's arrays survive.
    carry = at_once.copy(carry)
    for observer in _OBSERVERS.get():
        carry, position = observer.begin(total, carry, position)
    return carry, position


def _advance(carry: PyTree, position: int) -> None:
    for observer in _OBSERVERS.get():
        observer.advance(carry, position)


def _end(carry: PyTree, position: int) -> PyTree:
    for observer in _OBSERVERS.get():
        observer.end(carry, position)
    return carry
