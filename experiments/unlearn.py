"""Take a deletion request, unlearn, check, publish the new version, and let it serve.

    python -m experiments.unlearn --workdir=runs/digits --request=class:3 --method=ssd
    python -m experiments.unlearn --workdir=runs/digits --request=ids.csv --method=iau --noswap
    python -m experiments.unlearn --workdir=runs/digits --request=class:3 --method=ssd --dry_run
    python -m experiments.unlearn --workdir=runs/digits --roll_back

The version that serves is the parent of the new one. A collapsed model is published for inspection
and never served (exit code 3), and so is one whose parent no longer serves when it is done (exit
code 4). What an ancestor has forgotten is in no set of a later request. A run that was stopped
resumes when the same command is given again.
"""

from __future__ import annotations

import json
import pathlib
import sys

import jax
import numpy as np
from absl import flags

import mu_jax as mu
from experiments.lib import scoring, tasks
from experiments.lib.command_line import alone, start
from experiments.lib.methods import METHODS, Request, complete, make_method, method_arguments
from experiments.lib.paths import working_directory
from experiments.lib.running import exit_with_sentence, read_config, stage
from experiments.lib.tasks import make_task, read_ids
from mu_jax import datasets
from mu_jax.store.versions import Overtaken, Store

FLAGS = flags.FlagValues()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where the model was trained.", required=True, flag_values=FLAGS
)
REQUEST = flags.DEFINE_string(
    "request",
    None,
    "What to forget: a CSV or JSON-lines file of ids, class:3, random:0.05:seed=0, ids:1,5,9.",
    flag_values=FLAGS,
)
METHOD = flags.DEFINE_enum("method", "ssd", list(METHODS), "How to unlearn.", flag_values=FLAGS)
SET = flags.DEFINE_multi_string(
    "set", [], "Hyper-parameter of the method in JSON, such as --set alpha=3.", flag_values=FLAGS
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where prepared datasets lie, if elsewhere now.", flag_values=FLAGS
)
SEED = flags.DEFINE_integer("seed", 0, "Seed of the method.", lower_bound=0, flag_values=FLAGS)
SWAP = flags.DEFINE_bool("swap", True, "Let the new version serve.", flag_values=FLAGS)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Say what would be done, and stop.", flag_values=FLAGS
)
ROLL_BACK = flags.DEFINE_bool(
    "roll_back", False, "Serve the version before the last swap again.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        alone(FLAGS, "roll_back", "workdir")
        workdir = working_directory(WORKDIR.value)
        store = Store(workdir / "store")
        if ROLL_BACK.value:
            print(f"Serving version {store.roll_back()} again")
        elif REQUEST.value is None:
            raise ValueError("expected a --request, found none; give ids to forget")
        else:
            sys.exit(run(workdir, store))


def run(workdir: pathlib.Path, store: Store) -> int:
    task = make_task(configuration(workdir))
    parent = store.serving()
    gone = store.forgotten(parent) if parent is not None else np.zeros(0, np.int64)
    asked = read_ids(task, REQUEST.value)
    ids = np.setdiff1d(asked, gone)
    if not ids.size:
        print(f"All {len(asked)} examples of {REQUEST.value} are forgotten already; nothing to do")
        return 0
    if len(ids) < len(asked):
        print(f"{len(asked) - len(ids)} of {len(asked)} examples are forgotten already")
    task = tasks.without(task, gone)
    forget, retain = tasks.split(task, ids)
    print(
        f"{task.config.dataset}: forget {len(ids)} of {task.train.num_examples} examples from "
        f"version {parent} with {METHOD.value} {method_arguments(task, METHOD.value)}",
        flush=True,
    )
    if DRY_RUN.value:
        print(
            f"{forget.num_batches} forget and {retain.num_batches} retain batches of "
            f"{forget.batch_size}; nothing was done"
        )
        return 0
    like = jax.eval_shape(task.init, jax.random.key(0))
    variables = store.restore(like=like)
    identity = {
        "parent": parent,
        "method": METHOD.value,
        "forget": datasets.digest(ids),
        "arguments": method_arguments(task, METHOD.value),
        "seed": SEED.value,
    }
    transform = make_method(task, METHOD.value, Request(forget, workdir / "ensembles"))
    with stage(METHOD.value), mu.resumable(workdir / "state", config=identity):
        variables, info = transform(jax.random.key(SEED.value), variables, forget, retain)
    if not info.edit.finite:
        print(f"The unlearned model is not finite and is not kept; version {parent} keeps serving")
        return 3
    metrics, collapse = scoring.score(task, variables, forget, retain, seed=SEED.value)
    version = store.publish(
        variables,
        parent=parent,
        method=METHOD.value,
        hyperparameters=method_arguments(task, METHOD.value),
        forgotten=ids,
        metrics=scoring.values(metrics),
        note=f"{REQUEST.value}{'; collapsed: ' + collapse.reason if collapse.flag else ''}",
    )
    describe(info, metrics)
    if collapse.flag:
        print(
            f"Version {version} has collapsed ({collapse.reason}); version {parent} keeps serving"
        )
        return 3
    if SWAP.value:
        try:
            store.swap(version, expected=parent)
        except Overtaken as error:
            print(f"Version {version} is published and not serving: {error}")
            return 4
    print(
        f"Version {version} is published{' and serving' if SWAP.value else ''}; "
        f"compare it with retraining: python -m experiments.evaluate --workdir={workdir} "
        f"--request={REQUEST.value}"
    )
    return 0


def configuration(workdir: pathlib.Path):
    """The configuration of the trained model, with the flags of this binary."""
    config = read_config(workdir)
    if DATA_DIR.value is not None:
        config.data_dir = DATA_DIR.value
    complete(config, METHOD.value)
    arguments = config.methods[METHOD.value]
    for item in SET.value:
        name, equals, text = item.partition("=")
        if not equals:
            raise ValueError(
                f"expected --set name=value, found {item!r}; write for example alpha=3"
            )
        with config.ignore_type():  # what a value may be is checked when the method is made
            try:
                arguments[name] = json.loads(text)
            except json.JSONDecodeError:
                arguments[name] = text
    return config


def describe(info: mu.Info, metrics) -> None:
    """Print what the edit did and how the model scores."""
    edit = info.edit
    print(
        f"changed {float(edit.changed):.2%} of the parameters, by {float(edit.update_norm):.4g} "
        f"(norm before {float(edit.params_norm):.4g}); {int(info.steps)} steps, "
        f"{float(info.example_passes):.0f} example passes"
    )
    for name, metric in metrics.items():
        text = f"{metric.value:.4f} (n={metric.n})" if metric.value is not None else metric.reason
        print(f"  {name:24s} {text}")


if __name__ == "__main__":
    start(main, FLAGS)
