"""From a sweep to its studies: the same ones, with the same names, wherever a file is read."""

from __future__ import annotations

import itertools
import pathlib
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

import mu_jax as mu
from experiments.lib import arguments as catalog
from experiments.lib.methods import method_arguments
from experiments.lib.rows import Half
from experiments.lib.tasks import OPTIMIZERS, Task, lookup, read_ids
from experiments.sweep import tuning
from experiments.sweep.files import Axis, Sweep
from experiments.sweep.trials import REFERENCES, Trial, run_trial, takes_one_pass
from experiments.sweep.work_queue import Outcome, Params, Plan
from mu_jax import datasets, reporting
from mu_jax.reporting import Record
from mu_jax.store import commits
from mu_jax.store.run_state import config_digest

_CONTEXT = ("dataset", "limit", "model", "training", "batch_size", "loss")


class Job(NamedTuple):
    """One study: settings of one method, each measured on all forget sets.

    half: whose models, see `experiments.lib.rows`. method: a name of the sweep, or `REFERENCES`,
    of which a setting is a forget set. requests: the forget sets. seeds, models: as in the sweep.
    fixed: the arguments that all settings share. context: what else decides the results.
    """

    plan: Plan
    half: Half
    method: str
    requests: tuple[str, ...]
    seeds: tuple[int, ...]
    models: int
    fixed: Mapping[str, Any]
    context: Mapping[str, Any]


def tuning_jobs(sweep: Sweep, task: Task, *, block: int = 32) -> list[Job]:
    """The studies of a search, that of the retrained and untouched models first.

    Args:
      sweep: what to search. task: of its configuration.
      block: settings that are one program, for the methods that take one pass.

    Raises:
      ValueError: a request that the task cannot meet, or that is both tuned and reported on; a
        hyper-parameter that a method does not have, lacks, or cannot take.
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
    jobs = [_references(sweep, task, "tuning")]
    for name, kind in sweep.kinds.items():
        fixed = _fixed(task, name, kind)
        _check_settings(name, kind, fixed, sweep.axes[name])
        fixed = {each: value for each, value in fixed.items() if each not in sweep.axes[name]}
        size = block if takes_one_pass(kind) else 1
        plan = _plan(sweep, name)._replace(block=size)
        jobs.append(_job(sweep, task, "tuning", name, plan, fixed))
    return jobs


def reporting_jobs(sweep: Sweep, task: Task, records: Iterable[Record]) -> list[Job]:
    """The studies of the chosen settings on the other forget sets, from the records of a search."""
    jobs = [_references(sweep, task, "reporting")] if sweep.reported else []
    for name, settings in tuning.rank(records).items():
        if settings and sweep.reported:
            plan = Plan("", {}, {"chosen": {}}, 1)
            jobs.append(_job(sweep, task, "reporting", name, plan, settings[0].hyperparameters))
    return jobs


def make_sampler(sweep: Sweep) -> optuna.samplers.BaseSampler:
    """What draws settings; without a seed, so that no two processes draw the same."""
    if sweep.sampler == "tpe":
        return optuna.samplers.TPESampler(constant_liar=True)
    return optuna.samplers.RandomSampler()


def evaluate(
    task: Task, directory: pathlib.Path, job: Job, settings: Sequence[Params]
) -> list[Outcome]:
    """Measure settings on all forget sets of a job with all seeds: records as lines of JSON.

    The value is the mean average gap in points, none if a setting has collapsed or lacks a metric
    anywhere. A sampler that learns from values takes it as it is: the floor, below which
    `tuning.rank` does not tell settings apart, is known only when the references have ended.

    Args:
      task: of the configuration. directory: where ensembles are kept. job: which study.
      settings: what the study has asked for; one program if the method takes one pass.
    """
    if job.method == REFERENCES:
        return [_outcome(_references_of(task, directory, job, each)) for each in settings]
    points = tuple({**job.fixed, **each} for each in settings)
    found: list[list[Record]] = [[] for _ in settings]
    for request, seed in itertools.product(job.requests, job.seeds):
        for records, record in zip(
            found, run_trial(task, directory, _trial(job, request, seed, points))
        ):
            records.append(record)
    return [_outcome(records) for records in found]


def _references_of(task: Task, directory: pathlib.Path, job: Job, setting: Params) -> list[Record]:
    trials = [_trial(job, setting["request"], seed, ({},)) for seed in job.seeds]
    return [record for trial in trials for record in run_trial(task, directory, trial)]


def _trial(job: Job, request: str, seed: int, points: tuple[Params, ...]) -> Trial:
    return Trial(job.half, job.method, request, seed, job.models, points, job.context)


def _outcome(records: Sequence[Record]) -> Outcome:
    gaps = [reporting.gap_to_oracles(record) for record in records if record.method != "do nothing"]
    known = [gap for gap in gaps if gap is not None]
    value = statistics.fmean(known) if known and len(known) == len(gaps) else None
    return Outcome(value, "\n".join(map(reporting.to_json, records)))


def read_records(texts: Iterable[str]) -> list[Record]:
    """The records in the results of a study."""
    return [reporting.from_json(line) for text in texts for line in text.splitlines()]


def _references(sweep: Sweep, task: Task, half: Half) -> Job:
    requests = sweep.requests if half == "tuning" else sweep.reported
    items = {f"{config_digest({'request': r})[:16]}": {"request": r} for r in requests}
    plan = Plan("", {"request": CategoricalDistribution(list(requests))}, items, len(items))
    return _job(sweep, task, half, REFERENCES, plan, {})


def _job(
    sweep: Sweep, task: Task, half: Half, method: str, plan: Plan, fixed: Mapping[str, Any]
) -> Job:
    """A job whose study is named by a digest of all that decides its results."""
    requests = sweep.requests if half == "tuning" else sweep.reported
    config = task.config.to_dict()
    context = {name: config[name] for name in _CONTEXT if name in config}
    context["version"] = mu.__version__
    context["forget"] = {request: datasets.digest(read_ids(task, request)) for request in requests}
    context = commits.as_json(context, "a study")
    kinds = {name: _shape(space) for name, space in plan.space.items()}
    decisive = [half, method, sweep.seeds, sweep.models, dict(fixed), context, kinds]
    drawn = [] if plan.items is not None else [sweep.sampler]
    digest = config_digest(commits.as_json({"study": decisive + drawn}, "a study"))
    plan = plan._replace(name=f"{half} {method} {digest[:12]}")
    return Job(plan, half, method, requests, sweep.seeds, sweep.models, dict(fixed), context)


def _shape(space: BaseDistribution) -> Any:
    """What of a distribution cannot change in a study: a grid of numbers may grow."""
    if isinstance(space, FloatDistribution):
        return ["number", space.log]
    return ["choices", *getattr(space, "choices", ())]


def _plan(sweep: Sweep, name: str) -> Plan:
    axes = sweep.axes[name]
    if sweep.sampler != "grid":
        space = {each: _drawn_from(axis) for each, axis in axes.items()}
        return Plan("", space, None, sweep.trials)
    space = {each: _listed_in(axis) for each, axis in axes.items()}
    points = [{k: v for k, v in point.items() if k != "method"} for point in sweep.grids[name]]
    items = {config_digest({"point": point})[:16]: point for point in points}
    return Plan("", space, items, len(items))


def _drawn_from(axis: Axis) -> BaseDistribution:
    if axis.log:
        return FloatDistribution(*axis.values, log=True)
    return CategoricalDistribution(list(axis.values))


def _listed_in(axis: Axis) -> BaseDistribution:
    """Where the values of a grid lie; an interval for numbers, so that a chart has an axis."""
    if all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in axis.values):
        return FloatDistribution(min(axis.values), max(axis.values), log=axis.log)
    return CategoricalDistribution(list(axis.values))


def _fixed(task: Task, name: str, kind: str) -> dict[str, Any]:
    """The arguments of the configuration, or else the defaults of the method."""
    found = method_arguments(task, name)
    if name not in task.config.methods:
        found = catalog.defaults(task.config, task.info.task, kind)
    fixed = {each: value for each, value in found.items() if each != "method"}
    fixed = commits.as_json(fixed, f"the arguments of {name!r}")
    return fixed if kind == name else {"method": kind, **fixed}


def _check_settings(
    name: str, kind: str, fixed: Mapping[str, Any], axes: Mapping[str, Axis]
) -> None:
    """Refuse a search of which a setting cannot be run, value by value."""
    base = {each: value for each, value in fixed.items() if each != "method"}
    first = {**base, **{each: axis.values[0] for each, axis in axes.items()}}
    catalog.check(name, kind, first)
    for each, axis in axes.items():
        for value in axis.values:
            catalog.check(name, kind, {**first, each: value})
            if each == "optimizer":
                lookup(OPTIMIZERS, value, "optimizer")
