"""Malformed inputs for the binaries, drawn from a seed: flags, settings, files, working folders."""

from __future__ import annotations

import json
import random
from pathlib import Path

from every_binary import MODULES, module_of
from malformed_files import (
    CONFIGURED,
    FIELDS,
    OWN_FIELDS,
    a_command,
    a_configuration,
    a_job,
    a_request,
    a_sweep_file,
    oracles,
    records,
    the_end,
)
from malformed_values import TEXTS, Case, Folders, change

FLAGS = {name: sorted({*module_of(name).FLAGS} - {"config"}) for name in MODULES}
PATHS = ("export", "json", "model", "spec", "sweep", "texts", "workdir")
METHODS = ("ssd", "iau", "finetune", "neg_grad_plus", "retrain")
ARGUMENTS = ("alpha", "dampening", "epochs", "batch_size", "learning_rate", "nosuch", "optimizer")


def draw(seed: int, folders: Folders) -> Case:
    """One malformed input."""
    rng = random.Random(seed)
    return rng.choice(KINDS)(rng, folders)


def a_flag(rng: random.Random, folders: Folders) -> Case:
    """A flag with a value of another kind, without one, twice, or misspelled."""
    binary = rng.choice(list(FLAGS))
    name, value = rng.choice(FLAGS[binary]), rng.choice(TEXTS)
    if name in PATHS:
        value = rng.choice(["", "/dev/null/x", "/proc/nosuch", "a" * 300, "/dev/null", "/"])
    wrong = rng.choice(
        [[f"--{name}={value}"], [f"--{name}"], [f"--{name}x={value}"], [value], [f"--no{name}"]]
    )
    arguments = [*a_command(binary, folders), *wrong, *the_end(binary, rng)]
    return Case(binary, arguments, f"a flag: {wrong}")


def a_setting(rng: random.Random, folders: Folders) -> Case:
    """A field of the configuration, or a hyper-parameter of a request, with a wrong value."""
    if rng.random() < 0.3:
        item = f"--set={rng.choice(ARGUMENTS)}{rng.choice('===:x')}{rng.choice(TEXTS)}"
        method = f"--method={rng.choice(METHODS)}"
        arguments = [*a_command("unlearn", folders), method, item, "--dry_run"]
        return Case("unlearn", arguments, f"a setting: {item}")
    binary = rng.choice(CONFIGURED)
    fields = FIELDS + OWN_FIELDS.get(binary, "").split()
    wrong = f"--config.{rng.choice(fields)}={rng.choice(TEXTS)}"
    return Case(binary, [*a_command(binary, folders), wrong], f"a setting: {wrong}")


def a_workdir(rng: random.Random, folders: Folders) -> Case:
    """A working folder that is a file, cannot be made, or holds something else."""
    binary = rng.choice([name for name, own in FLAGS.items() if "workdir" in own])
    if binary in ("unlearn", "evaluate"):
        run = folders.trained(folders.scratch / "damaged")
        what = _damage_config(rng, run)
    else:
        run, what = _take_place(rng, folders.scratch / "taken")
    end = [f"--workdir={run}", *(["--dry_run"] if binary == "unlearn" else [])]
    return Case(binary, [*a_command(binary, folders), *end], f"a working folder: {what}")


def _take_place(rng: random.Random, run: Path) -> tuple[Path, str]:
    which = rng.choice(["file", "beneath", "link", "long", "results", "ensembles", "config.json"])
    if which in ("file", "beneath"):
        run.write_text("taken")
        return run / "x" if which == "beneath" else run, which
    if which == "link":
        run.symlink_to(run.with_name("nowhere"))
        return run, which
    if which == "long":
        return run / ("a" * 300), which
    run.mkdir()
    if which == "ensembles":
        (run / which).write_text("taken")
    else:
        (run / ("results.jsonl" if which == "results" else which)).mkdir()
    return run, which


def _damage_config(rng: random.Random, run: Path) -> str:
    path = run / "config.json"
    text = path.read_text()
    which = rng.choice(["cut", "text", "folder", "missing", "field", "bytes", "deep"])
    if which == "cut":
        path.write_text(text[: rng.randrange(len(text))])
    elif which == "text":
        path.write_text(rng.choice(["[]", "null", "3", '"x"', "{}", "", "[" * 20_000]))
    elif which == "bytes":
        path.write_bytes(bytes(rng.randrange(256) for _ in range(99)))
    elif which in ("folder", "missing"):
        path.unlink()
        if which == "folder":
            path.mkdir()
    else:
        path.write_text(json.dumps(change(rng, json.loads(text), deep=which == "deep")))
    return which


KINDS = (
    *(a_flag, a_flag, a_flag, a_setting, a_configuration, a_request, a_workdir, records, oracles),
    *(a_job, a_job, a_sweep_file),
)
