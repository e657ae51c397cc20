"""What a binary leaves: records, the arrays behind them, and the digest of its configuration."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from experiments.lib.populations import everything
from experiments.lib.rows import Study
from mu_jax import evaluation, reporting
from mu_jax.reporting import Arrays, Examples, Run
from mu_jax.scoring.examples import examples_at
from mu_jax.scoring.rows import CONSTANT, RETRAIN
from mu_jax.store.run_state import config_digest

ByRow = Mapping[str, Mapping[str, Examples]]
ORACLES = "oracles"  # the row of somebody else's retrained models
_ELSEWHERE = ("data_dir",)  # where the data lie decides nothing


def digest_of(config: ConfigDict | Mapping[str, Any], **asked: Any) -> str:
    """The digest of a configuration and of what else was asked for: the same for the same numbers.

    Args:
      config: of the task. asked: the flags that decide the numbers, such as `seeds=3`.
    """
    found = config
    if isinstance(config, ConfigDict):
        found = json.loads(config.to_json_best_effort())
    kept = {name: value for name, value in found.items() if name not in _ELSEWHERE}
    return config_digest({"config": kept, **asked})[:16]


def write_results(path: pathlib.Path, run: Run) -> pathlib.Path:
    """Write a run in place of what was there, see `reporting.write_run`; process 0 does for all."""
    if jax.process_index() == 0:
        reporting.write_run(path, run)
    return path


def earlier(path: pathlib.Path, digest: str) -> Run:
    """What a stopped run of the same configuration has left; nothing where there is no such run."""
    try:
        found = reporting.read_run(path)
    except (OSError, ValueError):
        return Run(())
    return found if found.digest == digest else Run(())


def beside(kept: Run, found: Run) -> Run:
    """A run, and behind it what an earlier one has of forget sets that it has not come to yet."""
    kinds = {record.forget_set.kind for record in found.records}
    rest = [record for record in kept.records if record.forget_set.kind not in kinds]
    arrays = {name: value for name, value in kept.arrays.items() if name not in kinds}
    return dataclasses.replace(
        found, records=(*found.records, *rest), arrays={**found.arrays, **arrays}
    )


def of_all_seeds(found: Sequence[ByRow]) -> dict[str, dict[str, Examples]]:
    """What the models of every row say, from those of each seed by row and set."""
    return {
        row: {name: _joined([one[row][name] for one in found]) for name in sets}
        for row, sets in found[0].items()
    }


def _joined(parts: Sequence[Examples]) -> Examples:
    """The models of several seeds on the same examples."""
    of_models = [(one.losses, one.margins, one.predictions) for one in parts]
    fields = (None if each[0] is None else np.concatenate(each) for each in zip(*of_models))
    return Examples(*parts[0][:2], *fields)


def study_arrays(study: Study) -> Arrays:
    """What the models of all rows say of the examples of each set.

    Of the row "retrain" the last N models are its own, and those before them the oracles that KLoM
    compares with. Oracles that were loaded are the row "oracles", of which margins alone are known:
    the losses follow from these, `log(1 + exp(-margin))`, and there are no predictions. The
    constant predictor is one model.
    """
    yardstick, index = study.yardstick, np.asarray(everything(study.task).index)
    outputs = {row.name: row.outputs for row in study.rows}
    outputs[CONSTANT] = outputs[CONSTANT][:1]
    if yardstick.others is not None:
        outputs[RETRAIN] = np.concatenate([yardstick.others, outputs[RETRAIN]])
    found = {
        name: examples_at(study.task.info.task, of, yardstick.targets, index, yardstick.positions)
        for name, of in outputs.items()
    }
    if yardstick.others is None or not np.array_equal(
        yardstick.oracles, evaluation.margins(yardstick.others, yardstick.targets)
    ):
        found[ORACLES] = {
            name: _of_margins(yardstick.oracles[:, where], yardstick.targets[where], index[where])
            for name, where in yardstick.positions.items()
        }
    return Arrays(found)


def _of_margins(margins: np.ndarray, targets: np.ndarray, ids: np.ndarray) -> Examples:
    margins = np.asarray(margins, np.float32)
    return Examples(ids, targets, np.logaddexp(0, -margins), margins, None)
