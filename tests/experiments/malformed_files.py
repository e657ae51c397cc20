"""Files that binaries read, malformed: configurations, requests, records, margins, jobs, sweeps."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from malformed_values import FILE_TEXTS, REQUESTS, VALUES, Case, Folders, arrays, change, damage

from experiments.lib.command_line import CONFIGS
from mu_jax import reporting
from mu_jax.reporting import ForgetSet, Metric, Record

# Fields of the configurations, requests and values that are wrong for most places.
FIELDS = [
    "dataset data_dir limit model model.name model.features training training.optimizer",
    "training.learning_rate training.weight_decay training.batch_size training.epochs batch_size",
    "training.protocol",
    "methods methods.ssd methods.ssd.alpha methods.ssd.dampening methods.iau.optimizer methods.iau",
    "methods.finetune.epochs methods.finetune.batch_size methods.finetune.optimizer selection loss",
]
FIELDS = " ".join(FIELDS).split()
OWN_FIELDS = {
    "corrective": "trigger trigger.size manipulations manipulations.poison known_seed methods_of "
    "manipulations.poison.count manipulations.interclass.classes manipulations.poison.label",
    "sequential": "methods.scrub methods.scrub.epochs methods.influence.damping training.schedule",
    "language": "task data data.secrets data.context data.corpus data.forget data.planted splits "
    "model.width model.num_heads relearning relearning.shown relearning.steps methods.npo block "
    "methods.npo.beta methods.npo.sam methods.npo.steps unlearning unlearning.secret_weight",
    "regression": "forget relearning relearning.epochs relearning.learning_rate expected",
}
BASE = {
    "corrective": "corrective_digits",
    "language": "language_secrets",
    "nomus": "nomus_digits",
    "regression": "diabetes",
    "sequential": "tuned_digits",
}
CONFIGURED = (
    *("benchmark", "corrective", "ensemble", "language", "nomus", "preflight", "quickstart"),
    *("regression", "sequential", "train"),
)
REQUESTING = (
    *("benchmark", "ensemble", "evaluate", "nomus", "quickstart", "serve_requests", "unlearn"),
)
REQUEST_FLAGS = {"benchmark": "requests", "serve_requests": "accept"}
JOB: dict[str, Any] = {
    "name": "digits",
    "module": "experiments.train",
    "topology": "v6e:4x4",
    "max_hours": 4,
    "workdir": "/mnt/runs/digits",
    "engine": "queued_resources",
    "project": "my-project",
    "zone": "us-east5-b",
    "runtime": "v2-alpha-tpuv6e",
    "slices": 1,
    "spot": False,
    "queue_hours": 24,
    "join_seconds": 300,
    "flags": ["--seed=1"],
    "setup": ["true"],
    "create_flags": [],
    "cluster": "",
    "python": "python3",
}
SWEEP: dict[str, Any] = {
    "about": "what is searched",
    "config": str(CONFIGS / "digits.py"),
    "requests": ["random:100:seed=11", "class:7"],
    "reported": ["class:3"],
    "models": 4,
    "seeds": [0],
    "sampler": "grid",
    "methods": {
        "ssd": {"alpha": {"log": [2, 50], "number": 5}, "dampening": [0.1, 1]},
        "iau_plain": {"method": "iau", "optimizer": ["sgd"], "learning_rate": [0.01, 0.1]},
    },
}


def a_command(binary: str, folders: Folders) -> list[str]:
    """Arguments with which a binary would begin to compute."""
    scratch = folders.scratch
    if binary == "report":
        return []
    if binary == "certificate":
        return ["verify", str(scratch / "certificates.jsonl")]
    if binary in ("unlearn", "evaluate"):
        return [f"--workdir={folders.trained(scratch / 'run')}", "--request=class:3"]
    if binary == "serve_requests":
        trained = folders.trained(scratch / "run")
        return [f"--workdir={trained}", "--accept=class:3", "--only_accept"]
    if binary == "worker":
        return ["--processes=1", "--devices=1", "--max_seconds=9", "--module=tokenize"]
    if binary == "local":
        return ["--processes=1", "--max_seconds=9"]
    if binary == "preflight":
        return [f"--config={CONFIGS / 'digits.py'}", "--topology=v5e:2x4"]
    if binary == "launch":
        (scratch / "job.json").write_text(json.dumps(JOB))
        return [f"--spec={scratch / 'job.json'}"]
    if binary == "sweep":
        (scratch / "sweep.json").write_text(json.dumps(SWEEP))
        return [f"--sweep={scratch / 'sweep.json'}", f"--workdir={scratch / 'run'}"]
    return [f"--workdir={scratch / 'run'}"]


def the_end(binary: str, rng: random.Random) -> list[str]:
    """Arguments behind the flags."""
    if binary == "launch":
        return [rng.choice(["up", "up", "status", "down", "reap"])]
    return ["--", "true"] if binary == "local" else []


def a_job(rng: random.Random, folders: Folders) -> Case:
    """A specification of a job that is damaged, or cannot be."""
    path = folders.scratch / "job.json"
    engines = ["queued_resources", "queued_resources", "instance_groups", "xpk", "local"]
    job = {**JOB, "engine": rng.choice(engines)}
    if job["engine"] == "instance_groups":
        job["topology"] = "v5p:2x2x1"
    which = damage(rng, job, path)
    dry = rng.choice([[], ["--dry_run"], ["--dry_run"], ["--engine=local", "--dry_run"]])
    end = the_end("launch", rng)
    return Case("launch", [f"--spec={path}", *dry, *end], f"a job: {which}, {_start(path)}")


def a_sweep_file(rng: random.Random, folders: Folders) -> Case:
    """A sweep file that is damaged, for the search or for its cost."""
    path = folders.scratch / "sweep.json"
    which = damage(rng, SWEEP, path)
    about = f"a sweep file: {which}, {_start(path)}"
    if rng.random() < 0.2:
        return Case("preflight", [*a_command("preflight", folders), f"--sweep={path}"], about)
    workdir = f"--workdir={folders.scratch / 'run'}"
    dry = rng.choice([[], ["--dry_run"]])
    return Case("sweep", [f"--sweep={path}", workdir, *dry], about)


def _start(path: Path) -> str:
    return repr(path.read_bytes()[:400]) if path.is_file() else "no file"


def a_configuration(rng: random.Random, folders: Folders) -> Case:
    """A configuration file that breaks, or whose fields are missing or of another kind."""
    binary = rng.choice(CONFIGURED)
    base = BASE.get(binary, "digits")
    lines = [f"from experiments.configs import {base}", "def get_config():"]
    lines += [f"  c = {base}.get_config().unlock()"]
    for _ in range(rng.randint(1, 2)):
        *parents, name = rng.choice(FIELDS + OWN_FIELDS.get(binary, "").split()).split(".")
        owner = "".join(f"[{each!r}]" for each in parents)
        if rng.random() < 0.5:
            lines.append(f"  c{owner}.pop({name!r}, None) if hasattr(c{owner}, 'pop') else None")
            lines.append(f"  if {name!r} in c{owner}: del c{owner}[{name!r}]")
        else:
            lines.append(
                "  with c.ignore_type(): nan, inf = float('nan'), float('inf');"
                f" c{owner}[{name!r}] = {rng.choice(VALUES)!r}"
            )
    lines.append("  return c")
    text = "\n".join(lines)
    broken = rng.random()
    if broken < 0.2:
        text = text[: rng.randrange(len(text))]
    elif broken < 0.3:
        text = rng.choice(
            ["\x00", "1 / 0", "raise SystemExit", "def get_config(a): ...", "(" * 500]
        )
    file = folders.scratch / "mine.py"
    file.write_text(text)
    return Case(
        binary, [*a_command(binary, folders), f"--config={file}"], f"a configuration: {text}"
    )


def a_request(rng: random.Random, folders: Folders) -> Case:
    """A request that means nothing, or a file of one that is damaged."""
    binary = rng.choice(REQUESTING)
    request = rng.choice(REQUESTS)
    if rng.random() < 0.6:
        request = str(_request_file(rng, folders.scratch / "request"))
    if rng.random() < 0.1:
        request += ":class_3"
    flag = f"--{REQUEST_FLAGS.get(binary, 'request')}={request}"
    end = ["--dry_run"] if binary == "unlearn" else []
    return Case(binary, [*a_command(binary, folders), flag, *end], f"a request: {request[:90]}")


def _request_file(rng: random.Random, stem: Path) -> Path:
    path = stem.with_suffix(rng.choice([".csv", ".jsonl", ".json", ".npz", ".npy", ".txt", ""]))
    kind = rng.random()
    if kind < 0.1:
        path.mkdir()
    elif path.suffix in (".npz", ".npy") and kind < 0.8:
        arrays(rng, path)
    else:
        path.write_text(rng.choice(FILE_TEXTS))
    return path


def records(rng: random.Random, folders: Folders) -> Case:
    """A file of records that is damaged, for the report."""
    path = folders.scratch / "results.jsonl"
    metric = Metric(0.9, n=9, unit="fraction")
    found = [
        Record(method, ForgetSet("class 3", 9), seed, {"test accuracy": metric, "MIA": metric})
        for method in ("retrain", "ssd")
        for seed in (0, 1)
    ]
    lines = [reporting.to_json(record) for record in found]
    which = rng.choice(["change", "change", "change", "cut", "text", "bytes", "folder", "missing"])
    place = rng.randrange(len(lines))
    if which == "change":
        lines[place] = json.dumps(change(rng, json.loads(lines[place]), deep=rng.random() < 0.7))
    elif which == "cut":
        lines[place] = lines[place][: rng.randrange(len(lines[place]))]
    elif which == "text":
        lines[place] = rng.choice(FILE_TEXTS)
    if which == "folder":
        path.mkdir()
    elif which == "bytes":
        path.write_bytes(bytes(rng.randrange(256) for _ in range(99)))
    elif which != "missing":
        path.write_text("\n".join(lines) + "\n")
    end = rng.choice([[], ["--markdown"], [str(path)]])
    return Case("report", [str(path), *end], f"records: {which}, {lines[place][:300]}")


def oracles(rng: random.Random, folders: Folders) -> Case:
    """A file of margins that is damaged, for the benchmark."""
    path = folders.scratch / f"oracles{rng.choice(['.npz', '.npy', '.csv'])}"
    if rng.random() < 0.8:
        arrays(rng, path)
    else:
        path.write_text(rng.choice(FILE_TEXTS))
    arguments = [*a_command("benchmark", folders), "--requests=class:3", f"--oracles={path}"]
    return Case("benchmark", arguments, f"oracles: {path.name} of {path.stat().st_size} bytes")
