"""Write a decoder as a checkpoint that transformers opens."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mu_jax import _files as files
from mu_jax import _progress
from mu_jax._gguf import is_gguf, open_gguf
from mu_jax._gguf_tokenizer import tokenizer_files
from mu_jax.model import Variables, path_name
from mu_jax.models.decoder._checks import check_params
from mu_jax.models.decoder._tensors import DTYPES, SINGLE, local_directory
from mu_jax.models.decoder.decoder import Decoder
from mu_jax.models.decoder.layout import Leaf, at, block_leaves, outer_leaves

PyTree = Any

# What lies beside the weights and has no numbers of the model in it.
# fmt: off
_BESIDE = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja", "chat_template.json",
    "generation_config.json",
)
# fmt: on


def write_decoder(
    directory: str | os.PathLike[str],
    decoder: Decoder,
    variables: Variables,
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    dtype: DTypeLike | None = None,
) -> Path:
    """Write `model.safetensors` and `config.json`, which transformers and `read_decoder` open.

    The directory appears whole or not at all: everything is written beside it, put on stable
    storage and then renamed. It must be new or empty.

    Args:
      directory: a local path; of several processes on a file system that they share.
      decoder, variables: what is written.
      tokenizer: a directory, such as that the decoder was read from, whose tokenizer, chat template
        and generation settings are copied; or a GGUF file, whose tokenizer and chat template are
        written as `tokenizer.json` and `tokenizer_config.json`. None writes none.
      dtype: of the written tensors; default: as the parameters are.

    Returns:
      The absolute path.

    Raises:
      FileExistsError: there is something at the path.
      FileNotFoundError: no tokenizer in the directory that is named for it.
      ValueError: parameters of another shape or type than the decoder has, or not finite; named.

    Cost: one pass over the parameters. The host holds one tensor at a time; several processes each
    gather it.
    """
    path = local_directory(directory)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"expected nothing at {path}, found something; give a new directory")
    if not isinstance(variables, Variables):
        raise TypeError(
            f"expected mu.Variables of the decoder, found {type(variables).__name__}: pass "
            "mu.Variables(params)"
        )
    check_params(decoder, variables.params)
    beside = _beside(tokenizer)
    header, tensors = _header(decoder, variables.params, dtype)
    _synchronize(path)  # nothing appears there before every process has looked
    if jax.process_index() != 0:
        for _ in _arrays(tensors, dtype):  # every process takes part where a tensor is gathered
            pass
    else:
        files.make_directory(path.parent)
        with files.working_folder(path.parent, f".{path.name}.") as scratch:
            staged = scratch / "checkpoint"
            staged.mkdir()
            _write_files(staged, decoder, header, tensors, dtype, beside)
            os.replace(staged, path)
            files.fsync(path.parent)
    _synchronize(path)
    return path


def _beside(tokenizer: str | os.PathLike[str] | None) -> dict[str, bytes]:
    """What is written beside the weights, by name."""
    if tokenizer is None:
        return {}
    folder = local_directory(tokenizer)
    if is_gguf(folder):
        made = tokenizer_files(open_gguf(folder))
        return {name: text.encode() for name, text in made.items()}
    found = [folder / name for name in _BESIDE if (folder / name).is_file()]
    if not any(path.name.startswith("tokenizer.") for path in found):
        raise FileNotFoundError(
            f"expected tokenizer.json or tokenizer.model in {folder}, found neither; pass "
            "tokenizer=None to write none"
        )
    return {path.name: path.read_bytes() for path in found}


def _write_files(
    folder: Path, decoder: Decoder, header: bytes, tensors: list, dtype: Any, beside: dict
) -> None:
    with open(folder / SINGLE, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for array in _progress.each(_arrays(tensors, dtype), "write", "tensor", total=len(tensors)):
            file.write(array.reshape(-1).view(np.uint8).data)
    kinds = [jnp.dtype(dtype or array.dtype) for _, _, array, _ in tensors]
    widest = functools.reduce(jnp.promote_types, kinds)
    config = decoder.config.as_json() | {"torch_dtype": str(widest)}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    for name, content in beside.items():
        (folder / name).write_bytes(content)
    for path in folder.iterdir():
        files.fsync(path)
    files.fsync(folder)


def _header(decoder: Decoder, params: PyTree, dtype: Any) -> tuple[bytes, list]:
    """The head of a safetensors file, and the tensors in their order.

    A file is the length of the head (8 bytes, little-endian), the head (JSON, filled up with
    spaces to a multiple of 8), and the tensors one behind the other, in rows.
    """
    codes = {name: code for code, name in DTYPES.items()}
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start, tensors = 0, list(_entries(decoder, params))
    _require_no_more(decoder, params)
    for name, leaf, array, _ in tensors:
        kind = np.dtype(dtype or array.dtype)
        if str(kind) not in codes:
            raise ValueError(f"expected {name} of a floating type, found {kind}; cast it first")
        stop = start + math.prod(leaf.shape) * kind.itemsize
        head[name] = {
            "dtype": codes[str(kind)],
            "shape": list(leaf.stored_shape),
            "data_offsets": [start, stop],
        }
        start = stop
    text = json.dumps(head).encode()
    return text + b" " * (-len(text) % 8), tensors


def _entries(decoder: Decoder, params: PyTree) -> Iterator[tuple[str, Leaf, Any, int | None]]:
    """`(name, leaf, array, block of the array's leading axis or None)` of every tensor."""
    for leaf in outer_leaves(decoder.config):
        yield leaf.tensor, leaf, _checked(params, leaf.path, leaf.shape), None
    depth = decoder.config.depth
    for block in range(depth):
        for leaf in block_leaves(decoder.config):
            folder, lead = ("blocks", (depth,)) if decoder.scan_layers else (f"block_{block}", ())
            array = _checked(params, f"{folder}/{leaf.path}", (*lead, *leaf.shape))
            yield leaf.tensor.format(block), leaf, array, block if lead else None


def _require_no_more(decoder: Decoder, params: PyTree) -> None:
    """Refuse a parameter that has no tensor, such as of an adapter."""
    wanted = jax.eval_shape(decoder.init, jax.random.key(0)).params
    known, found = (
        {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
        for tree in (wanted, params)
    )
    for name in sorted(found - known):
        raise ValueError(
            f"expected the parameters of a {decoder.config.kind}, found {name} too, which no "
            "checkpoint of it has: merge adapters first"
        )


def _checked(params: PyTree, path: str, shape: tuple[int, ...]) -> Any:
    try:
        array = at(params, path)
    except (KeyError, TypeError):
        raise ValueError(f"expected a parameter {path}, found none: pass all of them") from None
    if jnp.shape(array) != shape:
        raise ValueError(f"expected {path} of shape {shape}, found {jnp.shape(array)}")
    return array


def _arrays(tensors: list, dtype: Any) -> Iterator[np.ndarray]:
    """The tensors as a checkpoint keeps them, whole on the host, one after another."""
    for name, leaf, array, block in tensors:
        whole = _whole(array if block is None else array[block])
        whole = whole.astype(dtype or whole.dtype, copy=False)
        if not np.isfinite(whole).all():
            raise ValueError(f"expected finite numbers in {name}, found others; nothing is written")
        yield np.ascontiguousarray(whole.T if leaf.is_kernel else whole)


def _whole(array: Any) -> np.ndarray:
    if getattr(array, "is_fully_addressable", True):
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _synchronize(path: Path) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(f"mu_jax.models.decoder.write {path}")
