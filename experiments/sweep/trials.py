"""What one trial of a search computes: settings of one method on one forget set, N models each."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import time
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.lib import initial
from experiments.lib.arguments import arguments_of, reads_initial
from experiments.lib.ids import named_set
from experiments.lib.methods import METHODS, Request
from experiments.lib.rows import Bench, Half, make_bench
from experiments.lib.tasks import Task, lookup
from mu_jax import ensembles
from mu_jax.reporting import Arrays, Cost, Record
from mu_jax.reporting.runs import KEY, write_arrays
from mu_jax.scoring.ensembles import collapse, measure
from mu_jax.scoring.examples import examples_at
from mu_jax.scoring.rows import RETRAIN
from mu_jax.store.run_state import config_digest

ARRAYS = "arrays"  # the folder of what is kept of the half "reporting"
REFERENCES = "references"  # the trial of the rows "retrain" and "do nothing"
SELECTION = {
    "tuning": "a setting of a search",
    "reporting": "chosen on other forget sets with other models",
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """Settings that are run together; its name is a digest of all that decides the result.

    half: whose models, see `experiments.lib.rows`. method: its name in the configuration, or
    `REFERENCES`. request: the forget set. seed: which `models` models. points: the arguments of
    every setting. context: the digest of the forget set, the data, the model and its training.
    """

    half: Half
    method: str
    request: str
    seed: int
    models: int
    points: tuple[Mapping[str, Any], ...]
    context: Mapping[str, Any]

    @functools.cached_property
    def name(self) -> str:
        """The same for the same content."""
        return f"{self.method}-{config_digest(dataclasses.asdict(self))[:16]}"


class Outputs(NamedTuple):
    """Outputs f32[N, n, K] of one setting, and the example passes and seconds of one model."""

    values: np.ndarray
    passes: float
    wall_s: float | None


def takes_one_pass(method: str) -> bool:
    """Whether a method computes an edit from statistics, so that a grid of it is one pass.

    Example:
      >>> [takes_one_pass(method) for method in ("ssd", "iau", "dmm", "finetune")]
      [True, True, False, False]
    """
    return not {"epochs", "steps"} & set(arguments_of(method))


def traced(method: str) -> set[str]:
    """The hyper-parameters whose numbers are arguments of the compiled program of a method.

    They are those that may be a `jax.Array` by their annotations: other values of them compile
    nothing. A method that works on the host before it sees a model has none.

    Example:
      >>> sorted(traced("ssd")), sorted(traced("dmm"))
      (['alpha', 'dampening'], [])
    """
    if is_prepared(method):
        return set()
    hints = {name: argument.hint for name, argument in arguments_of(method).items()}
    unions = (typing.Union, types.UnionType)
    return {
        name
        for name, hint in hints.items()
        if typing.get_origin(hint) in unions and jax.Array in typing.get_args(hint)
    }


def is_prepared(method: str) -> bool:
    """Whether a method works on the host before it sees a model, which cannot be traced."""
    return "attribution" in arguments_of(method)


def run_trial(task: Task, directory: pathlib.Path, trial: Trial) -> list[Record]:
    """The records of a trial, one for each of its settings.

    Args:
      task: the task of the configuration that the trial was made for.
      directory: where ensembles are kept and found again.
      trial: what to compute.

    Returns:
      Records with KLoM beside its floor, and accuracies and membership attack beside those of
      retrained models (`reporting.gap_to_oracles` is their mean distance). Of the N models of a
      setting none may have collapsed, or it counts as collapsed.

    Cost: what `make_bench` trains; then N times the method a setting, or N passes for the whole
    grid of a method that takes one, and memory of the outputs of all its settings.
    """
    bench = make_bench(task, directory, trial.half, trial.request, trial.seed, trial.models)
    if trial.method == REFERENCES:
        rows = [("retrain", bench.retrained), ("do nothing", bench.untouched)]
        kept = keep_arrays(bench, trial, rows)
        return [_record(bench, trial, values, method=name, arrays=kept) for name, values in rows]
    outputs = run_method(bench, trial.method, trial.points)
    kept = keep_arrays(bench, trial, [(trial.method, found.values) for found in outputs])
    return [
        _record(
            bench,
            trial,
            found.values,
            arrays=kept,
            run_id=dataclasses.replace(trial, points=(point,)).name,
            method=trial.method,
            hyperparameters=dict(point),
            selection=SELECTION[trial.half],
            cost=_cost(found),
        )
        for point, found in zip(trial.points, outputs)
    ]


def keep_arrays(
    bench: Bench, trial: Trial, rows: Sequence[tuple[str, np.ndarray]]
) -> dict[str, str]:
    """Keep what every model of the half "reporting" says of every example; for `Record.arrays`.

    The file lies beside the ensembles, in `arrays`, under the name of the trial. A search has too
    many settings to keep that of the half "tuning". Further seeds are forget sets of their own,
    such as "class 3, seed 1". The row "retrain" is as in `results.study_examples`.
    """
    if trial.half != "reporting":
        return {}
    outputs = dict(rows)
    if trial.method == REFERENCES:
        outputs[RETRAIN] = np.concatenate([bench.others, bench.retrained])
    index = np.asarray(bench.arguments[-1].index)
    examples = {
        name: examples_at(bench.task.info.task, of, bench.targets, index, bench.positions)
        for name, of in outputs.items()
    }
    kind = named_set(bench.task, trial.request, bench.ids).kind
    kind += f", seed {trial.seed}" if trial.seed else ""
    path = bench.directory.parent / ARRAYS / f"{trial.name}.npz"
    write_arrays(path, {kind: Arrays(examples)})
    return {KEY: f"{ARRAYS}/{path.name}"}


def _record(
    bench: Bench, trial: Trial, values: np.ndarray, *, run_id: str = "", **fields: Any
) -> Record:
    reason = collapse(bench, values)
    return Record(
        forget_set=named_set(bench.task, trial.request, bench.ids),
        seed=trial.seed,
        metrics=measure(bench, values, retrained=fields["method"] == "retrain"),
        run_id=run_id or trial.name,
        status="collapsed" if reason else "ok",
        reason=reason,
        **fields,
    )


def _cost(found: Outputs) -> Cost:
    passes = round(found.passes)
    return Cost(passes, passes, wall_s=found.wall_s, device=jax.devices()[0].device_kind)


def run_method(bench: Bench, method: str, points: Sequence[Mapping[str, Any]]) -> list[Outputs]:
    """The outputs of every setting on the examples of the bench, in order.

    Settings that differ in traced numbers only are one program, mapped over them and over models.
    """
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for number, point in enumerate(points):
        kind = point.get("method", method)
        names = tuple(name for name in point if name in traced(kind) and _is_number(point[name]))
        fixed = {name: value for name, value in point.items() if name not in names}
        groups.setdefault((json.dumps(fixed), names), []).append(number)
    found: dict[int, Outputs] = {}
    for (static, names), numbers in groups.items():
        grid = {name: np.array([points[i][name] for i in numbers], np.float32) for name in names}
        program, before = _compiled(bench, method, static, names, len(numbers))
        start = time.monotonic()
        values, passes = jax.block_until_ready(program(grid, before, *bench.arguments))
        seconds = (time.monotonic() - start) / len(bench.retrained)
        wall_s = seconds if len(numbers) == 1 else None  # the settings of a grid share their passes
        for row, number in enumerate(numbers):
            found[number] = Outputs(np.asarray(values[row]), float(np.mean(passes[row])), wall_s)
    return [found[number] for number in range(len(points))]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@functools.lru_cache(maxsize=16)
def _compiled(
    bench: Bench, method: str, static: str, names: tuple[str, ...], size: int
) -> tuple[Callable[..., Any], Any]:
    """A grid as one program, and what the models were trained from, if the method reads it.

    The program takes traced numbers f32[size] by name, that, and the bench's arguments.
    """
    fixed = json.loads(static)
    kind = fixed.pop("method", method)
    build, before = lookup(METHODS, kind, "method"), bench.initial if reads_initial(kind) else None
    request = Request(bench.arguments[2], bench.directory)
    # What is prepared on the host is prepared before the trace; it has no traced numbers.
    prepared = None if names or reads_initial(kind) else build(bench.task, fixed, request)

    def one(numbers, before, keys, variables, forget, retain, examples):
        def make(own):
            known = request._replace(initial=lambda: own)
            return prepared or build(bench.task, fixed | numbers, known)

        unlearned, info = initial.unlearn(make, keys, variables, before, forget, retain)
        outputs = ensembles.ensemble_outputs(bench.task.model, unlearned, examples)
        return outputs, info.example_passes

    def program(grid, *arguments):
        return jax.vmap(lambda numbers: one(numbers, *arguments), axis_size=size)(grid)

    grid = {name: jax.ShapeDtypeStruct((size,), np.float32) for name in names}
    return jax.jit(program).lower(grid, before, *bench.arguments).compile(), before
