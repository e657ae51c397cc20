"""What programs are traced for: the platform, and whether they only go forward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

_TARGET: ContextVar[str | None] = ContextVar("target", default=None)
_FORWARD_ONLY: ContextVar[bool] = ContextVar("forward_only", default=False)


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


def is_forward_only() -> bool:
    """Whether what is traced computes the outputs of one model, and nothing is differentiated."""
    return _FORWARD_ONLY.get()


@contextlib.contextmanager
def forward_only(yes: bool = True) -> Iterator[None]:
    """Let models that are traced in this block choose what is fast without gradient and `vmap`.

    Args:
      yes: False changes nothing.

    Example:
      >>> with forward_only():
      ...     is_forward_only()
      True
    """
    before = _FORWARD_ONLY.set(yes or _FORWARD_ONLY.get())
    try:
        yield
    finally:
        _FORWARD_ONLY.reset(before)
