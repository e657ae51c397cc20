"""Adapters kept as data, with the base to which they belong."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import _named_arrays as named_arrays
from mu_jax.adapters.lifting import Adapted, check_adapted
from mu_jax.adapters.low_rank import Adapters, LowRank
from mu_jax.statistics.accumulator import fingerprint_of_numbers

PyTree = Any
_WHAT = "adapters"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class KeptAdapters:
    """Adapters without their base; made by `keep_adapters`.

    Attributes:
      adapters: `{name: LowRank}`, NumPy arrays. scale: `alpha / r`.
      fingerprint: u32[2] of the variables of the base, as `mu.statistics.fingerprint` computes it.
    """

    adapters: Adapters
    scale: float
    fingerprint: np.ndarray

    def __repr__(self) -> str:
        words = "".join(f"{int(word):08x}" for word in self.fingerprint)
        return f"KeptAdapters({len(self.adapters)} kernels, of base {words})"

    def attach(self, base: PyTree) -> Adapted:
        """The variables of the adapted model.

        Args:
          base: the variables for which the adapters were trained.

        Raises:
          ValueError: another base.

        Cost: a pass over the base. Call it outside `jit`.
        """
        if not np.array_equal(self.fingerprint, np.asarray(fingerprint_of_numbers(base))):
            raise ValueError(
                f"expected the base of these adapters, found other variables than those of "
                f"{self!r}: give the model for which they were trained"
            )
        own = {name: LowRank(*map(jnp.asarray, pair)) for name, pair in self.adapters.items()}
        return Adapted(own, jnp.asarray(self.scale, jnp.float32), base)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz` file, whole or not at all."""
        arrays: dict[str, Any] = {
            f"{part}/{name}": array
            for name, pair in self.adapters.items()
            for part, array in pair._asdict().items()
        }
        arrays |= {"scale": np.float32(self.scale), "fingerprint": self.fingerprint}
        named_arrays.save(path, _WHAT, arrays)


def keep_adapters(variables: Adapted) -> KeptAdapters:
    """The adapters of a model without its base, which they name by its fingerprint.

    Args:
      variables: of an adapted model.

    Raises:
      ValueError: adapters that are not finite.

    Cost: a pass over the base.

    Example:
      >>> import jax, mu_jax as mu
      >>> model = mu.from_function(lambda p, state, x: x @ p["w"], mu.losses.squared_error)
      >>> base = mu.Variables({"w": jnp.ones((3, 2))})
      >>> kept = keep_adapters(mu.adapters.attach(jax.random.key(0), model, base))
      >>> kept.attach(mu.Variables({"w": jnp.zeros((3, 2))}))
      Traceback (most recent call last):
          ...
      ValueError: expected the base of these adapters, found other variables than those of Kept...
    """
    check_adapted(variables)
    own: Adapters = jax.tree.map(np.asarray, variables.adapters)
    for name, pair in own.items():
        if not all(np.isfinite(part).all() for part in pair):
            raise ValueError(
                f"expected finite adapters, found NaN or infinity in {name}: do not keep them"
            )
    words = np.asarray(fingerprint_of_numbers(variables.base))
    return KeptAdapters(own, float(variables.scale), words)


def load_adapters(path: str | os.PathLike[str]) -> KeptAdapters:
    """The adapters in a file that `KeptAdapters.save` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is another file, or damaged.
    """
    with named_arrays.load(path, _WHAT, "keep them again") as arrays:
        scale, words = (arrays.pop(name) for name in ("scale", "fingerprint"))
        names = [name.removeprefix("a/") for name in arrays if name.startswith("a/")]
        own = {name: LowRank(arrays[f"a/{name}"], arrays[f"b/{name}"]) for name in names}
        return KeptAdapters(own, float(scale), words)
