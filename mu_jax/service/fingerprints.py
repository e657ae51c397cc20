"""Digests of arrays and of the code, for certificates: what else would give another digest."""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mu_jax import _json
from mu_jax._version import __version__
from mu_jax.store.leaves import by_path, describe

PyTree = Any


def of_arrays(tree: PyTree) -> dict[str, Any]:
    """The digest of every array of a tree, and one of them all.

    Args:
      tree: arrays, typed keys and numbers; `Batches` too.

    Returns:
      `arrays`: by path the `sha256` of the bytes (little-endian, rows first), `dtype` and `shape`.
      `sha256`: of the canonical JSON of these.

    Raises:
      ValueError: a leaf that is no array, or of which this process holds a part only.

    Cost: one pass over the arrays, on the host.

    Example:
      >>> import numpy as np
      >>> found = of_arrays({"w": np.zeros(2, np.float32)})
      >>> found["arrays"]["w"]["dtype"], found["arrays"]["w"]["shape"]
      ('float32', [2])
    """
    named = by_path(tree)
    describe(named)  # refuses what is no array
    arrays = {name: _of_array(name, leaf) for name, leaf in named.items()}
    return {"arrays": arrays, "sha256": hashlib.sha256(_json.canonical(arrays)).hexdigest()}


def differing(recorded: dict[str, Any], tree: PyTree) -> list[str]:
    """Paths of the arrays of a tree that are not those of a certificate; empty if all are.

    Args:
      recorded: what `of_arrays` gave, such as `record["outputs"]["variables"]`.
    """
    before, now = recorded["arrays"], of_arrays(tree)["arrays"]
    return sorted(name for name in {*before, *now} if before.get(name) != now.get(name))


@functools.cache
def of_code() -> dict[str, str]:
    """The versions of the library, of what it computes with, and the digest of its source."""
    root = Path(__file__).parents[1]
    source = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        source.update(f"{path.relative_to(root).as_posix()} {found}\n".encode())
    return {
        "mu_jax": __version__,
        "source_sha256": source.hexdigest(),
        "jax": jax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "backend": jax.default_backend(),
    }


def _of_array(name: str, leaf: Any) -> dict[str, Any]:
    if isinstance(leaf, jax.Array):
        if not leaf.is_fully_addressable:
            raise ValueError(
                f"expected arrays that this process holds, found {name!r} spread over several; "
                "gather it first"
            )
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    little = array.astype(array.dtype.newbyteorder("<")) if array.dtype.byteorder == ">" else array
    data = np.ascontiguousarray(little)
    return {
        "sha256": hashlib.sha256(data.tobytes()).hexdigest(),
        "dtype": array.dtype.name,
        "shape": list(array.shape),
    }
