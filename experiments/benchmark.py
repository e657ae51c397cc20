"""Methods x forget sets x N models: how far each method is from retraining, with its floor.

    python -m experiments.benchmark
    python -m experiments.benchmark --requests=class:3 --models=100 --config.methods.ssd.alpha=3
    python -m experiments.benchmark --config experiments/configs/cifar10.py --config.data_dir=DIR \\
        --requests=dub_forget_sets.npz:cifar10_forget_set_5

For every forget set it retrains 2 N models without the set: N are the oracles that everything is
compared with, the other N the row "retrain", which is the floor that a perfect unlearner reaches.
Then every method of the configuration unlearns the set from the same N originals. KLoM is the
divergence of the margins of N unlearned models from those of the oracles, per example; the table
has its 95th percentile over each split. Ensembles are kept in the workdir and reused; a run that
was stopped goes on where it was.
"""

from __future__ import annotations

import pathlib
import sys
import time

import numpy as np
from absl import flags

from experiments.lib import tables
from experiments.lib.command_line import define_config, define_workdir, start
from experiments.lib.ids import named_set
from experiments.lib.methods import make_checked_task
from experiments.lib.own_flags import define_count
from experiments.lib.paths import check_workdir
from experiments.lib.populations import ORIGINALS, Population, everything, train_population
from experiments.lib.rows import study
from experiments.lib.running import exit_with_sentence, write_config, write_records
from experiments.lib.tasks import Task, read_ids
from mu_jax import datasets, ensembles, reporting

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "digits", "What to run.")
REQUESTS = flags.DEFINE_multi_string(
    "requests",
    ["random:100:seed=1", "nearest:50:id=6", "class:3"],
    "What to forget, one table each: class:3, random:50:seed=1, nearest:50:id=6, ids:1,5,9, a file "
    "of ids, or sets.npz:name. Repeat the flag for several.",
    flag_values=FLAGS,
)
MODELS = define_count(FLAGS, "models", 64, "Models N of each row; KLoM needs 20 and wants 100.")
ORACLES = flags.DEFINE_string(
    "oracles",
    None,
    "Margins of somebody else's oracles [models, train + test], .npz or .npy.",
    flag_values=FLAGS,
)
WORKDIR = define_workdir(FLAGS, "runs/benchmark", "Where ensembles and results go.")
FEWEST = 20


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value, REQUESTS.value)


def run(config, requests: list[str]) -> None:
    start = time.monotonic()
    if MODELS.value < FEWEST:
        raise ValueError(
            f"expected at least {FEWEST} models, below which KLoM is noise, found {MODELS.value}; "
            "raise --models"
        )
    workdir = check_workdir(
        WORKDIR.value, files=("config.json", "results.jsonl"), folders=("ensembles",)
    )
    task = make_checked_task(config, "classification")
    wanted = {request: read_ids(task, request) for request in requests}
    oracles = {request: _loaded(task, ids) for request, ids in wanted.items()}
    write_config(workdir, config)
    originals = train_population(
        task, workdir / "ensembles", "originals", models=MODELS.value, seed=ORIGINALS
    )
    records = []
    for request, ids in wanted.items():
        print(f"\n{request}: forget {len(ids)} of {task.train.num_examples}", file=sys.stderr)
        records += run_request(task, request, ids, originals, workdir, oracles[request])
        write_records(workdir / "results.jsonl", records)
    print(reporting.render(records, width=114))
    print(f"\nRecords: {workdir / 'results.jsonl'}   Time: {time.monotonic() - start:.0f} s")


def run_request(
    task: Task,
    request: str,
    ids: np.ndarray,
    originals: Population,
    workdir: pathlib.Path,
    oracles: np.ndarray | None,
) -> list[reporting.Record]:
    """Records of one forget set; prints in which order the methods come."""
    found = study(task, ids, originals, workdir / "ensembles", oracles=oracles)
    print("\n" + tables.ordering(found, request), flush=True)
    return tables.records(found, named_set(task, request, ids))


def _loaded(task: Task, ids: np.ndarray) -> np.ndarray | None:
    """Margins of the oracles of --oracles, if it is given."""
    if ORACLES.value is None:
        return None
    index = np.asarray(everything(task).index)
    return ensembles.load_margins(ORACLES.value, index=index, forget=datasets.digest(ids)).values


if __name__ == "__main__":
    start(main, FLAGS)
