"""Train N models as one program and keep them: originals, oracles of a request, or random subsets.

    python -m experiments.ensemble --models=64
    python -m experiments.ensemble --models=64 --request=class:3 --export=oracles.npz
    python -m experiments.ensemble --models=1000 --fraction=0.5

The models go to a folder of the workdir that is named by the digest of their recipe. The same
command again trains nothing, a larger --models adds models, and a run that was stopped goes on.
`--export` writes the margins of every model on every training and test example, for
`experiments.benchmark --oracles` here or elsewhere.
"""

from __future__ import annotations

import pathlib
import time

import jax
import numpy as np
from absl import flags

import mu_jax as mu
from experiments.lib.command_line import define_config, define_seed, define_workdir, start
from experiments.lib.own_flags import define_count
from experiments.lib.paths import check_file, check_workdir
from experiments.lib.populations import everything, train_population, train_subsets
from experiments.lib.running import exit_with_sentence
from experiments.lib.tasks import Task, like, make_task, read_ids, split
from mu_jax import datasets, ensembles, evaluation
from mu_jax.scoring.kinds import point

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "digits", "What to train.")
MODELS = define_count(FLAGS, "models", 64, "Number of models.")
REQUEST = flags.DEFINE_string(
    "request", None, "Train without these examples: oracles of a request.", flag_values=FLAGS
)
FRACTION = flags.DEFINE_float(
    "fraction", None, "Train each model on its own subset of this size.", flag_values=FLAGS
)
SEED = define_seed(FLAGS, "Seed of the ensemble.")
EXPORT = flags.DEFINE_string(
    "export", None, "Write the margins of the models to this .npz file.", flag_values=FLAGS
)
WORKDIR = define_workdir(FLAGS, "runs/ensembles", "Where ensembles are kept.")


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        if REQUEST.value is not None and FRACTION.value is not None:
            raise ValueError(
                "expected --request or --fraction, found both; oracles are trained on all that is "
                "retained, subsets are random"
            )
        directory = check_workdir(WORKDIR.value)
        task = make_task(CONFIG.value)
        if EXPORT.value is not None:
            check_export(task, check_file(EXPORT.value))
        run(task, directory)


def run(task: Task, directory: pathlib.Path) -> None:
    start = time.monotonic()
    ids = np.zeros(0, np.int64) if REQUEST.value is None else read_ids(task, REQUEST.value)
    if FRACTION.value is None:
        examples = split(task, ids)[1] if ids.size else task.train
        found = train_population(
            task, directory, "ensemble", models=MODELS.value, examples=examples, seed=SEED.value
        )
        what = f"without {ids.size} examples ({REQUEST.value})" if ids.size else "on all examples"
    else:
        found = train_subsets(
            task,
            directory,
            "ensemble",
            models=MODELS.value,
            fraction=FRACTION.value,
            seed=SEED.value,
        )
        what = f"on random subsets of {FRACTION.value:g}"
    describe(task, found.outputs, what)
    if EXPORT.value is not None:
        export(task, found.outputs, ids)
    print(f"Ensembles: {directory}   Time: {time.monotonic() - start:.1f} s")


def describe(task: Task, outputs: np.ndarray, what: str) -> None:
    """Quality of the models on the training and the test examples, mean and spread."""
    targets = np.asarray(everything(task).targets)
    values, unit = _quality(task, outputs, targets)
    size = task.train.num_examples
    size_of = sum(x.size for x in jax.tree.leaves(like(task)))
    print(f"{len(outputs)} models of {size_of:,} numbers, {what} of {task.config.dataset}")
    for name, part in (("training", values[:, :size]), ("test", values[:, size:])):
        each = part.mean(axis=1)
        spread = f" ± {each.std(ddof=1):.4f} over models" if len(each) > 1 else ""
        print(f"  {name} {unit}: {each.mean():.4f}{spread}")


def _quality(task: Task, outputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, str]:
    if task.info.task == "classification":
        correct = outputs.argmax(-1) == targets
        return np.where(np.isnan(outputs).any(-1), np.nan, correct), "accuracy"
    predictions = (point(found, targets) for found in outputs)
    return np.stack([mu.losses.squared_error(found, targets) for found in predictions]), (
        "squared error"
    )


def check_export(task: Task, path: pathlib.Path) -> None:
    """Refuse margins that cannot be, or a file that `--oracles` would not read."""
    if task.info.task != "classification":
        raise ValueError(
            f"expected a classification task for --export, found {task.config.dataset}; margins "
            "are those of labels"
        )
    if path.suffix != ".npz":
        raise ValueError(f"expected a name that ends in .npz for --export, found {path}; rename it")


def export(task: Task, outputs: np.ndarray, ids: np.ndarray) -> None:
    """Write margins, with the ids of the examples and the digest of the forget set."""
    examples = everything(task)
    margins = np.asarray(evaluation.margins(outputs, examples.targets))
    forget = datasets.digest(ids) if ids.size else ""
    ensembles.save_margins(
        EXPORT.value, ensembles.Margins(margins, np.asarray(examples.index), forget)
    )
    print(f"Margins {margins.shape}: {EXPORT.value}")


if __name__ == "__main__":
    start(main, FLAGS)
