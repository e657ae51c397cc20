"""From a configuration of `experiments.language` to its task, refused if something is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from experiments.lib.configurations import Fields, check_fields
from experiments.lib.language import benchmarks, methods, questions, secrets
from experiments.lib.language.task import Task
from experiments.lib.tasks import lookup

TASKS: dict[str, Callable[[ConfigDict], Task]] = {
    "secrets": secrets.make,
    "authors": questions.make_authors,
    "tofu": questions.make_tofu,
    "muse": benchmarks.make_muse,
    "wmdp": benchmarks.make_wmdp,
    "rwku": benchmarks.make_rwku,
}
_GROUP = ((Mapping, ConfigDict), None)
FIELDS: Fields = {
    "task": ((str,), None),
    "data": _GROUP,
    "splits": ((int,), 1),
    "model": _GROUP,
    "training": _GROUP,
    "training.epochs": ((int,), 0),
    "training.batch_size": ((int,), 1),
    "training.learning_rate": ((int, float), 0),
    "training.warmup": ((int,), 0),
    "block": ((int,), 1),
    "methods": _GROUP,
    "selection": ((str,), None),
    "relearning": _GROUP,
    "relearning.shown": ((int,), 0),
    "relearning.steps": ((int,), 1),
    "relearning.batch_size": ((int,), 1),
    "relearning.learning_rate": ((int, float), 0),
}


def make_task(config: ConfigDict, names: list[str] | None = None) -> Task:
    """The task of a configuration, with some of its methods.

    Args:
      config: a file of `experiments/configs` that begins with `language_`.
      names: of the methods; None for all.

    Raises:
      ValueError: a configuration of another binary, a field that is missing or wrong, an unknown
        task or method, hyper-parameters that a method does not take.
    """
    if "task" not in config:
        raise ValueError(
            "expected a configuration with a task of language models, found none; begin with "
            "experiments/configs/language_secrets.py"
        )
    make = lookup(TASKS, config.task, "task of language models")
    check_fields(config, FIELDS)
    for name in names or ():
        lookup(dict(config.methods), name, "method of the configuration")
    for name, arguments in config.methods.items():
        if not isinstance(arguments, Mapping | ConfigDict):
            raise ValueError(
                f"expected the arguments of the method {name} as a group of fields, found "
                f"{arguments!r}; write dict(...)"
            )
        methods.checked(config, name)
    return make(config)
