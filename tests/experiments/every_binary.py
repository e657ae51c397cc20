"""Every binary of the checkout by a short name, and how it reads its command line."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType

from experiments.lib import command_line, own_flags

MODULES = {
    **{
        name: f"experiments.{name}"
        for name in (
            *("benchmark", "certificate", "corrective", "ensemble", "evaluate", "language"),
            *("nomus", "passage", "prepare", "quickstart", "regression", "report", "sweep"),
            *("sequential", "serve_requests", "train", "unlearn"),
        )
    },
    "launch": "launch_tpu.launch",
    "local": "launch_tpu.hosts.engines.local",
    "preflight": "launch_tpu.preflight",
    "worker": "launch_tpu.hosts.worker",
}
WITHOUT_JAX = ("launch", "local", "worker")  # they start processes that have it
# What further arguments are, and how many there must be.
ARGUMENTS = {
    "certificate": ("verify, show or make_key, and files", 1),
    "launch": ("up, down, reap or status", 1),
    "local": ("a command, after --", 1),
    "report": ("files of records", 1),
    "worker": ("flags of the module, after --", 0),
}


def module_of(binary: str) -> ModuleType:
    """The module with the flags and the `main` of a binary."""
    name = MODULES[binary]
    return importlib.import_module(f"{name}.__main__" if binary == "sweep" else name)


def parse(binary: str, arguments: Sequence[str]) -> list[str]:
    """Read a command line as the binary does; ValueError or OSError if it is wrong."""
    values, (further, least) = module_of(binary).FLAGS, ARGUMENTS.get(binary, ("", 1))
    argv = [binary, *arguments]
    if binary in WITHOUT_JAX:
        return own_flags.read(values, argv, arguments=further, least=least)
    return command_line.parse(values, argv, arguments=further)
