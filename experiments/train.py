"""Train a model on all training data and publish it as version 1 of a store.

    python -m experiments.train --workdir=runs/digits
    python -m experiments.train --workdir=runs/cnn --config.model.name=cnn --seed=1

A run that was stopped resumes where it was when the same command is given again.
"""

from __future__ import annotations

import pathlib

import jax
from absl import flags

import mu_jax as mu
from experiments.lib import pending, scoring
from experiments.lib.command_line import define_config, define_seed, start
from experiments.lib.paths import on_disk
from experiments.lib.running import exit_with_sentence, stage, write_config
from experiments.lib.tasks import Task, make_task, train
from mu_jax.store import Store

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "digits", "What to train.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the store goes.", required=True, flag_values=FLAGS
)
SEED = define_seed(FLAGS, "Seed of initialization and shuffling.")
RESTART = flags.DEFINE_bool(
    "restart", False, "Delete what stopped runs have kept first.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value, on_disk(WORKDIR.value), SEED.value)


def run(config, workdir: pathlib.Path, seed: int) -> None:
    store = Store(workdir / "store")
    require_new(store, workdir)
    task = make_task(config)
    this = pending.describe(workdir / "state", f"train --seed={seed}", task, seed=seed)
    with (
        pending.locked(workdir / "state" / "train", f"training in {workdir}"),
        pending.alone(this, restart=RESTART.value),
    ):
        require_new(store, workdir)
        version = find_or_train(store, task, this, seed)
        write_config(workdir, config)
        store.swap(version, expected=None)
    size = sum(leaf.size for leaf in jax.tree.leaves(task.model.params(like(task))))
    print(f"Published and serving version {version} ({size:,} parameters) in {store.directory}")
    print(f"Next: python -m experiments.unlearn --workdir={workdir} --request=class:3 --method=ssd")


def require_new(store: Store, workdir: pathlib.Path) -> None:
    """Refuse a directory in which a model serves."""
    if store.serving() is not None:
        raise FileExistsError(
            f"expected a working directory without a model, found version {store.serving()} "
            f"serving in {workdir}; choose another --workdir"
        )


def like(task: Task):
    """Shapes and dtypes of the variables."""
    return jax.eval_shape(task.init, jax.random.key(0))


def find_or_train(store: Store, task: Task, run: pending.Run, seed: int) -> int:
    """The version that this run has published, now or before it was killed."""
    version = store.find(run.identity)
    if version is not None:
        return version
    config = task.config
    with mu.resumable(run.folder, config=run.decides):
        with stage(f"train {config.model.name} on {config.dataset}"):
            variables = train(task, jax.random.key(seed), task.train)
        metrics = {}
        for name, examples in (("train", task.train), ("test", task.test)):
            part = scoring.collect_outputs(task, variables, examples)
            metrics |= scoring.quality(task, part, name)
        print("   ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        return store.publish(
            variables,
            method="train",
            hyperparameters={"seed": seed, **config.training.to_dict()},
            metrics=metrics,
            note=config.dataset,
            identity=run.identity,
            ids=task.sources["train"].ids,
        )


if __name__ == "__main__":
    start(main, FLAGS)
