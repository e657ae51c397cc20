"""Values in few words, for `repr`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_PLAIN = (str, bool, int, type(None), type(Ellipsis))


def short(value: Any) -> str:
    """One value in few words: numbers as they are, arrays by dtype and shape, others by name.

    Something that has `words` says them.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> short(jnp.float32(0.25)), short(jnp.ones((3, 4))), short(optax.squared_error)
      ('0.25', 'float32[3,4]', 'squared_error')
      >>> short({"a": 1, "b": jnp.ones(2)}), short((4, 4, 2))
      ('dict(1, float32[2])', '(4, 4, 2)')
    """
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(getattr(value, "words", None), str):
        return value.words
    if isinstance(value, float):
        return f"{value:.4g}"
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return _array(value)
    if hasattr(value, "_asdict") and not any(map(callable, value)):
        return call(type(value).__name__, (), value._asdict())
    leaves = jax.tree.leaves(value) if isinstance(value, Mapping | Sequence) else []
    if leaves and not any(map(callable, leaves)):
        few = ", ".join(map(short, leaves[:4])) + (", ..." if leaves[4:] else "")
        return f"{'' if type(value) is tuple else type(value).__name__}({few})"
    return getattr(value, "__name__", type(value).__name__)


def call(name: str, arguments: Sequence[Any], named: Mapping[str, Any]) -> str:
    """A call with its arguments in few words."""
    words = [*map(short, arguments), *(f"{key}={short(value)}" for key, value in named.items())]
    return f"{name}({', '.join(words)})"


def _array(value: Any) -> str:
    plain = value.dtype == bool or jnp.issubdtype(value.dtype, jnp.number)
    if plain and not value.shape and not isinstance(value, jax.core.Tracer):
        number = np.asarray(value).item()
        return f"{number:.4g}" if isinstance(number, float) else str(number)
    return type_of(value)


def type_of(value: Any) -> str:
    """Dtype and shape of an array, such as `float32[4,2]`; the type of anything else."""
    if not hasattr(value, "dtype"):
        return type(value).__name__
    return f"{value.dtype}[{','.join(map(str, getattr(value, 'shape', ())))}]"
