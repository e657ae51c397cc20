"""Requests one after another: how far each method drifts from retraining, request by request.

    python -m experiments.sequential
    python -m experiments.sequential --requests=20 --size=10 --models=64 --methods=scrub

A request names a few examples that no earlier one has named. Every method goes on from its own
result of the request before, and is given a retain set without anything that was asked for so far.
Beside the methods of --methods stand `sisa`, N lineages of shards with their checkpoints, the row
`retrain`, N fresh models trained for every request, and `do nothing`, the originals as they were.
What was forgotten so far is measured after every request, against N other retrained models: these
are the oracles of KLoM, and the row `retrain` is its floor.

It writes `results.jsonl`, with the number of the request in every forget set, `results.npz`, what
the models say after the last request and what SISA has trained again, `table.md`, and the page
`report.html`, on which the whole sequence is one section.
"""

from __future__ import annotations

import time

from absl import flags

from experiments.lib import sequence_tables
from experiments.lib.command_line import define_config, define_seed, define_workdir, start
from experiments.lib.methods import make_checked_task
from experiments.lib.own_flags import define_count
from experiments.lib.pages import write_page
from experiments.lib.paths import check_workdir
from experiments.lib.populations import check_models
from experiments.lib.protocols import check_shards
from experiments.lib.results import digest_of, write_results
from experiments.lib.running import exit_with_sentence, stage, write_config, write_text
from experiments.lib.sequence_runs import begin, run_sequence
from experiments.lib.sequences import check_suits_every_request, draw_requests
from experiments.lib.tasks import lookup

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "tuned_digits", "What to run.")
METHODS = flags.DEFINE_multi_string(
    "methods",
    ["ssd", "scrub", "neg_grad_plus", "influence"],
    "Methods of the configuration; repeat the flag for several.",
    flag_values=FLAGS,
)
REQUESTS = define_count(FLAGS, "requests", 50, "How many requests.", least=2)
SIZE = define_count(FLAGS, "size", 4, "Examples of each request, drawn at random.")
MODELS = define_count(FLAGS, "models", 32, "Models N of each row; KLoM needs 20.")
EVERY = define_count(
    FLAGS,
    "every",
    5,
    "Measure membership and KLoM after every so many requests, the first and the last; accuracies "
    "and costs are measured after each.",
)
SHARDS = define_count(FLAGS, "shards", 4, "Shards of SISA.")
SLICES = define_count(FLAGS, "slices", 4, "Slices of each shard.")
SEED = define_seed(FLAGS, "Of the examples that are asked for.")
WORKDIR = define_workdir(FLAGS, "runs/sequential", "Where ensembles and results go.")


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value)


def run(config) -> None:
    began = time.monotonic()
    check_models(MODELS.value)
    workdir = check_workdir(
        WORKDIR.value,
        files=("config.json", "report.html", "results.jsonl", "results.npz", "table.md"),
        folders=("ensembles",),
    )
    task = make_checked_task(config, "classification")
    for name in METHODS.value:
        lookup(task.config.methods.to_dict(), name, "method of the configuration")
        check_suits_every_request(task, name)
    check_shards(task, SHARDS.value, SLICES.value)
    requests = draw_requests(task, REQUESTS.value, SIZE.value, SEED.value)
    write_config(workdir, config)
    counts = {"models": MODELS.value, "shards": SHARDS.value, "slices": SLICES.value}
    lineages = begin(task, requests, METHODS.value, workdir / "ensembles", **counts)
    asked = {"methods": METHODS.value, "size": SIZE.value, "seed": SEED.value}
    asked["every"] = EVERY.value
    digest = digest_of(config, requests=REQUESTS.value, **asked, **counts)
    found = run_sequence(task, requests, lineages, every=EVERY.value, digest=digest)
    path = write_results(workdir / "results.jsonl", found)
    table = sequence_tables.page(found.records)
    write_text(workdir / "table.md", table)
    with stage("draw the report"):
        report = write_page(workdir / "report.html", [found])
    print(f"{table}\nRecords: {path}   Time: {time.monotonic() - began:.0f} s")
    print(f"Report, for a browser: {report}")


if __name__ == "__main__":
    start(main, FLAGS)
