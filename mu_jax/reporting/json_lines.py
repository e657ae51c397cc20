"""Records as text: one line of strict JSON for each, added to a file whole or not at all."""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from mu_jax import _files as files
from mu_jax import _json
from mu_jax.reporting.records import Cost, ForgetSet, Metric, Oracle, Record


def _object(values: Any, what: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object for {what}, found {values!r}: correct the line")
    return values


# What the fields of JSON objects must be; numbers are checked where they are set.
_KINDS: dict[str, type] = {
    **dict.fromkeys(("method", "selection", "run_id", "config_hash", "device"), str),
    **dict.fromkeys(("kind", "hash", "status", "reason", "direction", "unit"), str),
    **dict.fromkeys(("seed", "size", "schema", "request"), int),
    **dict.fromkeys(("hyperparameters", "arrays"), dict),
    "ids": list,
}


def _build(cls: type, values: Any, what: str) -> Any:
    """Makes a dataclass from a JSON object; one sentence about fields it does not know or lacks."""
    values = _object(values, what)
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(
            f"expected only the fields {', '.join(sorted(known))} in {what}, found "
            f"{', '.join(unknown)}: remove or rename it"
        )
    for name, value in values.items():
        kind = _KINDS.get(name, object)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(
                f"expected {kind.__name__} for {name} in {what}, found {value!r}: correct the line"
            )
    try:
        return cls(**values)
    except TypeError:
        raise ValueError(
            f"expected all required fields in {what}, found {', '.join(sorted(values)) or 'none'}: "
            "add the missing ones"
        ) from None


def _metric(values: Any, name: str) -> Metric:
    values = dict(_object(values, f"metric {name!r}"))
    if values.get("oracle") is not None:
        values["oracle"] = _build(Oracle, values["oracle"], f"the oracle of {name!r}")
    return _build(Metric, values, f"metric {name!r}")


def from_json(line: str) -> Record:
    """Returns the record of one JSON line; ValueError says what is wrong with it."""
    try:
        values = _json.parse(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"expected a JSON object, found text that ends or breaks at column {error.colno}: "
            "delete the line and repeat the run"
        ) from None
    except ValueError:
        raise ValueError(
            "expected a JSON object, found one with a number too long or nested too deep: delete "
            "the line and repeat the run"
        ) from None
    values = dict(_object(values, "the record"))
    for name, cls in (("forget_set", ForgetSet), ("cost", Cost)):
        if name in values:
            values[name] = _build(cls, values[name], name)
    metrics = _object(values.get("metrics", {}), "the metrics")
    values["metrics"] = {name: _metric(metric, name) for name, metric in metrics.items()}
    return _build(Record, values, "the record")


def _plain(value: Any) -> Any:
    """Python value of a NumPy or JAX scalar or array, for `json`."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} {value!r}")


def _fields(record: Record) -> dict[str, Any]:
    """All fields; of remarks, people's ids and numbers of requests only those that there are."""
    values = asdict(record)
    for name in ("ids", "request"):
        if not values["forget_set"][name]:
            del values["forget_set"][name]
    for metric in values["metrics"].values():
        for name in ("no_interval", "note"):
            if not metric[name]:
                del metric[name]
    return values


def to_json(record: Record) -> str:
    """Returns the record as one line of strict JSON, without the line end."""
    try:
        return json.dumps(_fields(record), default=_plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected JSON values in the record of {record.method!r}, found {error}: write "
            "infinite or other hyper-parameters as text"
        ) from None


def append(path: str | os.PathLike, record: Record) -> None:
    """Adds a record to a file of JSON lines, whole or not at all.

    The file and its folder are made when absent. Processes on one machine may append to the same
    file: the line is written under a lock, and taken back if the disk is full.

    Args:
        path: the file, by custom `records.jsonl`.
        record: what to add.

    Raises:
        ValueError: a value that JSON cannot hold; the file is then unchanged.
        OSError: the file cannot be written; it is then as it was.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "records.jsonl"
        >>> append(path, Record("retrain", ForgetSet("class 3", 125), seed=0))
        >>> [record.method for record in read(path)]
        ['retrain']
    """
    line = to_json(record).encode() + b"\n"
    path = files.absolute(path)
    if files.in_bucket(path):
        files.append_line(path, line)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else b"\n" + line
        try:
            if file.write(line) != len(line):
                raise OSError(f"expected room for {len(line)} bytes in {path}: free some space")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def _text(path: Path) -> str:
    try:
        return files.read_text(path)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected JSON lines in {path}, found bytes that are no text at {error.start}: name a "
            "file of records, or repeat the run that wrote it"
        ) from None


def read(path: str | os.PathLike) -> list[Record]:
    """Returns the records of a file written by `append`, in order.

    Args:
        path: the file.

    Returns:
        The records; blank lines are skipped.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is not a record, with its number.
    """
    path = files.absolute(path)
    if not files.is_file(path):
        raise FileNotFoundError(
            f"expected a file of records at {path}, found none: run an evaluation that writes it"
        )
    records = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        if line.strip():
            try:
                records.append(from_json(line))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    return records
