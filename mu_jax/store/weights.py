"""Weights that others have trained: Orbax checkpoints, TrainStates, safetensors, trees."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax._extras import extra
from mu_jax._paths import absolute
from mu_jax.store import leaves

PyTree = Any


def load_weights(source: Any, *, like: PyTree) -> PyTree:
    """The variables of a model, taken from what a training left.

    Every leaf of `like` is looked up by its path, so the source may hold more: a TrainState has the
    optimizer's state and a step beside the parameters, and both are left where they are.

    | source | what is read |
    |---|---|
    | `*.safetensors` | tensors named `params.dense.kernel` or `params/dense/kernel` |
    | a directory | an Orbax checkpoint, or the last step that a `CheckpointManager` has kept |
    | a `TrainState` | `params`, and `batch_stats` and other collections of the same names |
    | another tree | its leaves |

    Args:
      source: a path (str or path object), an object with `params`, or a tree of arrays.
      like: the variables wanted, as arrays or `jax.ShapeDtypeStruct`s: what `model.init` gives, or
        its shapes by `jax.eval_shape`. Paths may lack the first collection: a tree of parameters
        alone fits `{"params": ...}` and `Variables(params)`.

    Returns:
      A tree like `like`. Floats are cast to the dtypes of `like`.

    Raises:
      FileNotFoundError: there is nothing at the path.
      ValueError: a leaf is missing, of another shape, or an integer for a float; a collection of
        the model has a leaf more in the source; or the file cannot be read; the first is named.
      ModuleNotFoundError: a safetensors file without the extra `weights`.

    Cost: reads the checkpoint once, as NumPy arrays on the host.

    Example:
      >>> import jax, jax.numpy as jnp, mu_jax as mu
      >>> like = jax.eval_shape(lambda: {"params": {"w": jnp.zeros((2, 3))}})
      >>> found = mu.store.load_weights({"w": np.ones((2, 3))}, like=like)
      >>> found["params"]["w"].shape
      (2, 3)
    """
    found, where = _read(source)
    wanted = leaves.by_path(like)
    found = _with_collection(found, wanted)
    collections = _collections(wanted)
    leaves.require_same(
        leaves.describe(wanted),
        leaves.describe(_types(found)),
        where,
        todo="give weights of this model",
        further=lambda name: name.split("/")[0] not in collections,
    )
    placed = [jnp.asarray(found[name], leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), placed)


def _read(source: Any) -> tuple[dict[str, Any], str]:
    """Leaves by path, and where they are from in words."""
    if hasattr(source, "params") and not isinstance(source, Mapping):
        fields = getattr(source, "__dict__", None) or source._asdict()
        tree = {name: value for name, value in fields.items() if _holds_arrays(value)}
        return leaves.by_path(tree), type(source).__name__
    if not isinstance(source, str | Path) and not hasattr(source, "__fspath__"):
        return leaves.by_path(source), f"the given {type(source).__name__}"
    path = absolute(source)
    if not path.exists():
        raise FileNotFoundError(f"expected weights at {path}, found nothing; check the path")
    return (_read_checkpoint if path.is_dir() else _read_safetensors)(path), str(path)


def _holds_arrays(value: Any) -> bool:
    found = jax.tree.leaves(value)
    return bool(found) and all(hasattr(leaf, "dtype") for leaf in found)


def _read_safetensors(path: Path) -> dict[str, Any]:
    with extra("weights"):
        import safetensors.flax
    if path.suffix != ".safetensors":
        raise ValueError(
            f"expected an Orbax directory or a file *.safetensors, found {path}; give one of these"
        )
    try:
        tensors = safetensors.flax.load(path.read_bytes())
    except Exception as error:  # the package's own error, of a compiled module
        raise ValueError(
            f"expected a safetensors file at {path}, found {error}; write the file again"
        ) from error
    return {name.replace(".", "/"): tensor for name, tensor in tensors.items()}


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """The leaves of an Orbax checkpoint as NumPy arrays, whatever mesh they were saved from."""
    import orbax.checkpoint as ocp

    folder = _checkpoint_in(path)
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        try:
            item = checkpointer.metadata(folder).item_metadata
            args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item.tree)
            tree = checkpointer.restore(folder, restore_args=args)
        except (ValueError, KeyError, AttributeError, FileNotFoundError) as error:
            what = " ".join(f"{type(error).__name__} {error}".split())[:200]
            raise ValueError(
                f"expected an Orbax checkpoint in {folder}, found that it cannot be read ({what}); "
                "give the directory that was saved"
            ) from error
    return leaves.by_path(tree)


def _checkpoint_in(path: Path) -> Path:
    """The directory of the tree: `path`, or the item of the last step of a `CheckpointManager`."""
    steps = sorted(int(each.name) for each in path.iterdir() if each.name.isdigit())
    if steps:
        path = path / str(steps[-1])
    return path / "default" if (path / "default").is_dir() else path


def _with_collection(found: dict[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The leaves as parameters, if the source holds parameters alone and the model more."""
    first = next(iter(wanted)).split("/")[0]
    if first in {name.split("/")[0] for name in found} or "params" not in _collections(wanted):
        return found
    return {f"params/{name}": leaf for name, leaf in found.items()}


def _types(found: Mapping[str, Any]) -> dict[str, Any]:
    """The types that JAX gives to the leaves; text beside them has none."""
    types = {}
    for name, leaf in found.items():
        with contextlib.suppress(TypeError):
            types[name] = jax.typeof(leaf)
    return types


def _collections(names: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.split("/")[0] for name in names))
