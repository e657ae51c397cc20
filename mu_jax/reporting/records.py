"""Result records: one JSON line per method, seed and forget set; the source of every table."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from mu_jax import _files as files

SCHEMA = 1
Direction = Literal["closer to retrain", "lower is better", "higher is better"]
DIRECTIONS = get_args(Direction)
NAMED = 1_000  # ids in a line of a record; a store has them all
RECORD_STATUSES = ("ok", "collapsed", "failed")


def _number(what: str, value: Any) -> float | int | None:
    """Returns a Python number, None for None and for NaN or infinity; ValueError otherwise."""
    if value is None:
        return None
    try:
        value = value.item() if hasattr(value, "item") else value
        number = value if isinstance(value, int) else float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"expected a number for {what}, found {value!r}: pass a scalar, or None with a reason"
        ) from None
    return number if math.isfinite(number) else None


def _set_numbers(instance: Any, what: str, names: tuple[str, ...]) -> None:
    for name in names:
        number = _number(f"{what}.{name}", getattr(instance, name))
        object.__setattr__(instance, name, number)  # the dataclass is frozen for everybody else


@dataclass(frozen=True)
class ForgetSet:
    """What was to be forgotten: a kind in words ("class 3"), its size, a hash of its ids.

    ids: the ids that people have (see `mu.id_table`), where there are some: the first `NAMED`.
    """

    kind: str
    size: int
    hash: str = ""
    ids: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "ids", tuple(self.ids))


@dataclass(frozen=True)
class Cost:
    """What the method alone cost; None is "not measured".

    forward, backward: example passes, counted. wall_s: seconds without compilation and evaluation.
    compile_s: seconds of compilation. precompute_s: seconds of work shared by later requests.
    peak_bytes: memory. device: its name.
    """

    forward: int | None = None
    backward: int | None = None
    wall_s: float | None = None
    compile_s: float | None = None
    precompute_s: float | None = None
    peak_bytes: int | None = None
    device: str = ""

    def __post_init__(self):
        _set_numbers(self, "cost", COST_NUMBERS)


COST_NUMBERS = tuple(f.name for f in fields(Cost) if f.name != "device")


@dataclass(frozen=True)
class Oracle:
    """The retrained models' value: mean, and the band they span."""

    mean: float | None
    low: float | None = None
    high: float | None = None

    def __post_init__(self):
        _set_numbers(self, "oracle", ("mean", "low", "high"))


@dataclass(frozen=True)
class Metric:
    """One number with what is needed to read it.

    A value is a finite number or it is missing: a NaN or infinite value becomes None with status
    "missing" and a reason, so that no file ever holds it as a number.

    value: the number; a fraction rather than a percentage. n: examples, or models, it is over.
    stderr: its standard error. low, high: the ends of its 95 % interval. null: the value of a
    perfect unlearner where that is not the best value (KLoM, rates at low false positive rates).
    no_interval: why there is none, where one was to be expected. note: what a reader has to know of
    the value, such as the models that make it too small (`evaluation.klom_check`).
    oracle: the retrained models' value.
    status, reason: "ok", or "missing" and a sentence. direction: how to read it. unit: "fraction"
    is shown as a percentage.
    """

    value: float | None
    n: int | None = None
    stderr: float | None = None
    null: float | None = None
    oracle: Oracle | None = None
    status: Literal["ok", "missing"] = "ok"
    reason: str = ""
    direction: Direction = "closer to retrain"
    unit: str = ""
    low: float | None = None
    high: float | None = None
    no_interval: str = ""
    note: str = ""

    def __post_init__(self):
        written = self.value
        if self.no_interval and self.low is not None:
            raise ValueError(
                f"expected an interval or the reason why there is none, found {self.low!r} and "
                f"{self.no_interval!r}: leave out either"
            )
        _set_numbers(self, "metric", ("value", "n", "stderr", "null", "low", "high"))
        if self.direction not in DIRECTIONS:
            raise ValueError(
                f"expected a direction among {', '.join(DIRECTIONS)}, found {self.direction!r}: "
                "say how the number is to be read"
            )
        if self.value is not None and self.status == "ok":
            return
        reason = self.reason or ("" if written is None else f"the value was {float(written)}")
        if self.value is not None or not reason:
            raise ValueError(
                "expected a finite value, or no value and a reason, found value "
                f"{written!r}, status {self.status!r} and reason {self.reason!r}: say why it is "
                "missing"
            )
        object.__setattr__(self, "status", "missing")
        object.__setattr__(self, "reason", reason)

    @property
    def better_than_perfect(self) -> bool:
        """Whether the value lies beyond that of a perfect unlearner, which no honest one reaches.

        Below the floor where lower is better, above the ceiling where higher is; by chance also a
        perfect one may, so that such a value is neither good nor bad: it is not ranked.
        """
        if self.value is None or self.null is None:
            return False
        if self.direction == "lower is better":
            return self.value < self.null
        return self.direction == "higher is better" and self.value > self.null


def missing(reason: str, **fields: Any) -> Metric:
    """A metric that could not be computed, with the sentence that says why.

    Example:
        >>> missing("the model has collapsed", unit="fraction").status
        'missing'
    """
    return Metric(value=None, status="missing", reason=reason, **fields)


@dataclass(frozen=True)
class Record:
    """One run: a method with its hyper-parameters, on one forget set, with one seed.

    run_id, config_hash: which run, and of which configuration. hyperparameters: JSON values by
    name. selection: how they were chosen, in words ("fixed default", "tuned on validation",
    "tuned with the oracle"). metrics: by name. arrays: paths of arrays, relative to the file.
    status: "ok", "collapsed" or "failed"; the latter two need a reason.

    Example:
        >>> record = Record("ssd", ForgetSet("class 3", 125), seed=0,
        ...                 metrics={"retain accuracy": Metric(0.94, n=1075, unit="fraction")})
        >>> from_json(to_json(record)) == record
        True
    """

    method: str
    forget_set: ForgetSet
    seed: int
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    selection: str = ""
    cost: Cost = field(default_factory=Cost)
    arrays: Mapping[str, str] = field(default_factory=dict)
    run_id: str = ""
    config_hash: str = ""
    status: Literal["ok", "collapsed", "failed"] = "ok"
    reason: str = ""
    schema: int = SCHEMA

    def __post_init__(self):
        if self.schema != SCHEMA:
            raise ValueError(
                f"expected schema {SCHEMA}, found {self.schema}: read the file with the version "
                "of the library that wrote it"
            )
        if self.status not in RECORD_STATUSES or (self.status != "ok") != bool(self.reason):
            raise ValueError(
                f"expected status ok without a reason, or collapsed or failed with one, found "
                f"{self.status!r} and {self.reason!r}: say what happened to the run"
            )
        for name, metric in self.metrics.items():
            if not isinstance(metric, Metric):
                raise ValueError(
                    f"expected a Metric for {name!r}, found {type(metric).__name__}: wrap the "
                    "number, Metric(value, n=...)"
                )


def _object(values: Any, what: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object for {what}, found {values!r}: correct the line")
    return values


# What the fields of JSON objects must be; numbers are checked where they are set.
_KINDS: dict[str, type] = {
    **dict.fromkeys(("method", "selection", "run_id", "config_hash", "device"), str),
    **dict.fromkeys(("kind", "hash", "status", "reason", "direction", "unit"), str),
    **dict.fromkeys(("seed", "size", "schema"), int),
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
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"expected a JSON object, found text that ends or breaks at column {error.colno}: "
            "delete the line and repeat the run"
        ) from None
    except (ValueError, RecursionError):
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
    """All fields; of remarks and people's ids only those that there are."""
    values = asdict(record)
    if not record.forget_set.ids:
        del values["forget_set"]["ids"]
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
