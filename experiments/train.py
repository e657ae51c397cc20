"""Train a model on all training data and publish it as version 1 of a store.

    python -m experiments.train --workdir=runs/digits
    python -m experiments.train --workdir=runs/cnn --config.model.name=cnn --seed=1
    python -m experiments.train --workdir=runs/own --task=my_project.unlearning:make_task
    python -m experiments.train --workdir=runs/sisa --config.training.protocol.name=sisa \\
        --config.training.protocol.shards=4 --config.training.protocol.slices=3

With a protocol of exact unlearning, sisa or s3t, a removal equals a training without the examples
(docs/exact.md). An own task (docs/own-task.md) brings model, loss and data, and weights if it is
trained already. A run that was stopped resumes where it was when the same command is given again.
"""

from __future__ import annotations

import pathlib

import jax
from absl import flags

import mu_jax as mu
from experiments.lib import pending, scoring
from experiments.lib.command_line import define_config, define_seed, define_workdir, start
from experiments.lib.paths import working_directory
from experiments.lib.protocols import make_task
from experiments.lib.running import exit_with_sentence, stage, write_config
from experiments.lib.tasks import Task, like, recipe, train
from mu_jax.store import Store, commits

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "digits", "What to train.")
WORKDIR = define_workdir(FLAGS, None, "Where the store goes.")
SEED = define_seed(FLAGS, "Seed of initialization and shuffling.")
RESTART = flags.DEFINE_bool(
    "restart", False, "Delete what stopped runs have kept first.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value, working_directory(WORKDIR.value), SEED.value)


def run(config, workdir: pathlib.Path, seed: int) -> None:
    store = Store(workdir / "store")
    require_new(store, workdir)
    task = make_task(config)
    this = pending.describe(workdir / "state", f"train --seed={seed}", task, seed=seed)
    with (
        pending.locked(workdir / "state" / "train", f"training in {workdir}"),
        pending.alone(this, restart=RESTART.value) as claim,
    ):
        require_new(store, workdir)
        version = find_or_train(store, task, this, claim, seed)
        write_config(workdir, config)
        store.swap(version, expected=None)
    size = sum(leaf.size for leaf in jax.tree.leaves(task.model.params(like(task))))
    print(f"Published and serving version {version} ({size:,} parameters) in {store.directory}")
    request = "class:1" if task.info.task == "classification" else "random:0.05:seed=0"
    method = "" if task.protocol is not None else " --method=ssd"
    print(f"Next: python -m experiments.unlearn --workdir={workdir} --request={request}{method}")


def require_new(store: Store, workdir: pathlib.Path) -> None:
    """Refuse a directory in which a model serves."""
    if serving := commits.agree(store.serving() or 0):
        raise FileExistsError(
            f"expected a working directory without a model, found version {serving} "
            f"serving in {workdir}; choose another --workdir"
        )


def find_or_train(
    store: Store, task: Task, run: pending.Run, claim: pending.Claim, seed: int
) -> int:
    """The version that this run has published, now or before it was killed."""
    version = store.find(run.identity)
    if version is not None:
        return version
    config = task.config
    with mu.resumable(run.folder, config=run.decides):
        variables = given(task) if task.weights is not None else trained(task, seed)
        metrics = {}
        for name, examples in (("train", task.train), ("test", task.test)):
            part = scoring.collect_outputs(task, variables, examples)
            metrics |= scoring.quality(task, part, name)
        print("   ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        claim.require_held()
        return store.publish(
            variables,
            method="train" if task.weights is None else "given weights",
            hyperparameters={"seed": seed, **recipe(task)} if task.weights is None else {},
            metrics=metrics,
            note=config.dataset,
            identity=run.identity,
            ids=task.sources["train"].ids,
        )


def trained(task: Task, seed: int):
    """A model by the recipe of the configuration."""
    how = "" if task.protocol is None else f" by {task.config.training.protocol.name}"
    with stage(f"train {task.config.model.name} on {task.config.dataset}{how}"):
        return train(task, jax.random.key(seed), task.train)


def given(task: Task):
    """The weights that came with an own task."""
    with stage(f"read the weights of {task.config.dataset}"):
        return mu.store.load_weights(task.weights, like=like(task))


if __name__ == "__main__":
    start(main, FLAGS)
