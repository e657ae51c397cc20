"""Search hyper-parameters: run the trials of a sweep file, here and on any number of machines.

    python -m launch_tpu.sweep --sweep=experiments/sweeps/digits.json --workdir=runs/sweep
    python -m launch_tpu.sweep --sweep=FILE --workdir=DIR --dry_run
    python -m launch_tpu.sweep --sweep=FILE --workdir=/shared/DIR --workers=4

Every process that is started with the same sweep and working directory takes part: trials are
claimed in the folder, which all machines must share. Starting it again, after a stop or beside
others, is harmless; what has ended is not run again. Each process works on the devices it sees and
ends when all trials have ended, with the best settings, one table, and the records in
`tuning.jsonl` and `reporting.jsonl`, which `experiments.report` prints. Exit code 0: every trial
has a result. 1: some have failed, or workers were lost. 2: bad input, nothing was started.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import time

import jax
from absl import app, flags

from experiments import tuning
from experiments.lib.paths import on_disk
from experiments.lib.running import exit_with_sentence, flags_only
from experiments.lib.tasks import Task
from experiments.trials import Trial, run_trial
from launch_tpu import worklist
from launch_tpu.claims import Claims, Limits, replace
from launch_tpu.trial_loop import work
from mu_jax import reporting

SWEEP = flags.DEFINE_string("sweep", None, "The sweep file.", required=True)
WORKDIR = flags.DEFINE_string("workdir", "runs/sweep", "Where claims, results, ensembles go.")
WORKERS = flags.DEFINE_integer("workers", 1, "Processes to start here.", lower_bound=1)
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the work list and stop.")
TABLE = flags.DEFINE_bool("table", True, "Print the table in the end.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "In place of the configuration's.")
LEASE_S = flags.DEFINE_float(
    "lease_s", 300.0, "Seconds without a heartbeat after which another machine may take over.", 1.0
)
ATTEMPTS = flags.DEFINE_integer(
    "attempts", 2, "Errors after which a trial has failed; raise it to try again.", lower_bound=1
)
DEATHS = flags.DEFINE_integer(
    "deaths", 50, "Lost processes after which a trial has failed.", lower_bound=1
)


def main(argv: list[str]) -> None:
    """Read the sweep, refuse what is wrong with it, take part, and say what came of it."""
    flags_only(argv, "--sweep=")
    with exit_with_sentence():
        sweep = worklist.read(SWEEP.value)
        task = worklist.read_task(sweep, DATA_DIR.value)
        trials = worklist.tuning_trials(sweep, task)
        if DRY_RUN.value:
            print(listing(sweep, trials))
            return
        start = time.monotonic()
        folder = on_disk(WORKDIR.value)
        limits = Limits(ATTEMPTS.value, DEATHS.value)
        claims = Claims(folder / "trials", lease_s=LEASE_S.value, limits=limits)
    if WORKERS.value == 1:
        walk(sweep, task, claims)
    else:
        start_workers(WORKERS.value)
    whole = conclude(sweep, task, claims)
    if TABLE.value:
        print(f"Records: {folder}/*.jsonl   Time: {time.monotonic() - start:.0f} s")
    sys.exit(0 if whole else 1)


def listing(sweep: worklist.Sweep, trials: list[Trial]) -> str:
    """The work list, a line a trial, and its size."""
    lines = [
        f"{trial.name}  {trial.request}  seed {trial.seed}  {len(trial.points)} settings"
        for trial in trials
    ]
    settings = sum(len(trial.points) for trial in trials)
    lines.append(
        f"{len(trials)} trials of {settings} settings of {sweep.models} models; then the chosen "
        f"settings on {len(sweep.reported)} other forget sets"
    )
    return "\n".join(lines)


def walk(sweep: worklist.Sweep, task: Task, claims: Claims) -> None:
    """Take part in the search until every trial has ended, then in the report."""
    trials = worklist.tuning_trials(sweep, task)
    _work(task, claims, trials)
    _work(task, claims, _report(sweep, task, claims, trials))


def _report(sweep: worklist.Sweep, task: Task, claims: Claims, tuned: list[Trial]) -> list[Trial]:
    """The trials of the chosen settings; none to choose from before the whole search is done."""
    if any(claims.state(trial.name) != "done" for trial in tuned):
        return []
    return worklist.reporting_trials(sweep, task, records(claims, tuned))


def _work(task: Task, claims: Claims, trials: list[Trial]) -> None:
    by_name = {trial.name: trial for trial in trials}
    ensembles = claims.folder.parent / "ensembles"

    def run(name: str) -> str:
        found = run_trial(task, ensembles, by_name[name])
        return "\n".join(map(reporting.to_json, found))

    work(claims, list(by_name), run, report=functools.partial(print, file=sys.stderr, flush=True))


def start_workers(number: int) -> None:
    """Start processes with the same flags, and wait until they have ended."""
    command = [sys.executable, "-m", "launch_tpu.sweep", *sys.argv[1:], "--workers=1", "--notable"]
    processes = [subprocess.Popen(command) for _ in range(number)]
    for process in processes:
        process.wait()


def conclude(sweep: worklist.Sweep, task: Task, claims: Claims) -> bool:
    """Write the records and print what they say; whether every trial has a result."""
    tuned = worklist.tuning_trials(sweep, task)
    found = records(claims, tuned)
    reported = _report(sweep, task, claims, tuned)
    results = {"tuning": found, "reporting": records(claims, reported)}
    for half, each in results.items():
        text = "".join(reporting.to_json(record) + "\n" for record in each)
        replace(claims.folder.parent / f"{half}.jsonl", text)
    if TABLE.value and found:
        print(tuning.describe(tuning.rank(found)) + "\n")
        print(reporting.render(results["reporting"] or found, width=110) + "\n")
    lost = [trial.name for trial in (*tuned, *reported) if claims.state(trial.name) != "done"]
    for name in lost:
        why = claims.errors(name) or [f"{claims.deaths(name)} processes were lost with it"]
        print(f"{name} has no result: {why[-1].splitlines()[-1]}", file=sys.stderr)
    if lost:
        print("run the same command again, with a larger --attempts if it failed", file=sys.stderr)
    return not lost


def records(claims: Claims, trials: list[Trial]) -> list[reporting.Record]:
    """The records of the trials that have ended, in the order of the list."""
    texts = [claims.result(trial.name) for trial in trials]
    return [reporting.from_json(line) for text in texts if text for line in text.splitlines()]


if __name__ == "__main__":
    jax.config.config_with_absl()
    app.run(main)
