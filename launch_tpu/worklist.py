"""From a sweep file to a work list: the same trials, in the same order, wherever it is read.

A sweep file is JSON. It is data: what is launched on many machines cannot depend on what a program
would compute there, and a misspelt field is found before anything starts. What *is* a program, the
task, stays the configuration that the file names.

    {
      "about": "what is searched, for readers",
      "config": "../configs/digits.py",
      "requests": ["random:100:seed=11", "class:7"],
      "reported": ["class:3"],
      "models": 24,
      "seeds": [0],
      "methods": {
        "ssd": {"alpha": {"log": [2, 50], "number": 5}, "dampening": [0.1, 1]},
        "iau_plain": {"method": "iau", "optimizer": ["sgd"], "learning_rate": [0.01, 0.1]}
      }
    }

`config` is relative to the file. Settings are chosen on `requests`, and the chosen one of each
method is measured on `reported` (none unless given), which must be other forget sets. `models` is
N, 24 unless given, `seeds` how many times, [0] unless given. A method's grid is the product of the
values of its hyper-parameters; what it does not name is as in the configuration. "log" are numbers
from low to high in equal ratios, to four digits.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import runpy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import mu_jax as mu
from experiments import tuning
from experiments.lib.methods import METHODS, method_arguments
from experiments.lib.rows import Half
from experiments.lib.tasks import Task, check_kind, lookup, make_task, read_ids
from experiments.trials import ONE_SHOT, REFERENCES, Trial, hyperparameters
from mu_jax import datasets
from mu_jax.reporting import Record
from mu_jax.store import commits as durable

Point = dict[str, Any]
_CONTEXT = ("dataset", "limit", "model", "training", "batch_size", "loss")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file, checked.

    config: path of the configuration. requests, reported: forget sets to choose on, and to measure
    the chosen settings on. models: N. grids: the settings of every method, without what the
    configuration gives. about: for readers.
    """

    config: Path
    requests: tuple[str, ...]
    grids: Mapping[str, tuple[Point, ...]]
    reported: tuple[str, ...] = ()
    models: int = 24
    seeds: tuple[int, ...] = (0,)
    about: str = ""


def read(path: str | os.PathLike[str]) -> Sweep:
    """The sweep that a file describes.

    Raises:
      FileNotFoundError: the file, or the configuration it names, is not there.
      ValueError: not JSON, an unknown or missing field, an unknown method or hyper-parameter, a
        grid without values, values of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a sweep file at {path}, found none; check the path")
    try:
        fields = json.loads(path.read_text("utf-8"), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"expected JSON in {path}, found text that breaks at line {error.lineno}, column "
            f"{error.colno}; correct it there"
        ) from None
    fields = dict(_object(fields, "the sweep"))
    known = [f.name for f in dataclasses.fields(Sweep) if f.name != "grids"] + ["methods"]
    _refuse_unknown(fields, known, "field of a sweep")
    for name in ("config", "requests", "methods"):
        if name not in fields:
            raise ValueError(f"expected the field {name!r} in {path}, found none; add it")
    methods = _object(fields.pop("methods"), "'methods'")
    for name, kind in (("requests", str), ("reported", str), ("seeds", int)):
        if name in fields:
            fields[name] = tuple(_list(fields[name], kind, name))
    _check_numbers(fields)
    config = path.parent / str(fields.pop("config"))
    if not config.is_file():
        raise FileNotFoundError(
            f"expected the configuration that {path} names at {config}, found none; 'config' is "
            "relative to the sweep file"
        )
    grids = {name: _grid(name, _object(grid, repr(name))) for name, grid in methods.items()}
    return Sweep(config=config, grids=grids, **fields)


def read_task(sweep: Sweep, data_dir: str | None = None) -> Task:
    """The task of a sweep's configuration, with its data from `data_dir` if that is given."""
    config = runpy.run_path(str(sweep.config))["get_config"]()
    if data_dir is not None:
        config.data_dir = data_dir
    task = make_task(config)
    check_kind(task, "classification", "; sweeps tune the average gap, which is of accuracies")
    return task


def tuning_trials(sweep: Sweep, task: Task) -> list[Trial]:
    """The trials of a search, forget set by forget set; a file's twin gives the same.

    A method of one pass makes one trial of its grid, another one a trial of every setting; every
    forget set has one more, of the retrained and of the untouched models.

    Raises:
      ValueError: a request that the task cannot meet, or that is both tuned and reported on.
    """
    tuned, reported = (
        {request: datasets.digest(read_ids(task, request)) for request in requests}
        for requests in (sweep.requests, sweep.reported)
    )
    for request, digest in reported.items():
        if digest in tuned.values():
            raise ValueError(
                f"expected to report on other forget sets than those tuned on, found {request!r} "
                "among both; choose another one"
            )
    return _trials(sweep, task, "tuning", sweep.grids)


def reporting_trials(sweep: Sweep, task: Task, records: Iterable[Record]) -> list[Trial]:
    """The trials of the chosen settings on the other forget sets, from the records of a search."""
    chosen = {
        method: ({**settings[0].hyperparameters},)
        for method, settings in tuning.rank(records).items()
        if settings
    }
    return _trials(sweep, task, "reporting", chosen)


def _trials(
    sweep: Sweep, task: Task, half: Half, grids: Mapping[str, tuple[Point, ...]]
) -> list[Trial]:
    config = task.config.to_dict()
    shared = {name: config[name] for name in _CONTEXT if name in config}
    shared["version"] = mu.__version__
    requests = sweep.requests if half == "tuning" else sweep.reported
    trials = []
    for request, seed in itertools.product(requests, sweep.seeds):
        context = {**shared, "forget": datasets.digest(read_ids(task, request))}
        for method, parts in ((REFERENCES, [({},)]), *_parts(task, grids)):
            plain = durable.as_json([parts, context], "a trial")
            trials += [
                Trial(half, method, request, seed, sweep.models, tuple(part), plain[1])
                for part in plain[0]
            ]
    return trials


def _parts(task: Task, grids: Mapping[str, tuple[Point, ...]]) -> Iterable[tuple[str, list]]:
    """The settings of every method, with the arguments of the configuration, trial by trial."""
    for method, grid in grids.items():
        base = method_arguments(task, method)
        points = [{**base, **point} for point in grid]
        kind = points[0].get("method", method)
        for name, needed in hyperparameters(kind).items():
            if needed and name not in points[0]:
                raise ValueError(
                    f"expected {name} of {method!r} in the sweep or in the configuration, found "
                    "it in neither; add its values"
                )
        yield method, [points] if kind in ONE_SHOT else [[point] for point in points]


def _grid(method: str, grid: dict[str, Any]) -> tuple[Point, ...]:
    """The product of the values of one method's hyper-parameters."""
    if method in (REFERENCES, *tuning.UNTUNED) or not re.fullmatch(r"[\w.-]+", method):
        raise ValueError(
            f"expected the name of a method in letters and digits, not that of a row of every "
            f"table, found {method!r}; choose another one and name the method in 'method'"
        )
    kind = grid.get("method", method)
    lookup(METHODS, kind, "method")
    fixed = {"method": kind} if "method" in grid else {}
    values = {name: value for name, value in grid.items() if name != "method"}
    _refuse_unknown(values, hyperparameters(kind), f"hyper-parameter of {kind!r}")
    axes = {name: _values(value, f"{method}.{name}") for name, value in values.items()}
    return tuple({**fixed, **dict(zip(axes, each))} for each in itertools.product(*axes.values()))


def _values(value: Any, name: str) -> list[Any]:
    if isinstance(value, dict):
        return _logarithmic(value, name)
    found = _list(value, (int, float, str, bool), name)
    if len({json.dumps(each) for each in found}) < len(found):
        raise ValueError(f"expected every value of {name} once, found {found}; remove the repeated")
    return found


def _logarithmic(value: dict[str, Any], name: str) -> list[float]:
    low, high, number = 0.0, 0.0, 0
    if set(value) == {"log", "number"} and len(_list(value["log"], (int, float), name)) == 2:
        (low, high), number = value["log"], value["number"]
    if type(number) is not int or number < 2 or not 0 < low < high:
        raise ValueError(
            f'expected {{"log": [low, high], "number": k}} for {name} with 0 < low < high and '
            f"k >= 2, found {json.dumps(value)}; correct it or list the values"
        )
    return [float(f"{x:.4g}") for x in np.geomspace(low, high, number)]


def _check_numbers(fields: dict[str, Any]) -> None:
    models, seeds = fields.get("models", 2), fields.get("seeds", (0,))
    if type(models) is not int or models < 2:
        raise ValueError(f"expected at least 2 models, found {models!r}; 24 is a beginning")
    if min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise ValueError(
            f"expected different seeds from 0 on, found {list(seeds)}; a seed says which models"
        )


def _list(value: Any, kinds: type | tuple[type, ...], name: str) -> list[Any]:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if not isinstance(value, list) or not value or any(type(x) not in kinds for x in value):
        words = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(
            f"expected a list of one or more values ({words}) for {name}, found "
            f"{json.dumps(value)}; write [value, ...]"
        )
    return value


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not (value or what != "'methods'"):
        raise ValueError(
            f"expected a JSON object for {what}, found {json.dumps(value)}; see the example in "
            "docs/sweeps.md"
        )
    return value


def _refuse_unknown(values: Iterable[str], known: Iterable[str], what: str) -> None:
    for name in values:
        lookup(dict.fromkeys(known), name, what)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, which a name twice would silently shorten."""
    names = [name for name, _ in pairs]
    repeated = {name for name in names if names.count(name) > 1}
    if repeated:
        raise ValueError(
            f"expected every name once in an object of the sweep, found {', '.join(repeated)} "
            "again; remove one"
        )
    return dict(pairs)
