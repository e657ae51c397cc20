"""Read a decoder from a checkpoint, tensor by tensor, onto a mesh."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from mu_jax import _progress
from mu_jax._gguf import is_gguf, open_gguf
from mu_jax.data.axes import Axis, axis_names, check_axis
from mu_jax.mesh.params import Rules, param_shardings
from mu_jax.mesh.shards import on_automatic_axes
from mu_jax.model import Variables
from mu_jax.models.decoder._gguf_tensors import GgufTensors
from mu_jax.models.decoder._tensors import DTYPES, Source, Tensors, local_directory
from mu_jax.models.decoder.blocks import frequencies
from mu_jax.models.decoder.config import DecoderConfig
from mu_jax.models.decoder.decoder import Decoder
from mu_jax.models.decoder.layout import Leaf, at, build, tensor_names
from mu_jax.models.decoder.sharding import sharding_rules

PyTree = Any
Index = tuple[slice, ...]

_FREQUENCIES = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")
_HEAD, _TABLE = "lm_head.weight", "model.embed_tokens.weight"


def read_decoder(
    directory: str | os.PathLike[str],
    *,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    axis: Axis = "fsdp",
    rules: Rules | None = None,
    rows: Axis | None = None,
    scan_layers: bool = False,
    remat: bool = False,
    compute_dtype: DTypeLike | None = None,
    ignore: tuple[str, ...] = (),
) -> tuple[Decoder, Variables]:
    """A decoder and its variables from a local checkpoint: a directory or a GGUF file.

    The directory holds `config.json` (see `DecoderConfig.read`) and `model.safetensors`, or the
    files that `model.safetensors.index.json` names. Every tensor is used once: nothing is made
    before all names, shapes and types have been found right. A head that is stored although it is
    tied, and stored rotary frequencies, must equal what they are made from.

    A file `*.gguf` of llama.cpp is read in its place, Llama, Qwen 2.5 or Qwen 3, in full precision
    or in any quantization that the package `gguf` dequantizes. The parameters are the numbers that
    the file stands for, float32 where it is quantized.

    Args:
      directory: a local path; of a GGUF file, the file's own.
      dtype: of the parameters; default: as they are stored, float64 as float32 unless that is on.
      mesh: where the parameters are divided; None puts them on the default device.
      axis, rules: see `mu.param_shardings`; by default `sharding_rules(axis)`.
      rows: axes of the mesh over which the rows of batches are divided, for `Decoder.rows`;
        default: those of `("data", axis)` that the mesh has.
      scan_layers, remat: see `Decoder`.
      compute_dtype: type of the computation, `Decoder.dtype`.
      ignore: see `DecoderConfig.read`.

    Returns:
      `(decoder, variables)`.

    Raises:
      FileNotFoundError: no such directory or file, `config.json` or safetensors.
      ValueError: a config that is refused, a damaged file; a tensor that is missing, unknown, or of
        another shape, type or quantization, named.
      ModuleNotFoundError: without the extra `lm`, or `gguf` for such a file.

    Cost: reads the files once; of several processes each reads the parts of its devices. The host
    holds one tensor at a time.
    """
    path = local_directory(directory)
    if not is_gguf(path) and not path.is_dir():
        raise FileNotFoundError(f"expected a directory of a checkpoint, found none at {path}")
    config = DecoderConfig.read(path, ignore=ignore)
    where = None if mesh is None else _rows(mesh, axis, rows)
    decoder = Decoder(config, scan_layers, remat, compute_dtype, where)
    tensors = GgufTensors(open_gguf(path), config) if is_gguf(path) else Tensors(path)
    _check(config, tensors)
    kinds = _shapes(decoder, tensors, dtype)
    if mesh is None:
        places = jax.tree.map(lambda _: None, kinds)
    else:
        rules = sharding_rules(axis) if rules is None else rules
        places = param_shardings(kinds, mesh, axis=axis, rules=rules)
    return decoder, Variables(_filled(decoder, tensors, kinds, places))


def _rows(mesh: Mesh, axis: Axis, rows: Axis | None) -> NamedSharding:
    check_axis(mesh, axis if rows is None else rows)
    usual = dict.fromkeys(("data", *axis_names(axis)))
    found = tuple(name for name in usual if name in mesh.shape) if rows is None else rows
    return NamedSharding(mesh, PartitionSpec(found))


def _check(config: DecoderConfig, tensors: Source) -> None:
    """Refuse names, shapes and types that are not those of the config."""
    wanted = tensor_names(config)
    for name in wanted:
        if name not in tensors:
            raise ValueError(
                f"expected a tensor {tensors.named(name)} in {tensors.where}, found none; give a "
                f"whole checkpoint of {config.depth} blocks"
            )
    for name in tensors:
        if name in wanted:
            _check_kind(tensors, name, wanted[name].stored_shape)
        elif name == _HEAD:
            _require_equal_head(tensors)
        elif _FREQUENCIES.fullmatch(name):
            _require_frequencies(config, tensors, name)
        else:
            raise ValueError(
                f"expected the tensors of a {config.kind} of {config.depth} blocks in "
                f"{tensors.where}, found {tensors.named(name)} too, which it does not have; "
                f"{tensors.sizes} may be of another model"
            )


def _check_kind(tensors: Source, name: str, shape: tuple[int, ...]) -> None:
    found, dtype = tensors.kind(name)
    name = tensors.named(name)
    if found != shape:
        raise ValueError(
            f"expected {name} of shape {shape}, as {tensors.sizes} says, found {found}"
        )
    if dtype not in DTYPES.values():
        raise ValueError(
            f"expected {name} of a type among {', '.join(DTYPES.values())}, found {dtype}; "
            "dequantize the checkpoint first"
        )


def _require_equal_head(tensors: Source) -> None:
    shape, _ = tensors.kind(_TABLE)
    same = tensors.kind(_HEAD) == tensors.kind(_TABLE)
    step = max(1, 2**24 // shape[1])
    for start in range(0, shape[0], step) if same else ():
        rows = (slice(start, min(start + step, shape[0])),)
        same = same and np.array_equal(tensors.read(_HEAD, rows), tensors.read(_TABLE, rows))
    if not same:
        raise ValueError(
            f"expected a head that is the table of embeddings, as tie_word_embeddings says, found "
            f"another {_HEAD}; set tie_word_embeddings to false if the head was trained apart"
        )


def _require_frequencies(config: DecoderConfig, tensors: Source, name: str) -> None:
    wanted, found = frequencies(config), tensors.read(name, ()).astype(np.float32)
    if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-2, atol=1e-6):
        raise ValueError(
            f"expected {name} to be the rotary frequencies that config.json gives, found others; "
            "correct rope_theta"
        )


def _shapes(decoder: Decoder, tensors: Source, dtype: DTypeLike | None) -> PyTree:
    """The tree of parameters as shapes and types."""

    def kind(shape: tuple[int, ...], names: list[str]) -> jax.ShapeDtypeStruct:
        stored = [jnp.dtype(tensors.kind(name)[1]) for name in names]
        found = functools.reduce(jnp.promote_types, stored) if dtype is None else dtype
        return jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(found))

    def stacked(leaf: Leaf) -> jax.ShapeDtypeStruct:
        depth = decoder.config.depth
        return kind((depth, *leaf.shape), [leaf.tensor.format(k) for k in range(depth)])

    return build(
        decoder.config,
        scan_layers=decoder.scan_layers,
        one=lambda leaf, block: kind(leaf.shape, [leaf.tensor.format(block)]),
        stacked=stacked,
    )


def _filled(decoder: Decoder, tensors: Source, kinds: PyTree, places: PyTree) -> PyTree:
    """The tree of parameters, read one tensor after another."""

    def one(leaf: Leaf, block: int | None) -> jax.Array:
        inside = () if block is None else (f"block_{block}",)
        kind, place = (at(tree, *inside, leaf.path) for tree in (kinds, places))
        found = _placed(_reader(tensors, leaf, block, kind.dtype), kind, place)
        reading.step()
        return found

    def stacked(leaf: Leaf) -> jax.Array:
        kind, place = (at(tree, "blocks", leaf.path) for tree in (kinds, places))
        return _stacked(tensors, leaf, kind, place, reading)

    with _progress.work("read", len(tensor_names(decoder.config)), "tensor") as reading:
        return build(decoder.config, scan_layers=decoder.scan_layers, one=one, stacked=stacked)


def _reader(
    tensors: Source, leaf: Leaf, block: int | None, dtype: Any
) -> Callable[[Index], np.ndarray]:
    """`index of the leaf -> entries`, of one tensor."""
    name = leaf.tensor.format(block)

    def read(index: Index) -> np.ndarray:
        part = tensors.read(name, index[::-1] if leaf.is_kernel else index)
        return np.ascontiguousarray((part.T if leaf.is_kernel else part).astype(dtype, copy=False))

    return read


def _placed(
    read: Callable[[Index], np.ndarray], kind: jax.ShapeDtypeStruct, place: NamedSharding | None
) -> jax.Array:
    if place is None:
        return jnp.asarray(read((slice(None),) * len(kind.shape)))
    return jax.make_array_from_callback(kind.shape, place, lambda index: read(index or ()))


def _stacked(
    tensors: Source,
    leaf: Leaf,
    kind: jax.ShapeDtypeStruct,
    place: NamedSharding | None,
    reading: _progress.Work,
) -> jax.Array:
    """The tensors of all blocks in one array, of which the host holds one at a time."""
    inside = place and NamedSharding(place.mesh, PartitionSpec(*place.spec[1:]))
    found = jax.jit(lambda: jnp.zeros(kind.shape, kind.dtype), out_shardings=place)()
    for block in range(kind.shape[0]):
        read = _reader(tensors, leaf, block, kind.dtype)
        one = _placed(read, jax.ShapeDtypeStruct(leaf.shape, kind.dtype), inside)
        found = _put(found, one, block)
        reading.step()
    return found


@functools.partial(jax.jit, donate_argnums=0)
def _put(stack: jax.Array, one: jax.Array, block: int) -> jax.Array:
    def put(stack, one, block):
        return jax.lax.dynamic_update_index_in_dim(stack, one, block, 0)

    return on_automatic_axes(put, stack, one, block, like=stack)
