"""Train a model on all training data and publish it as version 1 of a store.

    python -m experiments.train --workdir=runs/digits
    python -m experiments.train --workdir=runs/cnn --config.model.name=cnn --seed=1

A run that was stopped resumes where it was when the same command is given again.
"""

from __future__ import annotations

import pathlib

import jax
import numpy as np
from absl import flags

import mu_jax as mu
from experiments.lib import scoring
from experiments.lib.command_line import define_config, start
from experiments.lib.paths import working_directory
from experiments.lib.running import exit_with_sentence, stage, write_config
from experiments.lib.tasks import make_task, train
from mu_jax.store import Store

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "digits", "What to train.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the store goes.", required=True, flag_values=FLAGS
)
SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of initialisation and shuffling.", lower_bound=0, flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        run(CONFIG.value, working_directory(WORKDIR.value), SEED.value)


def run(config, workdir: pathlib.Path, seed: int) -> None:
    store = Store(workdir / "store")
    if store.serving() is not None:
        raise FileExistsError(
            f"expected a working directory without a model, found version {store.serving()} "
            f"serving in {workdir}; choose another --workdir"
        )
    task = make_task(config)
    identity = {"config": config.to_json_best_effort(), "seed": seed}
    label = f"train {config.model.name} on {config.dataset}"
    with stage(label), mu.resumable(workdir / "state", config=identity):
        variables = train(task, jax.random.key(seed), task.train)
    metrics = {}
    for name, examples in (("train", task.train), ("test", task.test)):
        part = scoring.collect_outputs(task, variables, examples)
        metrics |= scoring.quality(task, part, name)
    print("   ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    version = store.publish(
        variables,
        method="train",
        hyperparameters={"seed": seed, **config.training.to_dict()},
        metrics=metrics,
        note=config.dataset,
    )
    write_config(workdir, config)
    store.swap(version, expected=None)
    size = sum(np.size(x) for x in jax.tree.leaves(task.model.params(variables)))
    print(f"Published and serving version {version} ({size:,} parameters) in {store.directory}")
    print(f"Next: python -m experiments.unlearn --workdir={workdir} --request=class:3 --method=ssd")


if __name__ == "__main__":
    start(main, FLAGS)
