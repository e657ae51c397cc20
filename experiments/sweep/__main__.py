"""Search hyper-parameters: try the settings of a sweep file, here and on any number of machines.

    python -m experiments.sweep --sweep=experiments/sweep_files/digits.json --workdir=runs/sweep
    python -m experiments.sweep --sweep=FILE --workdir=DIR --dry_run
    python -m experiments.sweep --sweep=FILE --workdir=DIR --workers=4
    python -m experiments.sweep --sweep=FILE --workdir=/shared/DIR --storage=postgresql://HOST/NAME
    python -m experiments.sweep --sweep=FILE --workdir=gs://B/DIR --storage=postgresql://HOST/NAME

Every process that is started with the same sweep and storage takes part. Starting it again, after a
stop or beside others, is harmless; what has ended is not run again. Each process works on the
devices it sees and ends when all settings have ended, with the best ones, one table, and the
records in `tuning.jsonl` and `reporting.jsonl`, which `experiments.report` prints, and what every
model of the chosen settings says of every example in `reporting.npz`. Meanwhile
`optuna-dashboard` shows the storage. Exit code 0: every setting has a result. 1: some have failed,
or workers were lost. 2: bad input, nothing was started.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from queue import Empty, SimpleQueue
from typing import Any

from absl import flags

import mu_jax as mu
from experiments.lib import paths
from experiments.lib.command_line import define_workdir, start
from experiments.lib.own_flags import LARGEST, define_count
from experiments.lib.results import digest_of, write_results
from experiments.lib.running import exit_with_sentence, write_records
from experiments.lib.tasks import Task
from experiments.sweep import files, tuning
from mu_jax import _progress, reporting

with exit_with_sentence():  # Optuna is an extra
    from experiments.sweep import jobs
    from experiments.sweep.jobs import Job
    from experiments.sweep.storage import open_storage
    from experiments.sweep.work_queue import Limits, Queue, work

FLAGS = flags.FlagValues()
POLL_S = 0.5  # seconds between looks at whether the workers have ended
SWEEP = flags.DEFINE_string("sweep", None, "The sweep file.", required=True, flag_values=FLAGS)
WORKDIR = define_workdir(FLAGS, "runs/sweep", "Where records, ensembles and SQLite go.")
STORAGE = flags.DEFINE_string(
    "storage", None, "A database for many machines; default studies.db.", flag_values=FLAGS
)
WORKERS = define_count(FLAGS, "workers", 1, "Processes to start here.")
BLOCK = define_count(FLAGS, "block", 32, "Settings in one program, of methods of one pass.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the work list and stop.", flag_values=FLAGS)
TABLE = flags.DEFINE_bool("table", True, "Print the table in the end.", flag_values=FLAGS)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "In place of the configuration's.", flag_values=FLAGS
)
LEASE_S = define_count(
    FLAGS,
    "lease_s",
    60,
    "Seconds without a sign of life after which others take over.",
    most=LARGEST,
)
ATTEMPTS = define_count(FLAGS, "attempts", 2, "Errors after which a setting of a grid has failed.")
DEATHS = define_count(FLAGS, "deaths", 50, "Lost processes after which a setting has failed.")


def main(argv: list[str]) -> None:
    """Read the sweep, refuse what is wrong with it, take part, and say what came of it."""
    del argv
    with exit_with_sentence():
        workdir = paths.working_directory(WORKDIR.value)
        paths.check_storage(workdir, STORAGE.value)
        sweep = files.read(SWEEP.value)
        task = files.read_task(sweep, DATA_DIR.value)
        tuned = jobs.tuning_jobs(sweep, task, block=BLOCK.value)
        if DRY_RUN.value:
            print(listing(sweep, tuned))
            return
        names = ("studies.db", "tuning.jsonl", "reporting.jsonl", "reporting.npz")
        paths.check_workdir(workdir, files=names, folders=("ensembles", "arrays"))
        begin = time.monotonic()
        search = Search(sweep, task, workdir, tuned)
    if WORKERS.value == 1:
        search.walk()
    else:
        start_workers(WORKERS.value, search)
    whole = search.conclude()
    if TABLE.value:
        print(f"Records: {workdir}/*.jsonl   Time: {time.monotonic() - begin:.0f} s")
    sys.exit(0 if whole else 1)


def listing(sweep: files.Sweep, tuned: Sequence[Job]) -> str:
    """The work list, a line a study, and its size."""
    settings = sum(job.plan.number for job in tuned[1:])
    sets = len(sweep.requests) * len(sweep.seeds)
    lines = [
        f"{job.plan.name}  {job.plan.number} settings, {min(job.plan.block, job.plan.number)} at "
        "once"
        for job in tuned[1:]
    ]
    return "\n".join(
        [
            *lines,
            f"{settings} settings ({sweep.sampler}) on {len(sweep.requests)} forget sets, "
            f"{settings * sets} trials of {sweep.models} models; then the chosen settings on "
            f"{len(sweep.reported)} other forget sets",
        ]
    )


class Search:
    """A sweep as one process sees it."""

    def __init__(self, sweep: files.Sweep, task: Task, workdir: pathlib.Path, tuned: Sequence[Job]):
        self.sweep, self.task, self.workdir = sweep, task, workdir
        storage = open_storage(workdir, STORAGE.value)
        options = {"lease_s": LEASE_S.value, "limits": Limits(ATTEMPTS.value, DEATHS.value)}
        self._queue = functools.partial(Queue, storage, **options)
        self.tuned = [(job, self._open(job)) for job in tuned]

    def walk(self) -> None:
        """Take part in the search until every setting has ended, then in the report."""
        place = os.getpid() % len(self.tuned)  # workers begin with different methods
        for job, queue in (*self.tuned[place:], *self.tuned[:place]):
            self._work(job, queue)
        for job, queue in self._reported():
            self._work(job, queue)

    def conclude(self) -> bool:
        """Write the records and print what they say; whether every setting has a result."""
        reported = self._reported()
        found, chosen = (self._records(each) for each in (self.tuned, reported))
        digest = digest_of(self.task.config, **_asked(self.sweep))
        write_results(self.workdir / "tuning.jsonl", reporting.Run(tuple(found), digest=digest))
        self._write_chosen(chosen, digest)
        if TABLE.value and found:
            print(tuning.describe(tuning.rank(found)) + "\n")
            print(reporting.render(chosen or found, width=110) + "\n")
        lost = list(_without_result([*self.tuned, *reported]))
        for sentence in lost:
            print(sentence, file=sys.stderr)
        if lost:
            advice = "run the same command again, with a larger --attempts if a setting failed"
            print(advice, file=sys.stderr)
        return not lost

    def _write_chosen(self, records: Sequence[reporting.Record], digest: str) -> None:
        """The records of the chosen settings, and the arrays of all their trials in one file."""
        path = write_records(self.workdir / "reporting.jsonl", records)
        try:
            found = reporting.read_run(path)
        except (OSError, ValueError) as error:  # of trials of an older version, or lost
            print(f"reporting.jsonl has no arrays of its own: {error}", file=sys.stderr)
            return
        write_results(path, dataclasses.replace(found, digest=digest))

    def ended(self) -> int:
        """How many settings have a result, whoever has found it."""
        return sum(len(queue.results()) for _, queue in self.tuned)

    def _open(self, job: Job) -> Queue:
        return self._queue(job.plan, jobs.make_sampler(self.sweep))

    def _work(self, job: Job, queue: Queue) -> None:
        run = functools.partial(jobs.evaluate, self.task, self.workdir / "ensembles", job)
        with mu.progress(job.plan.name):
            work(queue, run, report=_progress.say)

    def _reported(self) -> list[tuple[Job, Queue]]:
        """The studies of the chosen settings; none before the whole search has results."""
        if any(len(queue.results()) < job.plan.number for job, queue in self.tuned):
            return []
        records = self._records(self.tuned)
        chosen = jobs.reporting_jobs(self.sweep, self.task, records)
        return [(job, self._open(job)) for job in chosen]

    def _records(self, studies: Sequence[tuple[Job, Queue]]) -> list[reporting.Record]:
        """The records of the settings that have ended, in the order of the work list."""
        results = [trial for _, queue in studies for trial in queue.results()]
        return jobs.read_records(trial.user_attrs["result"] for trial in results)


def _asked(sweep: files.Sweep) -> dict[str, Any]:
    """What decides the numbers of a search beside the configuration."""
    names = ("requests", "reported", "kinds", "models", "seeds", "sampler", "trials")
    values = {
        name: {axis: list(found.values) for axis, found in axes.items()}
        for name, axes in sweep.axes.items()
    }
    found = {name: getattr(sweep, name) for name in names}
    lists = {name: list(x) if isinstance(x, tuple) else x for name, x in found.items()}
    return {**lists, "kinds": dict(sweep.kinds), "axes": values}


def _without_result(studies: Sequence[tuple[Job, Queue]]) -> Iterator[str]:
    """A sentence for every setting that has no result."""
    for job, queue in studies:
        failed = queue.failed()
        for name, why in failed.items():
            yield f"{job.plan.name}: {name} has no result: {why.splitlines()[-1]}"
        left = job.plan.number - len(queue.results()) - len(failed)
        if left > 0:
            yield f"{job.plan.name}: {left} settings have no result: their workers ended before"


def start_workers(number: int, search: Search) -> None:
    """Start processes with the same flags, and wait until they have ended.

    This process shows how far all of them are, and passes on what each says.
    """
    command = [sys.executable, "-m", "experiments.sweep", *sys.argv[1:], "--workers=1", "--notable"]
    quiet = os.environ | {"MU_JAX_PROGRESS": "off"}
    processes = [
        subprocess.Popen(command, env=quiet, stderr=subprocess.PIPE, text=True, errors="replace")
        for _ in range(number)
    ]
    told: SimpleQueue[str] = SimpleQueue()
    threads = [threading.Thread(target=_pass_on, args=(each, told)) for each in processes]
    for thread in threads:
        thread.start()
    settings = sum(job.plan.number for job, _ in search.tuned)
    with _progress.work(f"{number} workers", settings, "setting", search.ended()) as searching:
        while any(thread.is_alive() for thread in threads) or not told.empty():
            with contextlib.suppress(Empty):
                _progress.say(told.get(timeout=POLL_S))
                searching.done = search.ended()
    for process in processes:
        process.wait()


def _pass_on(process: subprocess.Popen, told: SimpleQueue[str]) -> None:
    assert process.stderr is not None  # it is a pipe
    with process.stderr as lines:
        for line in lines:
            told.put(line.rstrip("\n"))


if __name__ == "__main__":
    start(main, FLAGS)
