"""A `gcloud` that remembers what it was told and runs on this machine what it is told to run."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
# Nothing else is on PATH, so that no other program of a cloud can be reached.
_PROGRAMS = [
    *("bash", "cat", "chmod", "cp", "date", "env", "false", "flock"),
    *("mkdir", "mv", "rm", "sh", "sleep", "tee", "touch", "true"),
]
JOB = {
    "name": "digits",
    "module": "experiments.train",
    "topology": "v6e:4x4",
    "max_hours": 4,
    "workdir": "/mnt/runs/digits",
    "project": "my-project",
    "zone": "us-east5-b",
    "runtime": "v2-alpha-tpuv6e",
}

_GCLOUD = """\
#!{python} -S
import json, os, pathlib, subprocess, sys

state = pathlib.Path({state!r})
script = json.loads((state / "script.json").read_text())
argv = sys.argv[1:]
with (state / "calls.jsonl").open("a") as calls:
    calls.write(json.dumps(argv) + "\\n")
verb = next(word for word in argv if word in ("create", "describe", "ssh", "delete", "list"))
words = [word for word in argv if not word.startswith("-")]
flags = dict(word[2:].split("=", 1) for word in argv if word.startswith("--") and "=" in word)
made = state / "made" / words[-1]
fails = script["fail"].get(verb)
if verb == "create" and script["half"]:
    made.write_text(json.dumps(argv))
if fails:
    print("ERROR: (gcloud) no " + verb + " today", file=sys.stderr)
    sys.exit(fails)


def environment(worker):
    home = state / ("host" + str(worker))
    return dict(
        os.environ, MU_JAX_HOME=str(home), MU_JAX_PROCESS_ID=str(worker), JAX_PLATFORMS="cpu",
        JAX_COORDINATOR_ADDRESS=script["coordinator"], JAX_NUM_CPU_DEVICES="1",
    )


def everywhere(command, workers):
    started = [subprocess.Popen(["bash", *command], env=environment(w)) for w in workers]
    return max(process.wait() for process in started)


if verb == "create":
    if made.exists():
        sys.exit("ERROR: (gcloud) ALREADY_EXISTS")
    made.write_text(json.dumps(argv))
    path = flags["metadata-from-file"].removeprefix("startup-script=")
    if script["boot"]:
        everywhere([path], range(script["workers"]))
elif not made.exists() and verb != "list":
    print("ERROR: (gcloud) NOT_FOUND: Resource was not found.", file=sys.stderr)
    sys.exit(1)
elif verb == "describe":
    print(script["states"][0])
    script["states"] = script["states"][1:] or script["states"]
    (state / "script.json").write_text(json.dumps(script))
elif verb == "ssh":
    all_of_them = flags.get("worker") == "all" and flags.get("node") == "all"
    workers = range(script["workers"] if all_of_them else 1)
    sys.exit(everywhere(["-c", flags["command"]], workers))
elif verb == "delete":
    made.unlink()
elif verb == "list":
    label = flags["filter"].rpartition(".")[2]
    for resource in sorted((state / "made").iterdir()):
        if "--labels=" + label in [word.split(",")[0] for word in json.loads(resource.read_text())]:
            print(resource.name)
"""


class Cloud:
    """The fake, in its own directory; put `path` first and alone on PATH."""

    def __init__(self, directory: Path, *, states=("ACTIVE",), workers=2, boot=False):
        self.state = directory / "cloud"
        self.path = directory / "bin"
        (self.state / "made").mkdir(parents=True)
        self.path.mkdir()
        for program in _PROGRAMS:
            (self.path / program).symlink_to(shutil.which(program))
        self._write("gcloud", _GCLOUD.format(python=sys.executable, state=str(self.state)))
        self._write("python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        armed = self.state / "armed"
        self._write("systemd-run", f'#!/bin/sh\nprintf "%s\\n" "$*" >> {armed}\n')
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        script = {"states": list(states), "workers": workers, "boot": boot, "fail": {}}
        self._script = script | {"coordinator": coordinator, "half": False}
        self.fail()

    def fail(self, half: bool = False, **codes: int) -> None:
        """From now on these verbs fail with these exit codes; half: but create something first."""
        self._script |= {"fail": codes, "half": half}
        (self.state / "script.json").write_text(json.dumps(self._script))

    def _write(self, name: str, text: str) -> None:
        (self.path / name).write_text(textwrap.dedent(text))
        (self.path / name).chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        """Where this fake is the only cloud."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
        return kept | {"PATH": str(self.path), "PYTHONPATH": str(ROOT)}

    @property
    def made(self) -> list[str]:
        """Names of what there is now."""
        return sorted(path.name for path in (self.state / "made").iterdir())

    @property
    def armed(self) -> list[str]:
        """What the hosts have put off until later."""
        path = self.state / "armed"
        return path.read_text().splitlines() if path.exists() else []

    def calls(self, verb: str | None = None) -> list[list[str]]:
        """Arguments of all calls, or of those with a verb."""
        path = self.state / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [argv for argv in map(json.loads, lines) if verb is None or verb in argv]
