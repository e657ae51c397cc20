"""Reading a configuration file, and what every configuration must say."""

from __future__ import annotations

import pathlib
import runpy
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from experiments.lib.own_flags import LARGEST
from mu_jax import _files as files
from mu_jax import _json

# Every field that all binaries read, and what it must be. A number is below its bound if it is
# smaller than the last entry.
Fields = Mapping[str, tuple[tuple[type, ...], float | None]]
_FIELDS: Fields = {
    "dataset": ((str,), None),
    "data_dir": ((str, type(None)), None),
    "limit": ((int, type(None)), 1),
    "model": ((Mapping, ConfigDict), None),
    "model.name": ((str,), None),
    "training": ((Mapping, ConfigDict), None),
    "training.optimizer": ((str,), None),
    "training.learning_rate": ((int, float), 0),
    "training.weight_decay": ((int, float), 0),
    "training.batch_size": ((int,), 1),
    "training.epochs": ((int,), 1),
    "batch_size": ((int,), 1),
    "methods": ((Mapping, ConfigDict), None),
    "selection": ((str,), None),
}
REGRESSION: Fields = {  # what `experiments.regression` reads too
    "forget": ((str,), None),
    "relearning": ((Mapping, ConfigDict), None),
    "relearning.learning_rate": ((int, float), 0),
    "relearning.epochs": ((int,), 1),
    "relearning.alpha": ((int, float), 0),
}
CORRECTIVE: Fields = {  # what `experiments.corrective` reads too
    "trigger": ((Mapping, ConfigDict), None),
    "trigger.size": ((int,), 1),
    "trigger.value": ((int, float), None),
    "manipulations": ((Mapping, ConfigDict), None),
    "known_seed": ((int,), 0),
}
MANIPULATIONS: Mapping[str, Fields] = {
    "poison": {
        "manipulations.poison.count": ((int,), 1),
        "manipulations.poison.label": ((int,), 0),
        "manipulations.poison.seed": ((int,), 0),
    },
    "interclass": {
        "manipulations.interclass.count": ((int,), 1),
        "manipulations.interclass.classes": ((tuple, list), None),
        "manipulations.interclass.seed": ((int,), 0),
    },
}
_LARGEST_FLOAT = 3e38
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    type(None): "nothing",
    Mapping: "a group of fields",
    tuple: "a list",
}


def load(path: str) -> ConfigDict:
    """The configuration that `get_config()` of a Python file returns, locked.

    Raises:
      FileNotFoundError: no such file.
      ValueError: a file that raises, has no `get_config`, or returns something else.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise FileNotFoundError(
            f"expected a configuration file at {path or '(an empty path)'}, found none; check the "
            "path, and begin with experiments/configs/digits.py"
        )
    try:
        get_config = runpy.run_path(str(file)).get("get_config")
        found = get_config() if callable(get_config) else None
    except (Exception, SystemExit) as error:
        what = " ".join(f"{type(error).__name__} {error}".split())
        raise ValueError(
            f"expected a configuration from {path}, found that it raises {what}; correct the file"
        ) from error
    if not callable(get_config):
        raise ValueError(
            f"expected a function get_config in {path}, found none; it returns the configuration"
        )
    if isinstance(found, Mapping):
        found = ConfigDict(found)
    if not isinstance(found, ConfigDict):
        raise ValueError(
            f"expected get_config of {path} to return a ConfigDict, found {type(found).__name__}; "
            "return one"
        )
    return found.lock()


def read(path: pathlib.Path) -> ConfigDict:
    """The configuration that a run has kept beside its results, checked.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no JSON, no object, or a field that is missing or wrong.
    """
    try:
        found = _json.parse(files.read_text(path))
    except ValueError as error:
        what = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise ValueError(
            f"expected the configuration of a run in {path}, found text that is no JSON ({what}); "
            "restore the file"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(
            f"expected a JSON object in {path}, found {type(found).__name__}; restore the file"
        )
    config = ConfigDict(found)
    check(config)
    return config


def check(config: ConfigDict) -> None:
    """Refuse a configuration that lacks what every binary reads, or has a value not allowed.

    Raises:
      ValueError: the first field that is wrong.
    """
    check_fields(config, _FIELDS)
    for name, arguments in config.methods.items():
        if not isinstance(arguments, (Mapping, ConfigDict)):
            raise ValueError(
                f"expected the arguments of the method {name} as a group of fields, found "
                f"{arguments!r}; write dict(...)"
            )


def largest(kinds: tuple[Any, ...]) -> float:
    """The largest number that a program takes, int32 or float32."""
    return _LARGEST_FLOAT if float in kinds else LARGEST


def range_in_words(least: float, most: float, value: Any) -> str:
    """From where on numbers are taken; up to where as well if a number is above.

    Example:
      >>> range_in_words(1, 9, 0), range_in_words(1, 9, 10)
      (' from 1 on', ' from 1 to 9')
    """
    above = isinstance(value, int | float) and value > most
    return f" from {least:g} to {most:.10g}" if above else f" from {least:g} on"


def check_fields(config: ConfigDict, fields: Fields) -> None:
    """Refuse a configuration that lacks one of these fields, or has one that is not allowed.

    Raises:
      ValueError: the first field that is wrong.
    """
    for name, (kinds, least) in fields.items():
        value: Any = config
        for part in name.split("."):
            if not isinstance(value, (Mapping, ConfigDict)) or part not in value:
                raise ValueError(
                    f"expected the field {name} in the configuration, found none; add it"
                )
            value = value[part]
        fits = isinstance(value, kinds) and not isinstance(value, bool)
        if fits and least is not None and value is not None:
            fits = least <= value <= largest(kinds)
        if not fits:
            words = " or ".join(_WORDS[kind] for kind in kinds if kind in _WORDS)
            bound = "" if least is None else range_in_words(least, largest(kinds), value)
            raise ValueError(
                f"expected {words}{bound} for {name} in the configuration, found {value!r}; "
                "correct it"
            )
