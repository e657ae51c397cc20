"""What a store says of a version beside its arrays: its record, and the sentences on it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.data import ids
from mu_jax.store import commits
from mu_jax.store.leaves import Packed


class Version(NamedTuple):
    """The record of one published version.

    Attributes:
        version: number, from 1 upwards, never given twice.
        parent: version it was made from, or None for a model trained from scratch.
        method: how it was made, such as `"ssd"`.
        hyperparameters: of the method.
        forget_digest: digest of the forget set, or None where nothing was forgotten.
        metrics: measured before it was published.
        note: free text.
        created: UTC time, ISO 8601.
        serving: whether the serving pointer is on it.
        restorable: False once `Store.prune` has deleted its arrays.
        num_forgotten: how many ids its lineage has forgotten, see `Store.forgotten`; None where
            only digests of them were kept.
        withheld: why it is for inspection and should not serve; empty if it may.
        identity: digest of everything that decides its result, or None.
        ids_digest: of the table of people's ids with which its lineage began, or None.
    """

    version: int
    parent: int | None
    method: str
    hyperparameters: dict[str, Any]
    forget_digest: str | None
    metrics: dict[str, Any]
    note: str
    created: str
    serving: bool
    restorable: bool
    num_forgotten: int | None = None
    withheld: str = ""
    identity: str | None = None
    ids_digest: str | None = None


def new_record(forgotten: np.ndarray, **fields: Any) -> dict[str, Any]:
    """The record of a version to be written: `fields` of `Version` that JSON can hold.

    Args:
        forgotten: ids that this version has forgotten and its parent has not.

    Raises:
        ValueError: JSON cannot hold a field.
    """
    for name in ("hyperparameters", "metrics"):
        fields[name] = commits.as_json(dict(fields[name] or {}), name)
    fields["forget_digest"] = fields["forget_digest"] or (
        ids.digest(forgotten) if forgotten.size else None
    )
    return commits.as_json({**fields, "created": now()}, "a record")


def now() -> str:
    """The time as records have it."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def as_version(
    number: int, record: Mapping[str, Any], *, serving: int | None, restorable: bool
) -> Version:
    """The record as it was stored, by this version of the library or an earlier one."""
    known = {name: record[name] for name in Version._fields if name in record}
    return Version(version=number, **known, serving=number == serving, restorable=restorable)


def require_finite(packed: Packed) -> None:
    """Refuse arrays that are not finite; collective, so that several hosts refuse together."""
    finite = {}
    for name, array in packed.arrays.items():
        if jnp.issubdtype(array.dtype, jnp.inexact):
            here = not isinstance(array, jax.Array) or array.is_fully_addressable
            finite[name] = np.isfinite(np.asarray(array)) if here else jnp.isfinite(array)
    for name, mask in finite.items():
        if not bool(mask.all()):
            raise ValueError(
                f"expected finite variables, found NaN or infinity at {name!r}; nothing was "
                "published, look for divergence in the run that made them"
            )


def named(version: int) -> str:
    """A version as words of a sentence; 0 is none."""
    return f"version {version}" if version else "no version"


def listed(versions: list[int]) -> str:
    """Versions as words of a sentence."""
    return f"versions {', '.join(map(str, versions))}" if versions else "no version"
