"""Take a deletion request, unlearn, check, publish the new version, and let it serve.

    python -m experiments.unlearn --workdir=runs/digits --request=class:3 --method=ssd
    python -m experiments.unlearn --workdir=runs/digits --request=ids.csv --method=iau --noswap
    python -m experiments.unlearn --workdir=runs/digits --request=class:3 --method=ssd --dry_run
    python -m experiments.unlearn --workdir=runs/digits --roll_back
    python -m experiments.unlearn --workdir=runs/digits --serve=2

The version that serves is the parent of the new one. A collapsed model is published for inspection
and not served (exit code 3); so is one that has forgotten nothing, unless --serve_anyway; and so is
one whose parent no longer serves when it is done (exit code 4). A model that was trained by a
protocol of exact unlearning forgets by it, and by no other method; when that is spent, nothing is
done (exit code 3). What an ancestor has forgotten is
in no set of a later request. A run that was stopped resumes when the same command is given again,
is in the way of no other, and is named until then; --restart deletes what stopped runs have kept.
The record of version N and the arrays behind it are written to unlearned/version-N.jsonl.
"""

from __future__ import annotations

import functools
import json
import pathlib
import sys

import jax
import numpy as np
from absl import flags

import mu_jax as mu
from experiments.lib import guard, initial, pending, scoring, stored_statistics, tasks
from experiments.lib.command_line import define_seed, define_workdir, start
from experiments.lib.ids import check_ids, named_set
from experiments.lib.methods import Request, make_method, method_arguments
from experiments.lib.own_flags import alone
from experiments.lib.paths import working_directory
from experiments.lib.protocol_fields import NAMES
from experiments.lib.protocols import define_method, make_task, settle_method
from experiments.lib.results import digest_of, write_results
from experiments.lib.running import exit_with_sentence, read_config, stage
from experiments.lib.tasks import read_ids
from mu_jax import _json, datasets, reporting
from mu_jax.exact import Spent
from mu_jax.scoring.rows import record
from mu_jax.store import commits
from mu_jax.store.versions import Overtaken, Store

FLAGS = flags.FlagValues()
WORKDIR = define_workdir(FLAGS, None, "Where the model was trained.")
REQUEST = flags.DEFINE_string(
    "request",
    None,
    "What to forget: a CSV, JSON-lines or Parquet file of ids, class:3, random:0.05:seed=0, "
    "ids:1,5,9, id:img_7, or a subject such as user:u_8123.",
    flag_values=FLAGS,
)
METHOD = define_method(FLAGS)
SET = flags.DEFINE_multi_string(
    "set", [], "Hyper-parameter of the method in JSON, such as --set alpha=3.", flag_values=FLAGS
)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where prepared datasets lie, if elsewhere now.", flag_values=FLAGS
)
SEED = define_seed(FLAGS, "Seed of the method.")
SWAP = flags.DEFINE_bool("swap", True, "Let the new version serve.", flag_values=FLAGS)
SERVE_ANYWAY = flags.DEFINE_bool(
    "serve_anyway", False, "Serve even a version that has forgotten nothing.", flag_values=FLAGS
)
DRY_RUN = flags.DEFINE_bool(
    "dry_run", False, "Say what would be done, and stop.", flag_values=FLAGS
)
ROLL_BACK = flags.DEFINE_bool(
    "roll_back", False, "Serve the version before the last swap again.", flag_values=FLAGS
)
SERVE = flags.DEFINE_integer(
    "serve",
    None,
    "Serve this version; repairs a damaged pointer too.",
    lower_bound=1,
    flag_values=FLAGS,
)
RESTART = flags.DEFINE_bool(
    "restart",
    False,
    "Delete the states of this and of all other stopped requests first.",
    flag_values=FLAGS,
)


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        alone(FLAGS, "roll_back", "workdir")
        alone(FLAGS, "serve", "workdir", "serve_anyway")
        workdir = working_directory(WORKDIR.value)
        store = Store(workdir / "store")
        if ROLL_BACK.value:
            print(f"Serving version {store.roll_back()} again")
        elif SERVE.value is not None:
            sys.exit(serve_chosen(store, SERVE.value))
        elif REQUEST.value is None:
            raise ValueError("expected a --request, found none; give ids to forget")
        else:
            sys.exit(run(workdir, store))


def run(workdir: pathlib.Path, store: Store) -> int:
    task = make_task(configuration(workdir))
    parent = commits.agree(store.serving() or 0) or None
    gone = store.forgotten(parent) if parent is not None else np.zeros(0, np.int64)
    check_ids(task, store, parent)
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
    return unlearn(workdir, store, task, parent, ids)


def unlearn(
    workdir: pathlib.Path, store: Store, task: tasks.Task, parent: int | None, ids: np.ndarray
) -> int:
    """Forget `ids`, publish the new version and serve it; the exit code."""
    forget, retain = tasks.split(task, ids)
    before = store.restore(parent, like=tasks.like(task))
    arguments = method_arguments(task, METHOD.value)
    this = pending.describe(
        workdir / "state",
        f"--request={REQUEST.value} --method={METHOD.value} {json.dumps(arguments)} "
        f"--seed={SEED.value}, of version {parent}",
        task,
        parent=[parent, pending.fingerprint(before)],
        method=METHOD.value,
        arguments=arguments,
        forget=datasets.digest(ids),
        seed=SEED.value,
    )
    with pending.alone(this, restart=RESTART.value) as claim:
        version = store.find(this.identity)
        if version is not None:
            print(f"Version {version} is the result of this request")
            keep_numbers(workdir, store, task, version, (forget, retain))
            return serve(store, version, parent)
        begun = functools.partial(initial.of_lineage, task, store, parent)
        known = stored_statistics.over_all(task, before, workdir)
        request = Request(forget, workdir / "ensembles", begun, known)
        transform = make_method(task, METHOD.value, request)
        transform = mu.watched(transform, False)  # the guard measures, and says it in a sentence
        with mu.resumable(this.folder, config=this.decides):
            try:
                with stage(METHOD.value):
                    variables, info = transform(jax.random.key(SEED.value), before, forget, retain)
            except Spent as error:
                print(f"Version {parent} keeps serving: {error}")
                return 3
            if not info.edit.finite:
                print(
                    "The unlearned model is not finite and is not kept; "
                    f"version {parent} keeps serving"
                )
                return 3
            outputs = scoring.outputs_of(task, variables, forget, retain)
            found, collapse = scoring.measure(task, outputs, seed=SEED.value)
            models = (before, variables)
            changes, withheld = guard.judge(task, models, forget, retain, info, collapse)
            metrics = found | changes
            claim.require_held()
            version = store.publish(
                variables,
                parent=parent,
                method=METHOD.value,
                hyperparameters=arguments,
                forgotten=ids,
                metrics=scoring.values(metrics),
                note=REQUEST.value,
                withheld=withheld,
                identity=this.identity,
                ids=task.sources["train"].ids,
            )
    scored = outputs, found, collapse
    keep_numbers(workdir, store, task, version, (forget, retain), scored)
    describe(info, metrics)
    return serve(store, version, parent)


def keep_numbers(
    workdir: pathlib.Path,
    store: Store,
    task: tasks.Task,
    version: int,
    sets: tuple[mu.Batches, mu.Batches],
    scored=None,
) -> None:
    """Write the record of a published version, and the arrays behind it, where they are not yet.

    Args:
      sets: forget and retain. scored: outputs, metrics and collapse of the version; None computes
        them from the store.
    """
    path = workdir / "unlearned" / f"version-{version}.jsonl"
    if path.exists():
        return
    if scored is None:
        variables = store.restore(version, like=tasks.like(task))
        outputs = scoring.outputs_of(task, variables, *sets)
        scored = outputs, *scoring.measure(task, outputs, seed=SEED.value)
    outputs, *found = scored
    line = record(
        METHOD.value,
        named_set(task, REQUEST.value, np.asarray(sets[0].index)),
        SEED.value,
        found,
        hyperparameters=store.lineage(version)[0].hyperparameters,
    )
    arrays = reporting.Arrays({METHOD.value: scoring.examples(task, outputs, *sets)})
    digest = digest_of(
        task.config, request=REQUEST.value, method=METHOD.value, seed=SEED.value, version=version
    )
    path.parent.mkdir(exist_ok=True)
    write_results(path, reporting.Run((line,), {line.forget_set.kind: arrays}, digest))


def serve_chosen(store: Store, version: int) -> int:
    """Serve a version by number, whatever serves now or a damaged pointer says; the exit code."""
    withheld = store.lineage(version)[0].withheld
    if withheld and not SERVE_ANYWAY.value:
        print(
            f"Version {version} was published for inspection, since {withheld}; add --serve_anyway"
        )
        return 3
    store.swap(version, anyway=SERVE_ANYWAY.value)
    print(f"Serving version {version}")
    return 0


def serve(store: Store, version: int, parent: int | None) -> int:
    """Let a published version serve if nothing speaks against it; the exit code."""
    withheld = store.lineage(version)[0].withheld
    nothing = withheld.startswith(guard.NOTHING)
    if withheld and not (SERVE_ANYWAY.value and nothing):
        advice = "; choose other hyper-parameters, or add --serve_anyway" if nothing else ""
        print(f"{guard.refusal(version, withheld)}; version {parent} keeps serving{advice}")
        return 3
    if SWAP.value:
        try:
            store.swap(version, expected=parent, anyway=SERVE_ANYWAY.value)
        except Overtaken as error:
            print(f"Version {version} is published and not serving: {error}")
            return 4
        stored_statistics.discard(store.directory.parent)
    print(
        f"Version {version} is published{' and serving' if SWAP.value else ''}; "
        f"compare it with retraining: python -m experiments.evaluate --workdir={WORKDIR.value} "
        f"--request={REQUEST.value}"
    )
    return 0


def configuration(workdir: pathlib.Path):
    """The configuration of the trained model, with the flags of this binary."""
    config = read_config(workdir)
    if DATA_DIR.value is not None:
        config.data_dir = DATA_DIR.value
    settle_method(FLAGS, config)
    if METHOD.value in NAMES and SET.value:
        raise ValueError(
            f"expected --method={METHOD.value} without --set, since its numbers are those of its "
            "training, found both; leave --set out"
        )
    if METHOD.value in NAMES:
        return config
    arguments = config.methods[METHOD.value]
    for item in SET.value:
        name, equals, text = item.partition("=")
        if not equals:
            raise ValueError(
                f"expected --set name=value, found {item!r}; write for example alpha=3"
            )
        with config.ignore_type():  # what a value may be is checked when the method is made
            try:
                arguments[name] = _json.parse(text)
            except ValueError:
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
