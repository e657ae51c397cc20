"""Compile a run for a TPU slice on a machine without one: does it fit, what does it cost?

    python -m launch_tpu.preflight --topology=v5e:16x16 --methods=ssd,iau --batch_per_chip=32 \\
        --config=experiments/configs/imagenet_resnet50.py
    python -m launch_tpu.preflight --topology=v5p:4x4x4 --methods=dmm --fsdp=8 --json=out.json \\
        --config=experiments/configs/imagenet_vit_b16.py --config.model.remat=True

Needs the compiler, `pip install -e '.[tpu]'`, and no TPU, no data and no weights. Every program of
every method is compiled in turn, which takes a minute or two each, and read: memory on a chip,
operations, messages between chips. Times are those of a chip that does nothing but work; no run
takes less. Exit code 0: everything fits. 1: something is out of memory. 2: bad input.
"""

from __future__ import annotations

import pathlib
import sys
import time
from collections.abc import Iterator, Sequence

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from experiments.lib.methods import METHODS, method_arguments
from experiments.lib.running import exit_with_sentence
from experiments.lib.tasks import lookup
from launch_tpu import worklist
from launch_tpu.compile import compiled, programs, projection, topologies
from mu_jax import durable

CONFIG = config_flags.DEFINE_config_file("config", None, "Model, data and methods.")
TOPOLOGY = flags.DEFINE_string("topology", "v5e:16x16", "The slice, such as v5p:8x8x16.")
METHODS_FLAG = flags.DEFINE_list("methods", ["ssd"], "Names of methods in the configuration.")
BATCH_PER_CHIP = flags.DEFINE_integer(
    "batch_per_chip", None, "Examples on a chip, for every batch size of the configuration.", 1
)
FSDP = flags.DEFINE_integer("fsdp", 1, "Chips that share one copy of the parameters.", 1)
FORGET = flags.DEFINE_integer("forget", None, "Examples to forget; default the configuration's.", 1)
DATA = flags.DEFINE_enum(
    "data", "streams", ["streams", "arrays"], "One program a step, or all data on every chip."
)
SWEEP = flags.DEFINE_string("sweep", None, "A sweep file: what would tuning cost?")
JSON = flags.DEFINE_string("json", None, "Where to write the result for machines.")


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
        sweep = worklist.read(SWEEP.value) if SWEEP.value else None
        rows = list(check(configuration(), topology, METHODS_FLAG.value, sweep))
    print(projection.table(rows, topology))
    print("\n".join(projection.summary(projection.runs(rows, topology), topology, sweep)))
    if out is not None:
        settings = {"config": CONFIG.value.to_dict(), "fsdp": FSDP.value, "data": DATA.value}
        result = projection.as_json(rows, topology, sweep, settings)
        durable.replace_json(out, result)
    sys.exit(0 if all(row.measured.fits for row in rows) else 1)


def configuration() -> ConfigDict:
    """The configuration, refused if there is none."""
    if CONFIG.value is None:
        raise ValueError(
            "expected a --config, found none: give experiments/configs/imagenet_resnet50.py or "
            "another"
        )
    try:
        CONFIG.value.to_dict()  # a file that is not there shows itself when it is looked at
    except OSError:
        path = config_flags.get_config_filename(flags.FLAGS["config"])
        raise FileNotFoundError(
            f"expected a configuration at {path}, found none; check the path"
        ) from None
    return CONFIG.value


def destination() -> pathlib.Path | None:
    """Where the result goes; refused now rather than after an hour of compiling."""
    path = pathlib.Path(JSON.value) if JSON.value else None
    if path is not None and not path.parent.is_dir():
        raise FileNotFoundError(
            f"expected a folder {path.parent} for {path.name}, found none: make it"
        )
    return path


def check(
    config: ConfigDict,
    topology: topologies.Topology,
    methods: Sequence[str],
    sweep: worklist.Sweep | None,
) -> Iterator[projection.Row]:
    """Every program of the methods, compiled and measured; input is checked before the first."""
    task = programs.abstract_task(config)
    for method in methods:
        lookup(METHODS, method_arguments(task, method).get("method", method), "method")
        if sweep is not None:
            projection.sweep_runs(sweep, method)
    mesh = programs.make_mesh(topologies.devices(topology), fsdp=FSDP.value)
    batch_size = (BATCH_PER_CHIP.value or 0) * topology.num_chips or config.batch_size
    forget = FORGET.value or config.get("shapes", {}).get("forget") or task.train.num_examples // 10
    inputs = programs.lay_out(task, mesh, batch_size=batch_size, forget=forget)
    build = programs.streamed if DATA.value == "streams" else programs.whole
    for method in methods:
        found = build(task, method, inputs)
        for number, program in enumerate(found, 1):
            label = f"{method}: {programs.name(program)} ({number} of {len(found)})"
            print(f"  compiling {label} ...", end="", file=sys.stderr, flush=True)
            start = time.monotonic()
            with programs.on_tpu():
                measured = compiled.measure(program, topology.generation)
            print(f" {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
            yield projection.Row(method, programs.name(program), program.times, measured)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Exit code 2 for what is wrong with the flags; absl's own is 1, which means something here."""
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise flags.Error(f"expected flags only, found {rest[1]!r}; write --topology=...")
        return rest
    except (flags.Error, AttributeError, TypeError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
