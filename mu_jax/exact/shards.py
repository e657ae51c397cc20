"""Which rows belong to which shard and slice, as functions of their ids and a key alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mu_jax import _at_once as at_once
from mu_jax import _target as target
from mu_jax.data import ids
from mu_jax.data.batches import Batches, is_concrete
from mu_jax.data.blocks import at_least
from mu_jax.data.counted import Counted
from mu_jax.data.forget_retain import real_ids
from mu_jax.ensembles.training import Layout

PyTree = Any
Placement = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Rows(NamedTuple):
    """The rows of a lineage by shard: who they are, and where their slices end.

    Attributes:
      index: i32[S, capacity], the ids in each shard, ordered by slice and then by id; 0 in the
        places that are free.
      counts: i32[S, R], how many of them are in each slice.
    """

    index: np.ndarray  # type: ignore[assignment]
    counts: np.ndarray

    @property
    def ids(self) -> np.ndarray:
        """All ids, int64 [n], sorted."""
        used = np.arange(self.index.shape[1]) < self.counts.sum(axis=1, keepdims=True)
        return np.sort(self.index[used]).astype(np.int64)

    def shard(self, number: int, slices: Any) -> np.ndarray:
        """The ids in some slices of a shard, in the order of the slices."""
        ends = np.cumsum(self.counts[number])
        parts = [self.index[number, ends[k] - self.counts[number, k] : ends[k]] for k in slices]
        return np.concatenate(parts) if parts else np.zeros(0, self.index.dtype)

    def without(self, forgotten: np.ndarray) -> Rows:
        """The rows that are left; each stays in its slice, whatever a placement would say now."""
        laid, counts = np.zeros_like(self.index), np.zeros_like(self.counts)
        for number, before in enumerate(self.counts):
            own, piece = self.shard(number, range(before.size)), np.arange(before.size)
            kept = ~np.isin(own, forgotten)
            laid[number, : kept.sum()] = own[kept]
            counts[number] = np.bincount(np.repeat(piece, before)[kept], minlength=before.size)
        return Rows(laid, counts)


class Examples(NamedTuple):
    """The examples by shard, as `Batches` has them: leaves [S, capacity, ...]."""

    inputs: PyTree
    targets: PyTree
    weight: jax.Array
    index: Any  # type: ignore[assignment]


def random_places(key: jax.Array, index: np.ndarray, shards: int, slices: int) -> Any:
    """A shard and a slice for every id, drawn by `fold_in(key, id)`: i32[n] each."""
    filled = np.zeros(at_least(256, index.size), np.int32)  # one program for many numbers of ids
    filled[: index.size] = index
    drawn = np.asarray(_drawn(key, filled))[: index.size]
    return (drawn[:, 0] % shards).astype(np.int32), (drawn[:, 1] % slices).astype(np.int32)


@jax.jit
def _drawn(key: jax.Array, index: jax.Array) -> jax.Array:
    return jax.vmap(lambda one: jax.random.bits(jax.random.fold_in(key, one), (2,)))(index)


def placed(
    index: np.ndarray,
    places: tuple[Any, Any],
    sizes: tuple[int, int],
    capacity: int | None,
    *,
    least: int,
) -> Rows:
    """Lay out ids whose shards and slices are known.

    Args:
      index: int [n], each id once. places: the shard and the slice of each.
      sizes: how many shards there are, and slices in each.
      capacity: room in every shard; None for a power of two that holds the largest one.
      least: room that there is in any case.

    Raises:
      ValueError: places that are not there, or a shard with more rows than its room.
    """
    (shards, slices), (shard, piece) = sizes, map(np.asarray, places)
    for name, found, most in (("shards", shard, shards), ("slices", piece, slices)):
        whole = np.issubdtype(found.dtype, np.integer) and found.shape == index.shape
        if not whole or found.min(initial=0) < 0 or found.max(initial=0) >= most:
            raise ValueError(
                f"expected {name} from 0 to {most - 1}, one for each of {index.size} ids, found "
                f"{found.dtype}{list(found.shape)} up to {found.max(initial=0)}: mend `placement`"
            )
    counts = np.zeros((shards, slices), np.int32)
    np.add.at(counts, (shard, piece), 1)
    largest = int(counts.sum(axis=1).max(initial=0))
    room = max(at_least(1, largest) if capacity is None else capacity, least)
    if largest > room:
        raise ValueError(
            f"expected shards of at most {room} rows, the given capacity, found one of {largest}: "
            "raise the capacity, or use more shards"
        )
    laid = np.zeros((shards, room), np.int32)
    order = np.lexsort((index, piece, shard))
    start = np.cumsum(counts.sum(axis=1)) - counts.sum(axis=1)
    laid[shard[order], np.arange(index.size) - start[shard[order]]] = index[order]
    return Rows(laid, counts)


def laid_out(protocol: Any, key: jax.Array, index: np.ndarray) -> Rows:
    """Lay out ids by the placement of a protocol, or as the key draws them."""
    sizes = protocol.shards, protocol.slices
    if protocol.placement is None:
        places = random_places(jax.random.fold_in(key, 0), index, *sizes)
    else:
        places = protocol.placement(index)
    return placed(index, places, sizes, protocol.capacity, least=protocol.batch_size)


def no_rows(protocol: Any) -> Rows:
    """The rows of a lineage that holds none, in the shapes of others.

    Raises:
      ValueError: the protocol has no capacity.
    """
    if protocol.capacity is None:
        raise ValueError(
            "expected a protocol with a capacity, found one whose room follows the rows: give "
            "`capacity`, or take a lineage itself as `like`"
        )
    nobody = np.zeros(0, np.int64)
    sizes = protocol.shards, protocol.slices
    return placed(nobody, (nobody, nobody), sizes, protocol.capacity, least=protocol.batch_size)


def gathered(data: Batches, rows: Rows, mesh: Any, axis: str) -> Examples:
    """The examples by shard; free places hold zeros. Each device of a mesh gets its shards."""
    order = np.argsort(np.asarray(data.index), kind="stable")
    place = np.searchsorted(np.asarray(data.index)[order], rows.index)
    place = order[np.minimum(place, order.size - 1)]
    used = np.arange(rows.index.shape[1]) < rows.counts.sum(axis=1, keepdims=True)

    def take(array):
        found = np.asarray(array)[place]
        found[~used] = 0
        return found

    inputs, targets, weight = jax.tree.map(take, (data.inputs, data.targets, data.weight))
    found = Examples(inputs, targets, weight, rows.index)
    return on_mesh(found, mesh, axis)


def in_use(examples: Examples, count: jax.Array, batch_size: int) -> Counted:
    """The first `count` rows of a shard as batches; at least one, of which no step may be taken."""
    inputs, targets, weight, index = examples
    count = jax.numpy.maximum(count, 1)
    return Counted(inputs, targets, weight, index, batch_size, count=count)


def on_mesh(tree: PyTree, mesh: Any, axis: str) -> PyTree:
    """The leaves as arrays whose leading axis is divided over a mesh; anywhere without one."""
    return jax.device_put(tree, None if mesh is None else NamedSharding(mesh, PartitionSpec(axis)))


def rows_of(data: Any) -> np.ndarray:
    """The ids of a set that owns its training, int64 [n].

    Raises:
      TypeError: a set that is not in memory, or not there yet.
      ValueError: an id that is there twice.
    """
    if not isinstance(data, Batches) or not is_concrete(data.index):
        raise TypeError(
            f"expected known Batches, found {type(data).__name__}: give arrays by mu.batches, "
            "outside jit"
        )
    index = np.asarray(real_ids(data)).astype(np.int64)
    refuse_twice(index)
    return index


def refuse_twice(index: np.ndarray) -> None:
    """Refuse an id that is named twice."""
    unique, times = np.unique(index, return_counts=True)
    if unique.size != index.size:
        raise ValueError(
            f"expected every id once, found {index.size - unique.size} named again (first: id "
            f"{unique[times > 1][0]}): name each row once"
        )


def left_after(held: Rows, forget: Any, retain: Any) -> Rows:
    """The rows that a lineage holds after a request.

    Raises:
      ValueError: an id to forget that the lineage does not hold, a retain set with other rows than
        those of the lineage, or without some of them.
    """
    known, wanted, kept = held.ids, rows_of(forget), rows_of(retain)
    refuse_twice(np.concatenate([wanted, kept]))
    strange = np.setdiff1d(wanted, known)
    if strange.size:
        raise ValueError(
            f"expected ids to forget that the lineage holds, found {strange.size} unknown or "
            f"forgotten already (first: id {strange[0]}): leave them out of the request"
        )
    back = np.setdiff1d(kept, known)
    if back.size:
        raise ValueError(
            f"expected rows of the lineage to retain, found {back.size} others (first: id "
            f"{back[0]}): what was forgotten never returns, and new rows need a new training"
        )
    lost = np.setdiff1d(known, np.concatenate([wanted, kept]))
    if lost.size:
        raise ValueError(
            f"expected every other row of the lineage in the retain set, found {lost.size} missing "
            f"(first: id {lost[0]}): add them, or name them in the request"
        )
    return held.without(wanted)


def digest(recipe: str, *parts: Any) -> np.ndarray:
    """SHA-256 of a recipe and of what a checkpoint has seen, u8[32].

    Args:
      recipe: its digest, see `mu.store.config_digest`.
      *parts: numbers and texts, and at the end the ids that were seen, in any order.
    """
    *numbers, seen = parts
    text = "/".join(map(str, (recipe, *numbers, ids.digest(np.asarray(seen)))))
    return np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)


def key_words(key: jax.Array) -> list[int]:
    """The numbers of a key, for a digest."""
    typed = jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(key) if typed else key).tolist()


def refuse_traced(*trees: PyTree) -> None:
    """Refuse what is not known yet: which rows are touched is decided on the host."""
    if not at_once.is_known(trees):
        raise TypeError(
            "expected known arrays, found traced ones: call exact unlearning outside jit and vmap, "
            "its stages are compiled all the same"
        )


def refuse_uneven(shards: int, mesh: Any, axis: str) -> None:
    """Refuse shards that do not divide over the devices of a mesh."""
    if mesh is not None and shards % mesh.shape[axis]:
        raise ValueError(
            f"expected shards that divide over {mesh.shape[axis]} devices, found {shards}: use a "
            "multiple"
        )


def default_layout() -> Layout:
    """One model after another on a CPU, where a model that is idle costs as much as one at work."""
    return "one_by_one" if target.platform() == "cpu" else "together"
