"""Sweep files: what to search, strictly read.

A sweep file is JSON, which is data: no program decides on each of many machines which trials there
are, and a misspelled field is found before a trial starts. The task is a program; the sweep file
names its configuration.

    {
      "about": "what is searched, for readers",
      "config": "../configs/digits.py",
      "requests": ["random:100:seed=11", "class:7"],
      "reported": ["class:3"],
      "models": 24,
      "seeds": [0],
      "sampler": "grid",
      "methods": {
        "ssd": {"alpha": {"log": [2, 50], "number": 5}, "dampening": [0.1, 1]},
        "iau_plain": {"method": "iau", "optimizer": ["sgd"], "learning_rate": [0.01, 0.1]}
      }
    }

`config` is relative to the file. Settings are chosen on `requests`, and the chosen one of each
method is measured on `reported` (none unless given), which must be other forget sets. `models` is
N, 24 unless given, `seeds` how many times, [0] unless given. What a method does not name is as in
the configuration, or else its default.

`sampler` is "grid" unless given: the product of the values of the hyper-parameters; "log" are then
`number` numbers from low to high in equal ratios, to four digits. With "random" and "tpe" (a
tree-structured Parzen estimator, which learns from the settings that have ended), `trials` settings
of every method are drawn: one of the values of a list, any number from low to high of "log".
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.lib import configurations
from experiments.lib.arguments import arguments_of
from experiments.lib.json_files import read_json
from experiments.lib.methods import METHODS
from experiments.lib.tasks import Task, check_kind, lookup, make_task
from experiments.sweep import tuning
from experiments.sweep.trials import REFERENCES

Point = dict[str, Any]
SAMPLERS = ("grid", "random", "tpe")
FEWEST_MODELS, MOST_MODELS = 3, 10_000
MOST_SETTINGS = 10_000


class Axis(NamedTuple):
    """The values of one hyper-parameter; with `log` and a sampler, the ends of a range."""

    values: tuple[Any, ...]
    log: bool = False


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep file, checked.

    config: path of the configuration. requests, reported: forget sets to choose on, and to measure
    the chosen settings on. models: N. kinds: which method every name of the search means. axes: the
    hyper-parameters that are searched, by name of the search. sampler, trials: how settings are
    found, and how many of every method if they are drawn. about: for readers.
    """

    config: Path
    requests: tuple[str, ...]
    kinds: Mapping[str, str]
    axes: Mapping[str, Mapping[str, Axis]]
    reported: tuple[str, ...] = ()
    models: int = 24
    seeds: tuple[int, ...] = (0,)
    sampler: str = "grid"
    trials: int = 0
    about: str = ""

    @functools.cached_property
    def grids(self) -> dict[str, tuple[Point, ...]]:
        """The settings of every method, if they are a grid; not what the configuration gives."""
        return {name: tuple(self._grid(name)) for name in self.axes}

    def _grid(self, name: str) -> Iterable[Point]:
        kind, axes = self.kinds[name], self.axes[name]
        fixed = {} if kind == name else {"method": kind}
        for each in itertools.product(*(axis.values for axis in axes.values())):
            yield {**fixed, **dict(zip(axes, each))}

    def size(self, name: str) -> int:
        """How many settings of a method are tried."""
        if self.sampler != "grid":
            return self.trials
        return math.prod(len(axis.values) for axis in self.axes[name].values())


def read(path: str | os.PathLike[str]) -> Sweep:
    """The sweep that a file describes.

    Raises:
      FileNotFoundError: the file, or the configuration it names, is not there.
      ValueError: not JSON, an unknown or missing field, an unknown method, values of the wrong
        kind, a grid without values or with more than anybody can run.
    """
    path = Path(path)
    fields = dict(_object(read_json(path, "a sweep file"), "the sweep"))
    derived = ("axes", "kinds")
    known = [f.name for f in dataclasses.fields(Sweep) if f.name not in derived] + ["methods"]
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
    kinds, axes = {}, {}
    for name, grid in methods.items():
        kinds[name] = _kind(name, _object(grid, repr(name)))
        names = [axis for axis in grid if axis != "method"]
        _refuse_unknown(names, arguments_of(kinds[name]), f"hyper-parameter of {kinds[name]!r}")
        axes[name] = {
            axis: _axis(grid[axis], f"{name}.{axis}", drawn=fields.get("sampler", "grid") != "grid")
            for axis in names
        }
    sweep = Sweep(config=config, kinds=kinds, axes=axes, **fields)
    for name in axes:
        if sweep.size(name) > MOST_SETTINGS:
            raise ValueError(
                f"expected at most {MOST_SETTINGS:,} settings of {name!r}, found "
                f"{sweep.size(name):,}; leave values out, or draw some with a sampler"
            )
    return sweep


def read_task(sweep: Sweep, data_dir: str | None = None) -> Task:
    """The task of a sweep's configuration, with its data from `data_dir` if that is given."""
    config = configurations.load(str(sweep.config))
    if data_dir is not None:
        config.data_dir = data_dir
    configurations.check(config)
    task = make_task(config)
    check_kind(task, "classification", "; sweeps tune the average gap, which is of accuracies")
    return task


def _kind(name: str, grid: Mapping[str, Any]) -> str:
    """Which method a name of the search means."""
    if name in (REFERENCES, *tuning.UNTUNED) or not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(
            f"expected the name of a method in letters and digits, not that of a row of every "
            f"table, found {name!r}; choose another one and name the method in 'method'"
        )
    kind = grid.get("method", name)
    if not isinstance(kind, str):
        raise ValueError(
            f"expected the name of a method as 'method' of {name!r}, found {json.dumps(kind)}; "
            'write "method": "ssd"'
        )
    lookup(METHODS, kind, "method")
    return kind


def _axis(value: Any, name: str, *, drawn: bool) -> Axis:
    if isinstance(value, dict):
        return _logarithmic(value, name, drawn=drawn)
    found = _list(value, (int, float, str, bool), name)
    if any(isinstance(each, float) and not math.isfinite(each) for each in found):
        raise ValueError(f"expected finite numbers for {name}, found {found}; correct them")
    if len({json.dumps(each) for each in found}) < len(found):
        raise ValueError(f"expected every value of {name} once, found {found}; remove the repeated")
    return Axis(tuple(found))


def _logarithmic(value: dict[str, Any], name: str, *, drawn: bool) -> Axis:
    low, high, number = 0.0, 0.0, 0
    fields = {"log", "number"} if not drawn or "number" in value else {"log"}
    if set(value) == fields and len(_list(value["log"], (int, float), name)) == 2:
        (low, high), number = value["log"], value.get("number", 2)
    if type(number) is not int or not 2 <= number <= MOST_SETTINGS or not 0 < low < high < math.inf:
        raise ValueError(
            f'expected {{"log": [low, high], "number": k}} for {name} with 0 < low < high and '
            f"k from 2 to {MOST_SETTINGS:,}, found {json.dumps(value)}; correct it or list the "
            "values"
        )
    if drawn:
        return Axis((float(low), float(high)), log=True)
    return Axis(tuple(float(f"{x:.4g}") for x in np.geomspace(low, high, number)), log=True)


def _check_numbers(fields: dict[str, Any]) -> None:
    models, seeds = fields.get("models", FEWEST_MODELS), fields.get("seeds", (0,))
    if type(models) is not int or not FEWEST_MODELS <= models <= MOST_MODELS:
        raise ValueError(
            f"expected {FEWEST_MODELS} to {MOST_MODELS:,} models, found {models!r}; 24 is a "
            "beginning"
        )
    sampler, trials = fields.get("sampler", "grid"), fields.get("trials", 0)
    if sampler not in SAMPLERS:
        raise ValueError(
            f"expected a sampler among {', '.join(SAMPLERS)}, found {sampler!r}; choose one"
        )
    if type(trials) is not int or not bool(trials) == (sampler != "grid") or trials < 0:
        raise ValueError(
            f"expected 'trials', how many settings are drawn, from 1 on with the samplers random "
            f"and tpe and not with grid, found {trials!r} with {sampler}; correct it"
        )
    if not isinstance(fields.get("about", ""), str):
        raise ValueError(f"expected text as 'about', found {fields['about']!r}; quote it")
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
