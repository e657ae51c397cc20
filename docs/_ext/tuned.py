"""Settings of a method: found by searches, used by demonstrations, and where to look for others."""

from __future__ import annotations

import importlib
import json
from typing import Any

from method_facts import ROOT, table
from ml_collections import ConfigDict

import mu_jax as mu
from mu_jax.tuning.drawing import Log, Uniform

# Configurations whose methods have settings that were looked at, though by no search.
DEMONSTRATIONS = ("language_stdlib", "language_authors")


def searched() -> list[str]:
    """Names of the configurations of which a search found the settings."""
    return sorted(path.stem for path in (ROOT / "experiments/configs").glob("tuned_*.py"))


def configuration(name: str) -> ConfigDict:
    """A configuration of `experiments/configs`."""
    return importlib.import_module(f"experiments.configs.{name}").get_config()


def settings(config: ConfigDict, method: str) -> dict[str, dict[str, Any]]:
    """The settings of a method in a configuration, by their names there."""
    found = {name: dict(value.to_dict()) for name, value in config.methods.items()}
    return {
        name: {key: value for key, value in arguments.items() if key != "method"}
        for name, arguments in found.items()
        if arguments.get("method", name) == method
    }


def markdown(method: str) -> str:
    """The settings of a method as Markdown."""
    rows = []
    for name in (*searched(), *DEMONSTRATIONS):
        config = configuration(name)
        rows += [
            [f"`{name}`", f"`{setting}`", _arguments(arguments), _found_by(name, setting, config)]
            for setting, arguments in settings(config, method).items()
        ]
    parts = []
    if rows:
        head = ["configuration", "setting", "hyper-parameters", "how they were found"]
        parts.append(table(head, rows))
    else:
        parts.append(f"No configuration of the repository has a tuned setting of `mu.{method}`.")
    parts += [_grids(method), _space(method)]
    return "\n\n".join(part for part in parts if part)


def _found_by(name: str, setting: str, config: ConfigDict) -> str:
    """How the settings were found; those that no search looked at are beginnings."""
    if name in DEMONSTRATIONS or any(
        title.startswith(name.removeprefix("tuned_")) and title.endswith(f": {setting}")
        for title in grids(dict(config.methods[setting]).get("method", setting))
    ):
        return str(config.get("selection", ""))
    return "a beginning, not searched"


def _arguments(arguments: dict[str, Any]) -> str:
    given = {key: value for key, value in arguments.items() if value is not None}
    return ", ".join(f"{key} {_value(value)}" for key, value in given.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"({_arguments(value)})"
    if isinstance(value, (list, tuple)):
        return " and ".join(map(_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def grids(method: str) -> dict[str, dict[str, Any]]:
    """What the searches of `experiments/sweep_files` try of a method, by file and setting."""
    found = {}
    for path in sorted((ROOT / "experiments/sweep_files").glob("*.json")):
        for name, grid in json.loads(path.read_text())["methods"].items():
            if grid.get("method", name) == method:
                rest = {key: value for key, value in grid.items() if key != "method"}
                found[f"{path.stem}: {name}"] = rest
    return found


def _grids(method: str) -> str:
    rows = []
    for title, grid in grids(method).items():
        searches, _, name = title.partition(": ")
        tried = "; ".join(f"{key} {_grid(values)}" for key, values in grid.items())
        rows.append([f"`{searches}.json`", f"`{name}`", tried])
    if not rows:
        return ""
    head = ["search of `experiments/sweep_files`", "setting", "what it tries"]
    return table(head, rows)


def _grid(values: Any) -> str:
    if isinstance(values, dict):
        low, high = values["log"]
        return f"{low:g} to {high:g} in {values['number']} steps of one ratio"
    return ", ".join(f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _space(method: str) -> str:
    space = getattr(mu.tuning.spaces, method)
    if not space:
        return f"`mu.tuning.spaces.{method}` is empty: there is nothing to choose."
    ranges = "; ".join(f"`{key}` {_range(values)}" for key, values in space.items())
    return (
        f"`mu.tune` looks at `mu.tuning.spaces.{method}`: {ranges}. Of a fit the learning rate is "
        "that of Adam."
        if "learning_rate" in space
        else f"`mu.tune` looks at `mu.tuning.spaces.{method}`: {ranges}."
    )


def _range(values: Any) -> str:
    if isinstance(values, (Log, Uniform)):
        scale = ", on a logarithmic scale" if isinstance(values, Log) else ""
        return f"from {values.low:g} to {values.high:g}{scale}"
    return f"among {', '.join(map(str, values))}"
