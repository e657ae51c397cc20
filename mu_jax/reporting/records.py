"""Result records: method, seed, forget set and metrics; the source of every table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

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
    request: the number, from 1, of a request in a sequence of which each is unlearned from what the
    one before has left. The sets of a sequence have one `kind`, and each holds all that was asked
    for up to its request. 0 is a set by itself.
    """

    kind: str
    size: int
    hash: str = ""
    ids: tuple[str, ...] = ()
    request: int = 0

    def __post_init__(self):
        object.__setattr__(self, "ids", tuple(self.ids))
        if self.request < 0:
            raise ValueError(
                f"expected the number of a request, from 1, or 0 for a set by itself, found "
                f"{self.request}: count requests from 1"
            )


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
        >>> from mu_jax.reporting import from_json, to_json
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
