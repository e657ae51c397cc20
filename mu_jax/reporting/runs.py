"""A run on disk: records as JSON lines, and beside them one file of the arrays behind them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import jax
import numpy as np

from mu_jax import _files as files
from mu_jax import _named_arrays as named_arrays
from mu_jax.reporting.arrays import (
    Arrays,
    Curve,
    Edits,
    Examples,
    Histogram,
    Run,
    Shown,
    Similarity,
)
from mu_jax.reporting.json_lines import read, to_json
from mu_jax.reporting.records import Record

WHAT = "arrays of a run"
KEY = "examples"  # under which `Record.arrays` names the file
_SAFE = " :;=+,.()[]'!@&$#~"  # of names in keys; the slash parts them
_TYPES = {"examples": Examples, "similarity": Similarity, "edits": Edits, "ratios": Histogram}
_TYPES |= {"relearning": Curve, "shown": Shown}
_DEPTHS = {"examples": 2, "similarity": 2, "edits": 1, "ratios": 1, "relearning": 1, "shown": 0}
_TREES = ("targets", "predictions")


def write_run(path: str | os.PathLike[str], run: Run) -> None:
    """Write the records of a run as JSON lines, and its arrays to an `.npz` file beside them.

    The arrays of `results.jsonl` lie in `results.npz` under `forget set/group/row/set/field`, such
    as `class 3/examples/ssd/forget/losses`, compressed; other signs of names than letters, digits
    and usual ones are written as in web addresses. Every record names that file, and the digest of
    the run as its `config_hash` where it has none. Each file is written whole or not at all, the
    arrays first, in place of what was there. Without arrays there is no second file.

    Args:
        path: a file that ends in `.jsonl`.
        run: records, arrays by `ForgetSet.kind`, digest.

    Raises:
        ValueError: another ending, hyper-parameters that JSON cannot hold, or an array of objects;
            nothing is then written.

    Example:
        >>> import tempfile
        >>> from mu_jax.reporting import ForgetSet
        >>> losses = Examples(np.arange(2), np.array([1, 0]), np.ones((1, 2)), None, None)
        >>> arrays = {"class 3": Arrays({"ssd": {"forget": losses}})}
        >>> path = Path(tempfile.mkdtemp()) / "results.jsonl"
        >>> write_run(path, Run((Record("ssd", ForgetSet("class 3", 2), seed=0),), arrays, "1f"))
        >>> found = read_run(path)
        >>> found.records[0].arrays, found.digest
        ({'examples': 'results.npz'}, '1f')
        >>> found.arrays["class 3"].examples["ssd"]["forget"].losses.tolist()
        [[1.0, 1.0]]
    """
    target = files.absolute(path)
    if target.suffix != ".jsonl":
        raise ValueError(
            f"expected a path that ends in .jsonl, found {target}: the arrays go to an .npz file "
            "of the same name"
        )
    beside = target.with_suffix(".npz")
    names = {KEY: beside.name} if run.arrays else {}
    records = [_naming(record, names, run.digest) for record in run.records]
    lines = "".join(to_json(record) + "\n" for record in records)
    if run.arrays:
        flat = _flat(run.arrays)
        said = {"digest": np.array(run.digest), "number": np.array(len(flat))}
        named_arrays.save(beside, WHAT, said | flat, compress=True)
    files.replace_text(target, lines)


def read_run(path: str | os.PathLike[str]) -> Run:
    """The records of a file, and the arrays that they name.

    Targets and predictions that are trees come back as dictionaries of arrays by their path. Of
    records that name several files, the arrays of all of them; the digest is then "" where these
    differ.

    Args:
        path: the JSON lines, as `write_run`, `append` and every binary write them.

    Raises:
        FileNotFoundError: no such file, or none of the arrays that a record names.
        ValueError: a line that is no record; a file of arrays that is damaged, another one, or of
            another run than the records.
    """
    path = files.absolute(path)
    records = read(path)
    arrays: dict[str, Arrays] = {}
    digests = {record.config_hash for record in records if KEY not in record.arrays}
    for name in dict.fromkeys(r.arrays[KEY] for r in records if KEY in r.arrays):
        digest, found = _read_arrays(path.parent / name)
        said = {r.config_hash for r in records if r.arrays.get(KEY) == name} - {""}
        if digest and said - {digest}:
            raise ValueError(
                f"expected the arrays of {path} in {name}, found those of a run of another "
                "configuration, which has replaced them or was stopped: repeat the run"
            )
        arrays |= found
        digests.add(digest)
    return Run(tuple(records), arrays, digests.pop() if len(digests) == 1 else "")


def _naming(record: Record, names: Mapping[str, str], digest: str) -> Record:
    kept = {name: value for name, value in record.arrays.items() if name != KEY}
    return dataclasses.replace(
        record, arrays={**kept, **names}, config_hash=record.config_hash or digest
    )


def _read_arrays(path: Path) -> tuple[str, dict[str, Arrays]]:
    try:
        with named_arrays.load(path, WHAT, "repeat the run that wrote it") as flat:
            digest, number = str(flat.pop("digest")), int(flat.pop("number"))
            if number != len(flat):
                raise ValueError("some arrays are not in the list of the file")
            return digest, {unquote(kind): _arrays(groups) for kind, groups in _nested(flat)}
    except FileNotFoundError:
        raise FileNotFoundError(
            f"expected the arrays that the records name at {path}, found none: keep the file "
            "beside the records, or repeat the run"
        ) from None


def _flat(arrays: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for kind, one in arrays.items():
        for group, depth in _DEPTHS.items():
            for names, value in _leaves(getattr(one, group), depth):
                for field, part in value._asdict().items():
                    found |= _named((kind, group, *names, field), part)
        for name, value in one.others.items():
            found |= _named((kind, "others", name), value)
    return found


def _leaves(tree: Any, depth: int) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The tuples of a group with their names; none of a group that is not there."""
    if depth:
        for name, below in tree.items():
            yield from (((name, *names), value) for names, value in _leaves(below, depth - 1))
    elif tree is not None:
        yield (), tree


def _named(names: Sequence[str], value: Any) -> dict[str, np.ndarray]:
    """The arrays of a field by key, each leaf of a tree by its path; None has none."""
    if names[-1] not in _TREES:
        return {} if value is None else {_key(names): _plain(names, value)}
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(value):
        tail = jax.tree_util.keystr(path, simple=True, separator="/")
        found[_key([*names, *([tail] if tail else [])])] = _plain(names, leaf)
    return found


def _key(names: Sequence[str]) -> str:
    return "/".join(quote(name, safe=_SAFE) for name in names)


def _plain(names: Sequence[str], value: Any) -> np.ndarray:
    """The array with a type that the file can hold."""
    found = np.asarray(value)
    if found.dtype.kind == "V":  # bfloat16 and the like
        found = np.asarray(found, np.float32)
    if found.dtype.hasobject:
        raise ValueError(
            f"expected numbers or texts for {'/'.join(names)}, found an array of objects: give "
            "arrays of one type"
        )
    return found


def _nested(flat: Mapping[str, np.ndarray]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The arrays as dictionaries in one another, by the parts of their keys."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *above, last = key.split("/")
        place = tree
        for name in above:
            place = _below(place.setdefault(name, {}))
        place[last] = value
    yield from ((kind, _below(groups)) for kind, groups in tree.items())


def _below(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("an array where names were expected")
    return value


def _arrays(groups: Mapping[str, Any]) -> Arrays:
    known = {
        group: _made(_TYPES[group], _below(groups.get(group, {})), depth)
        for group, depth in _DEPTHS.items()
        if depth or group in groups
    }
    others = {unquote(name): value for name, value in _below(groups.get("others", {})).items()}
    return Arrays(**known, others=others)


def _made(cls: Any, tree: Mapping[str, Any], depth: int) -> Any:
    """The tuples of a group; KeyError where one lacks a field that it must have."""
    if depth:
        below = {name: _below(value) for name, value in tree.items()}
        return {unquote(name): _made(cls, value, depth - 1) for name, value in below.items()}
    fields = {name: tree[name] for name in cls._fields if name not in _OPTIONAL}
    fields |= {name: _field(tree.get(name)) for name in cls._fields if name in _OPTIONAL}
    return cls(**{name: _text(name, value) for name, value in fields.items()})


_OPTIONAL = ("targets", "margins", "predictions", "toward_oracle")
_TEXTS = {"layers": tuple, "leaves": tuple, "title": str, "kind": str, "threshold": float}


def _text(name: str, value: Any) -> Any:
    """Names as a tuple of texts, single texts and numbers as themselves."""
    if name not in _TEXTS:
        return value
    return _TEXTS[name](value.tolist())


def _field(value: Any) -> Any:
    """An array, a dictionary of arrays by path, or None."""
    if not isinstance(value, dict):
        return value
    leaves = {}
    for name, below in value.items():
        below = _field(below)
        if isinstance(below, dict):
            leaves |= {f"{unquote(name)}/{tail}": leaf for tail, leaf in below.items()}
        else:
            leaves[unquote(name)] = below
    return leaves
