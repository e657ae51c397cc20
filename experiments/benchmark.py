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

Beside `results.jsonl` it writes `results.npz`, what every model says of every example, and
`table.md`, the page of the data set: one table of all methods and all forget sets, with intervals
and the run time as a share of that of retraining, and under it the order of the methods on each
forget set with the interval of every step. `docs/classification.md` shows these pages. The forget
sets are those of the configuration (its field `requests`), unless --requests names others.
"""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence

import numpy as np
from absl import flags

from experiments.lib import tables
from experiments.lib.command_line import define_config, define_workdir, start
from experiments.lib.ids import named_set
from experiments.lib.methods import make_checked_task
from experiments.lib.overview import overview
from experiments.lib.own_flags import define_count
from experiments.lib.paths import check_workdir
from experiments.lib.populations import (
    ORIGINALS,
    Population,
    check_models,
    everything,
    train_population,
)
from experiments.lib.results import beside, digest_of, earlier, study_arrays, write_results
from experiments.lib.rows import study
from experiments.lib.running import exit_with_sentence, write_config, write_text
from experiments.lib.tasks import Task, read_ids
from mu_jax import _progress, datasets, ensembles, reporting

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "digits", "What to run.")
REQUESTS = flags.DEFINE_multi_string(
    "requests",
    None,
    "What to forget, one table each: class:3, random:50:seed=1, nearest:50:id=6, ids:1,5,9, a file "
    "of ids, or sets.npz:name. Repeat the flag for several. Default: those of the configuration, "
    "else random:100:seed=1, nearest:50:id=6 and class:3.",
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
USUAL = ("random:100:seed=1", "nearest:50:id=6", "class:3")


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value, REQUESTS.value or CONFIG.value.get("requests") or USUAL)


def run(config, requests: Sequence[str]) -> None:
    start = time.monotonic()
    check_models(MODELS.value)
    workdir = check_workdir(
        WORKDIR.value,
        files=("config.json", "results.jsonl", "results.npz", "table.md"),
        folders=("ensembles",),
    )
    _check_requests(requests)
    task = make_checked_task(config, "classification")
    wanted = {request: read_ids(task, request) for request in requests}
    oracles = {request: _loaded(task, ids) for request, ids in wanted.items()}
    write_config(workdir, config)
    originals = train_population(
        task, workdir / "ensembles", "originals", models=MODELS.value, seed=ORIGINALS
    )
    digest = digest_of(
        config, requests=list(wanted), models=MODELS.value, oracles=str(ORACLES.value or "")
    )
    path, records, arrays, orders = workdir / "results.jsonl", [], {}, []
    kept = earlier(path, digest)
    for request, ids in _progress.each(wanted.items(), "", "forget set"):
        _progress.say(f"\n{request}: forget {len(ids)} of {task.train.num_examples}")
        found, behind, order = run_request(task, request, ids, originals, workdir, oracles[request])
        records, orders = [*records, *found], [*orders, order]
        arrays[found[0].forget_set.kind] = behind
        write_results(path, beside(kept, reporting.Run(tuple(records), arrays, digest)))
        write_text(workdir / "table.md", page(task, records, orders))
    print(reporting.render(records, width=114))
    print(f"\nRecords: {path}   Time: {time.monotonic() - start:.0f} s")


def run_request(
    task: Task,
    request: str,
    ids: np.ndarray,
    originals: Population,
    workdir: pathlib.Path,
    oracles: np.ndarray | None,
) -> tuple[list[reporting.Record], reporting.Arrays, str]:
    """Records and arrays of one forget set, and the order of the methods, which is printed too."""
    found = study(task, ids, originals, workdir / "ensembles", oracles=oracles)
    order = tables.ordering(found, request)
    _progress.show("\n" + order)
    return tables.records(found, named_set(task, request, ids)), study_arrays(found, ids), order


def page(task: Task, records: Sequence[reporting.Record], orders: Sequence[str]) -> str:
    """The page of a data set as Markdown: the table, and the order on every forget set."""
    title = f"{task.config.dataset}, {task.train.num_examples:,} training examples"
    table = reporting.render([overview(records, title)], markdown=True)
    return "\n".join([table, "", *(f"```text\n{order}\n```\n" for order in orders)])


def _check_requests(requests: Sequence[str]) -> None:
    if isinstance(requests, str) or not all(isinstance(each, str) for each in requests):
        raise ValueError(
            f"expected a list of texts for requests in the configuration, found {requests!r}; "
            'write ("class:3",)'
        )


def _loaded(task: Task, ids: np.ndarray) -> np.ndarray | None:
    """Margins of the oracles of --oracles, if it is given."""
    if ORACLES.value is None:
        return None
    index = np.asarray(everything(task).index)
    return ensembles.load_margins(ORACLES.value, index=index, forget=datasets.digest(ids)).values


if __name__ == "__main__":
    start(main, FLAGS)
