"""Language models: train or load, unlearn, evaluate, relearn; tables, records and a picture.

    python -m experiments.language
    python -m experiments.language --methods=npo --seeds=5 --config.splits=2
    python -m experiments.language --config experiments/configs/language_stdlib.py --seeds=5
    python -m experiments.language --config experiments/configs/language_tofu.py \\
        --config.data_dir=DIR --config.model.directory=DIR --config.model.retrained="('DIR',)"

The task of a configuration is `secrets`, random secrets planted in a small model of source code;
`authors`, made-up authors with the questions of TOFU; or a benchmark on disk: `tofu`,
`muse`, `wmdp`, `rwku`, and a model in a directory (the files `language_*.py` say what lies there).

Every table has the row "do nothing", the model that has learned everything; "retrain", models of
other seeds that never saw what is to be forgotten; and a row for each method. A method is right if
its numbers are those of retrain. The last columns are of relearning: each model is fine-tuned on a
part of what was forgotten, and measured on the part that it is not shown. A retrained model learns
nothing of that part; what comes back in an unlearned one was hidden and not forgotten.

For each forget set (`--config.splits`), the N models of a row (`--seeds`) are computed as one
program. They are kept in the workdir: a run that was stopped goes on where it was when the same
command is given again, and another method or other relearning trains nothing twice. At the end come
a table for each forget set, means over all runs with their intervals, and differences to retrain
and between methods; `results.jsonl` and `results.npz` in the workdir hold the records and arrays
behind them, and `relearning.svg` shows what relearning brings back. Exit code 2: wrong input.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments.lib.command_line import define_config, define_seeds, define_workdir, start
from experiments.lib.language import study
from experiments.lib.language.making import make_task
from experiments.lib.language.results import (
    draw,
    overview,
    records_of,
    split_arrays,
    write_models,
)
from experiments.lib.language.task import Split, Task
from experiments.lib.paths import check_workdir
from experiments.lib.results import beside, digest_of, earlier, write_results
from experiments.lib.running import exit_with_sentence, write_config
from mu_jax import _progress, reporting
from mu_jax.scoring.rows import NOTHING, RETRAIN

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "language_secrets", "What to run.")
METHODS = flags.DEFINE_list(
    "methods",
    None,
    "Some of the methods in the configuration, by commas; default all of them.",
    flag_values=FLAGS,
)
SEEDS = define_seeds(FLAGS, 2)
WORKDIR = define_workdir(FLAGS, "runs/language", "Where models and results go.")
PICTURE = flags.DEFINE_bool(
    "picture", True, "Draw what relearning brings back, as relearning.svg.", flag_values=FLAGS
)
WRITE = flags.DEFINE_bool(
    "write",
    False,
    "Write the first model of every row as a directory that transformers opens, such as "
    "models/split_0/npo in the workdir.",
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value, METHODS.value)


def run(config: ConfigDict, methods: list[str] | None) -> None:
    begin = time.monotonic()
    workdir = check_workdir(
        WORKDIR.value,
        files=("config.json", "results.jsonl", "results.npz", "relearning.svg"),
        folders=("ensembles", "models"),
    )
    if PICTURE.value:
        from mu_jax import plots

        plots.require()
    task = make_task(config, methods)
    write_config(workdir, config)
    folder = study.Folder(workdir / "ensembles", SEEDS.value, config.block)
    print(
        f"{config.task}: {task.train.num_examples} rows, {len(task.splits)} forget sets, "
        f"{SEEDS.value} seeds, on {jax.devices()[0].device_kind}",
        flush=True,
    )
    names = list(methods or config.methods)
    digest = digest_of(config, methods=names, seeds=SEEDS.value)
    path, records, arrays = workdir / "results.jsonl", [], {}
    kept = earlier(path, digest)
    targets = study.targets(task, folder)
    for split in _progress.each(task.splits, "", "forget set"):
        rows = split_rows(task, split, folder, targets, names)
        if WRITE.value:
            write_models(task, split, rows, workdir / "models")
        records += records_of(task, split, rows)
        arrays[split.forget_set.kind] = split_arrays(split, rows)
        write_results(path, beside(kept, reporting.Run(tuple(records), arrays, digest)))
    print(reporting.render(records, width=114))
    print("\n" + reporting.render(overview(records, task.headline), width=114))
    if PICTURE.value:
        draw(workdir / "relearning.svg", {path: list(reporting.read(path))})
        print(f"\nPicture: {workdir / 'relearning.svg'}")
    print(f"\nRecords: {path}   Time: {time.monotonic() - begin:.0f} s")


def split_rows(
    task: Task, split: Split, folder: study.Folder, targets, methods: Iterable[str]
) -> dict[str, study.Models]:
    """The rows of one forget set: the untouched models, retrained ones, and those of methods."""
    variables = {
        RETRAIN: study.retrained(task, split, folder),
        NOTHING: targets,
        **{name: study.unlearned(task, split, folder, name, targets) for name in methods},
    }
    every = _progress.each(variables.items(), "measure", "method")
    return {name: study.measured(task, split, folder, name, found) for name, found in every}


if __name__ == "__main__":
    start(main, FLAGS)
