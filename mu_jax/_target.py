"""The platform that programs are traced for, where that is not the machine that traces them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("target", default=None)


def platform() -> str:
    """The platform for which models and statistics choose how they compute.

    Returns:
      What `traced_for` says, else `jax.default_backend()`.
    """
    return _TARGET.get() or jax.default_backend()


@contextlib.contextmanager
def traced_for(name: str) -> Iterator[None]:
    """Let what is traced in this block choose as it does on a platform.

    Programs that were traced before are not traced again: JAX does not know that the answer of
    `platform` has changed.

    Args:
      name: as `jax.default_backend()` names it: `cpu`, `gpu` or `tpu`.

    Example:
      >>> with traced_for("tpu"):
      ...     platform()
      'tpu'
    """
    before = _TARGET.set(name)
    try:
        yield
    finally:
        _TARGET.reset(before)
