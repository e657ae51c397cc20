"""Compile a run for a TPU slice on a machine without one: does it fit, what does it cost?

    python -m launch_tpu.preflight --topology=v5e:16x16 --methods=ssd,iau --batch_per_chip=32 \\
        --config=experiments/configs/imagenet_resnet50.py
    python -m launch_tpu.preflight --topology=v5p:4x4x4 --methods=dmm --fsdp=8 --json=out.json \\
        --config=experiments/configs/imagenet_vit_b16.py --config.model.remat=True
    python -m launch_tpu.preflight --topology=v5p:4x4x4 --methods=npo,rmu,ssd,evaluation \\
        --config=launch_tpu/configs/llama_8b.py

Needs the compiler, `pip install -e '.[tpu]'`, and no TPU, no data and no weights. Every program of
every method is compiled in turn, which takes a minute or two each, and read: memory on a chip,
operations, messages between chips. Times are those of a chip that does nothing but work; no run
takes less. Exit code 0: everything fits. 1: something is out of memory. 2: bad input.
"""

from __future__ import annotations

import functools
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

import jax
from absl import flags
from ml_collections import ConfigDict

from experiments.lib import configurations
from experiments.lib.command_line import define_config, start
from experiments.lib.methods import METHODS, method_arguments
from experiments.lib.own_flags import LARGEST, define_count
from experiments.lib.paths import working_directory
from experiments.lib.running import exit_with_sentence, stage
from experiments.lib.tasks import lookup
from experiments.sweep.files import Sweep
from experiments.sweep.files import read as read_sweep
from launch_tpu.compile import compiled, decoders, programs, projection, topologies
from mu_jax import _progress
from mu_jax.loops.recording import Program
from mu_jax.store import commits

FLAGS = flags.FlagValues()
CONFIG = define_config(FLAGS, "imagenet_resnet50", "Model, data and methods.")
TOPOLOGY = flags.DEFINE_string(
    "topology", "v5e:16x16", "The slice, such as v5p:8x8x16.", flag_values=FLAGS
)
METHODS_FLAG = flags.DEFINE_list(
    "methods", ["ssd"], "Names of methods in the configuration.", flag_values=FLAGS
)
BATCH_PER_CHIP = define_count(
    FLAGS,
    "batch_per_chip",
    None,
    "Examples on a chip, for every batch size of the configuration.",
    most=1_000_000,
)
FSDP = define_count(
    FLAGS, "fsdp", None, "Chips that share one copy of the parameters; default 1, of a decoder its."
)
FORGET = define_count(
    FLAGS, "forget", None, "Examples to forget; default the configuration's.", most=LARGEST
)
DATA = flags.DEFINE_enum(
    "data",
    "streams",
    ["streams", "arrays"],
    "One program a step, or all data on every chip.",
    flag_values=FLAGS,
)
SWEEP = flags.DEFINE_string(
    "sweep", None, "A sweep file: what would tuning cost?", flag_values=FLAGS
)
JSON = flags.DEFINE_string(
    "json", None, "Where to write the result for machines.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    """Compile every program of every method, print what it takes, and say whether all fits."""
    del argv
    # The TPU compiler is a plug-in that would be tried as a device first.
    jax.config.update("jax_platforms", "cpu")
    # Programs for a machine that is not there can be written to the cache, and not be read.
    jax.config.update("jax_enable_compilation_cache", False)
    with exit_with_sentence():
        topology = topologies.parse(TOPOLOGY.value)
        out = destination()
        sweep = read_sweep(SWEEP.value) if SWEEP.value else None
        rows = list(check(CONFIG.value, topology, METHODS_FLAG.value, sweep))
    print(projection.table(rows, topology))
    print("\n".join(projection.summary(projection.runs(rows, topology), topology, sweep)))
    if out is not None:
        settings = {
            "config": CONFIG.value.to_dict(),
            "fsdp": FSDP.value or CONFIG.value.get("fsdp", 1),
            "data": DATA.value,
        }
        result = projection.as_json(rows, topology, sweep, settings)
        commits.replace_json(out, result)
    sys.exit(0 if all(row.measured.fits for row in rows) else 1)


def destination() -> pathlib.Path | None:
    """Where the result goes; refused now rather than after an hour of compiling."""
    path = working_directory(JSON.value) if JSON.value else None
    if path is None or commits.in_bucket(path):
        return path
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"expected a folder {path.parent} for {path.name}, found none: make it"
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(
            f"expected a file to write at {path}, found a folder or no right to write there; "
            "choose another path"
        )
    return path


def check(
    config: ConfigDict,
    topology: topologies.Topology,
    methods: Sequence[str],
    sweep: Sweep | None,
) -> Iterator[projection.Row]:
    """Every program of the methods, compiled and measured; input is checked before the first."""
    if not methods:
        raise ValueError("expected --methods, found none; name at least one")
    prepare = _of_decoder if config.get("decoder") else _of_task
    build = prepare(config, topology, methods, sweep)
    for method in _progress.each(methods, "", "method"):
        found = build(method)
        for number, program in enumerate(found, 1):
            label = f"{method}: {programs.name(program)} ({number} of {len(found)})"
            with stage(f"compile {label}"):
                measured = compiled.measure(program, topology.generation, platform="tpu")
            yield projection.Row(method, programs.name(program), program.times, measured)


Build = Callable[[str], list[Program]]


def _of_task(
    config: ConfigDict,
    topology: topologies.Topology,
    methods: Sequence[str],
    sweep: Sweep | None,
) -> Build:
    """What makes the programs of a method of a configuration that every binary reads."""
    configurations.check(config)
    task = programs.abstract_task(config)
    for method in methods:
        lookup(METHODS, method_arguments(task, method).get("method", method), "method")
        if sweep is not None:
            projection.sweep_runs(sweep, method)
    mesh = programs.make_mesh(topologies.devices(topology), fsdp=FSDP.value or 1)
    forget = FORGET.value or config.get("shapes", {}).get("forget") or task.train.num_examples // 10
    size = _batch_size(config, topology)
    inputs = programs.lay_out(task, mesh, batch_size=size, forget=forget)
    build = programs.streamed if DATA.value == "streams" else programs.whole
    return lambda method: build(task, method, inputs)


def _of_decoder(
    config: ConfigDict,
    topology: topologies.Topology,
    methods: Sequence[str],
    sweep: Sweep | None,
) -> Build:
    """The same of rows of tokens, which are streamed."""
    decoders.check(config)
    for method in methods:
        lookup(dict(config.methods), method, "method of the configuration")
    if sweep is not None or DATA.value != "streams":
        raise ValueError(
            "expected streams and no --sweep for a decoder, found another --data or a sweep; "
            "leave it out"
        )
    mesh = programs.make_mesh(topologies.devices(topology), fsdp=FSDP.value or config.fsdp)
    return functools.partial(
        decoders.streamed,
        config,
        mesh=mesh,
        batch_size=_batch_size(config, topology),
        forget=FORGET.value or config.rows.forget,
    )


def _batch_size(config: ConfigDict, topology: topologies.Topology) -> int:
    return (BATCH_PER_CHIP.value or 0) * topology.num_chips or config.batch_size


if __name__ == "__main__":
    start(main, FLAGS)
