"""Serve deletion requests as they arrive: unlearn, judge, publish, swap, certify, retrain.

    python -m experiments.serve_requests --workdir=runs/digits --accept=class:3 --method=ssd
    python -m experiments.serve_requests --workdir=runs/digits --requests=asked.jsonl --only_accept
    python -m experiments.serve_requests --workdir=runs/digits --refuse=2 --reason="kept by law"
    python -m experiments.serve_requests --workdir=runs/digits --method=ssd --batch=1 --poll=60 \\
        --gate=retain_accuracy=0.9 --gate=membership=0.6 --budget=steps=20 --budget=share=0.1 \\
        --retrain --key=operator.pem --operator=ACME
    python -m experiments.serve_requests --workdir=runs/sisa --accept=user:u_8123

A model that was trained by a protocol of exact unlearning (docs/exact.md) forgets by it, all
requests that wait at once whatever --batch says; when it is spent, --retrain trains a new lineage.

Requests wait in a ledger: ledger.db of the working directory, or --ledger. Each run of the loop
takes --batch of them, or all, and makes a version from the one that serves, by the method of the
configuration. If it passes the gate and its lineage stays within the budget, it serves from then
on, and with --key a certificate says so. If not, the old version serves on and the requests are put
back, with the reason. After --attempts of that, or where the budget is spent, --retrain trains a
model on all that nobody asked to forget, and a new lineage begins with it; without --retrain the
loop ends. What a process leaves that is killed at any moment, the next one goes on with. --refuse
turns down requests that wait, and serves nothing.

Exit codes: 0, nothing waits; 2, bad input; 3, what was made does not pass the gate, or needs a
retraining and --retrain is not given: the old version serves; 4, another worker has taken over, or
others swap faster than a version is made.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import sys
import time

import numpy as np
from absl import flags

from experiments.lib import serving, serving_requests, stored_statistics
from experiments.lib.command_line import define_seed, define_workdir, start
from experiments.lib.ids import check_ids
from experiments.lib.own_flags import alone, define_count
from experiments.lib.paths import working_directory
from experiments.lib.protocols import define_method, make_task, settle_method
from experiments.lib.running import exit_with_sentence, read_config
from experiments.lib.sentences import refuse
from experiments.lib.serving_requests import Asked
from experiments.lib.tasks import Task, like
from mu_jax._paths import in_bucket
from mu_jax.service import Budget, Gate, Ledger, Outcome, Service, Signer, keys
from mu_jax.store.versions import Overtaken, Store

FLAGS = flags.FlagValues()
WORKDIR = define_workdir(FLAGS, None, "Where the model was trained.")
LEDGER = flags.DEFINE_string(
    "ledger", None, "A file, or postgresql://USER@HOST/NAME; ledger.db there.", flag_values=FLAGS
)
ACCEPT = flags.DEFINE_multi_string(
    "accept",
    [],
    "A request to write down first: user:u_8123, class:3, ids:1,5,9 or a file of ids.",
    flag_values=FLAGS,
)
REQUESTS = flags.DEFINE_string(
    "requests", None, "A file of requests to write down, one a line.", flag_values=FLAGS
)
ONLY_ACCEPT = flags.DEFINE_bool(
    "only_accept", False, "Write requests down, and end.", flag_values=FLAGS
)
REFUSE = flags.DEFINE_multi_integer(
    "refuse", [], "The number of a request that waits, to turn down.", flag_values=FLAGS
)
REASON = flags.DEFINE_string(
    "reason", None, "Why it is refused, for the person who asked.", flag_values=FLAGS
)
METHOD = define_method(FLAGS)
SEED = define_seed(FLAGS, "Seed of the method and of retraining.")
BATCH = define_count(FLAGS, "batch", None, "Requests of one run; all that wait, if not given.")
ATTEMPTS = define_count(FLAGS, "attempts", 2, "How often a request is tried before retraining.")
GATE = flags.DEFINE_multi_string(
    "gate",
    [],
    f"What is asked of a version, such as retain_accuracy=0.9: "
    f"{', '.join(each.name for each in dataclasses.fields(Gate))}.",
    flag_values=FLAGS,
)
BUDGET = flags.DEFINE_multi_string(
    "budget",
    [],
    f"How far a lineage may come, such as steps=20: "
    f"{', '.join(each.name for each in dataclasses.fields(Budget))}.",
    flag_values=FLAGS,
)
RETRAIN = flags.DEFINE_bool(
    "retrain", False, "Retrain the model where it must be.", flag_values=FLAGS
)
ORACLES = flags.DEFINE_string(
    "oracles", None, "A store of models retrained for requests, for oracle_gap.", flag_values=FLAGS
)
KEY = flags.DEFINE_string(
    "key", None, "The operator's key, which signs certificates.", flag_values=FLAGS
)
OPERATOR = flags.DEFINE_string("operator", None, "Who signs, in words.", flag_values=FLAGS)
POLL = define_count(FLAGS, "poll", None, "Look again after so many seconds, for ever.", most=86_400)
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where prepared datasets lie, if elsewhere now.", flag_values=FLAGS
)
FAILED, OVERTAKEN = 3, 4


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        alone(FLAGS, "refuse", "workdir", "ledger", "reason")
        workdir = working_directory(WORKDIR.value)
        if REFUSE.value or REASON.value is not None:
            return turn_down(place_of_ledger(workdir))
        asked = [Asked(words) for words in ACCEPT.value]
        if REQUESTS.value is not None:
            asked += serving_requests.read_asked(REQUESTS.value)
        gate = Gate(**numbers("gate", GATE.value, Gate))
        budget = Budget(**numbers("budget", BUDGET.value, Budget))
        signer, task = operator(workdir), configured(workdir)
        store = Store(workdir / "store")
        check_ids(task, store, store.serving())
        named = serving_requests.named(task, asked)
        with Ledger(place_of_ledger(workdir)) as ledger:
            for request in serving_requests.accept(ledger, task, named):
                reason = f", {request.reason}" if request.reason else ""
                print(f"Request {request.number}: {request.asked}, {request.state}{reason}")
            if ONLY_ACCEPT.value:
                return
            service = make_service(task, workdir, ledger, store, gate, budget, signer)
            try:
                sys.exit(serve(service))
            except Overtaken as error:
                refuse(error, OVERTAKEN)


def turn_down(place: str) -> None:
    """Refuse requests that wait, all of them or none."""
    if not REFUSE.value or REASON.value is None:
        raise ValueError("expected --refuse and --reason, found one alone; give both, or neither")
    with Ledger(place, create=False) as ledger:
        for request in ledger.refuse_all(REFUSE.value, REASON.value):
            print(f"Request {request.number}: {request.asked}, refused, {request.reason}")


def serve(service: Service) -> int:
    """Serve once, or for ever; the exit code."""
    while True:
        ended = service.drain(wait=POLL.value is not None)
        if ended.done:
            stored_statistics.discard(service.store.directory.parent)
        if ended.kind != "drained":
            return told(ended)
        if POLL.value is None:
            print(f"Done {ended.done} requests; version {service.store.serving()} serves")
            return 0
        time.sleep(POLL.value)


def told(ended: Outcome) -> int:
    """Say why nothing more can be done; the exit code."""
    more = ": add --retrain, or raise --attempts or --budget where that is the reason"
    advice = more if ended.kind == "retrain" else ""
    print(f"error: {ended.reason}{advice}", file=sys.stderr)
    return OVERTAKEN if ended.kind == "overtaken" else FAILED


def make_service(
    task: Task,
    workdir: pathlib.Path,
    ledger: Ledger,
    store: Store,
    gate: Gate,
    budget: Budget,
    signer: Signer | None,
) -> Service:
    """The loop of this command line."""
    oracles = None if ORACLES.value is None else Store(ORACLES.value)
    seed = SEED.value
    return Service(
        ledger,
        store,
        like(task),
        np.asarray(task.train.index),
        lambda work: serving.split(task, work),
        serving.unlearning(task, store, METHOD.value, workdir, seed=seed, oracles=oracles),
        serving.retraining(task, workdir, seed=seed) if RETRAIN.value else None,
        gate=gate,
        budget=budget,
        batch=BATCH.value,
        attempts=ATTEMPTS.value,
        signer=signer,
        ids=task.sources["train"].ids,
        report=functools.partial(print, flush=True),
    )


def configured(workdir: pathlib.Path) -> Task:
    """The task of the trained model, with the flags of this binary."""
    config = read_config(workdir)
    if DATA_DIR.value is not None:
        config.data_dir = DATA_DIR.value
    settle_method(FLAGS, config)
    return make_task(config)


def place_of_ledger(workdir: pathlib.Path) -> str:
    """Where the ledger lies; SQLite needs a disk."""
    if LEDGER.value is not None:
        return LEDGER.value
    if in_bucket(workdir):
        raise ValueError(
            f"expected a --ledger for the bucket {workdir}, found none; name a file of this "
            "machine, or postgresql://USER@HOST/NAME"
        )
    return str(workdir / "ledger.db")


def operator(workdir: pathlib.Path) -> Signer | None:
    """Who signs, if anybody."""
    if (KEY.value is None) != (OPERATOR.value is None):
        raise ValueError("expected --key and --operator, found one alone; give both, or neither")
    if KEY.value is None:
        return None
    return Signer(keys.read_key(KEY.value), OPERATOR.value, workdir / "certificates")


def numbers(flag: str, items: list[str], kind: type[Gate] | type[Budget]) -> dict[str, float]:
    """The thresholds of a flag that is given several times, `name=number`."""
    known = [each.name for each in dataclasses.fields(kind)]
    found: dict[str, float] = {}
    for item in items:
        name, _, text = item.partition("=")
        if name not in known or name in found:
            raise ValueError(
                f"expected --{flag} name=number, each of {', '.join(known)} once, found {item!r}; "
                "correct it"
            )
        try:
            found[name] = int(text) if text.lstrip("-").isdigit() else float(text)
        except ValueError:
            raise ValueError(f"expected a number in --{flag}={item}, found {text!r}") from None
    return found


if __name__ == "__main__":
    start(main, FLAGS)
