"""Progress of long work on stderr: a line that is rewritten on a terminal, else one a minute."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax

from mu_jax import _progress
from mu_jax.loops.scan import observe

PyTree = Any


@contextlib.contextmanager
def progress(label: str = "") -> Iterator[None]:
    """Show on stderr how far the long work in this block is, with its rate and the time left.

    One line: loops over batches, models of an ensemble, settings of a search, rows of a dataset and
    files of a store, the outer work first:

        train: 3 of 8 models, 12.4 s per model, 1 min 02 s left; 40 of 100 batches

    It is rewritten in place on a terminal, and a line of its own comes every minute elsewhere, such
    as in a log. Work that is over in half a second shows nothing. Of several processes the first
    one writes. Without this block the library writes nothing, nor does it where the environment
    variable `MU_JAX_PROGRESS` is `off`.

    Args:
      label: what the block does, in front of the line. Blocks inside one another have one line.

    Cost: a thread that looks twice a second. A loop over batches outside `jit` waits at most that
      often for its results, so that the line says what is done; array-backed loops run in twenty
      segments. Loops inside `jit` are one program: the line then says for how long.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> data = mu.batches(jnp.eye(2), jnp.array([1.0, 3.0]), batch_size=1)
      >>> with mu.progress("mean gradient"):
      ...     found = mu.collect(
      ...         mu.statistics.mean_gradient(model), mu.Variables(jnp.ones(2)), data)
      >>> found.value
      Array([ 0., -2.], dtype=float32)
    """
    with contextlib.ExitStack() as stack:
        display, is_new = stack.enter_context(_progress.shown(_is_first))
        if display is not None:
            stack.enter_context(display.work(label))
            if is_new:
                stack.enter_context(observe(_Loops(display)))
        yield


def _is_first() -> bool:
    """Whether this process is the one that writes; asks for no devices where there is one only."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


class _Loops:
    """Tells the display of the loops over batches."""

    def __init__(self, display: _progress.Display):
        self._display = display

    def begin(self, total: int | None, carry: PyTree, position: int) -> tuple[PyTree, int]:
        self._display.begin_loop(total, position)
        return carry, position

    def advance(self, carry: PyTree, position: int) -> None:
        if self._display.asks:
            # The loop runs ahead of its results: wait, or the line says what is not yet done.
            jax.block_until_ready(carry)
            self._display.advance_loop(position)

    def end(self, carry: PyTree, position: int) -> None:
        self._display.end_loop()
