"""What a compiled program says of itself: memory, arithmetic, traffic between chips, a verdict."""

from __future__ import annotations

import re
import time
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.errors import JaxRuntimeError

from launch_tpu.compile.operations import count
from launch_tpu.compile.topologies import Generation
from mu_jax import _target as target
from mu_jax.loops.recording import Program

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# What a collective moves over the links of a chip, in sizes of its result: a ring all-reduce is a
# reduce-scatter and an all-gather.
_MOVED = {"all-reduce": 2.0}
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_COLLECTIVE = re.compile(rf" = (.*?) ({'|'.join(KINDS)})(-start)?\(")
_NUMBER = r"([\d.]+)([KMGT]?)"
_REFUSED = re.compile(
    rf"Used {_NUMBER} of {_NUMBER} hbm|\({_NUMBER}\) exceeds available HBM \({_NUMBER}\)"
)


class Collective(NamedTuple):
    """Messages of one kind: how many of them, and the bytes of their results on a chip."""

    number: int
    bytes: int


class Memory(NamedTuple):
    """Bytes on one chip. Arguments that are given away and reused as outputs are `aliased`."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """What the program needs at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


class Measured(NamedTuple):
    """A program on one chip.

    Attributes:
      memory: None where the compiler refused and said only how much it would take.
      needed: bytes it needs. available: bytes there are, of which the compiler keeps some.
      flops: operations of one call. traffic: bytes to and from the chip's memory, of one call.
      collectives: by kind. seconds: of one call at best, see `roofline`.
      compile_seconds: what compiling took here.
    """

    memory: Memory | None
    needed: int
    available: int
    flops: float
    traffic: float
    collectives: dict[str, Collective]
    seconds: float
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """Whether the program can run on the chip."""
        return self.memory is not None and self.needed <= self.available


def measure(program: Program, generation: Generation, *, platform: str = "cpu") -> Measured:
    """Compile a program for the devices on which its arguments lie, and read it off.

    Args:
      program: arguments are shapes with shardings of concrete meshes.
      generation: what a chip has.
      platform: of these devices, for which models and statistics choose how they compute.

    Raises:
      JaxRuntimeError: the compiler failed for another reason than memory.
    """
    start = time.monotonic()
    with target.traced_for(platform):
        traced = jax.jit(program.function, donate_argnums=(0,) if program.donates else ()).trace(
            *program.arguments
        )
    operations = count(traced.jaxpr, chips=num_devices(program))
    try:
        compiled = traced.lower().compile()
    except JaxRuntimeError as error:
        needed, available = refusal(str(error)) or (0, 0)
        if not needed:
            raise
        elapsed = time.monotonic() - start
        return Measured(None, needed, available, operations, 0.0, {}, 0.0, elapsed)
    return _read(compiled, operations, generation, time.monotonic() - start)


def num_devices(program: Program) -> int:
    """Devices on which the program runs."""
    sizes = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(program.arguments)}
    return max(sizes, default=1)


def _read(compiled: Any, operations: float, generation: Generation, elapsed: float) -> Measured:
    stats = compiled.memory_analysis()
    memory = Memory(
        stats.argument_size_in_bytes,
        stats.output_size_in_bytes,
        stats.alias_size_in_bytes,
        stats.temp_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )
    costs = compiled.cost_analysis()
    traffic = costs.get("bytes accessed", 0.0)
    text = compiled.as_text()
    if has_loop(text):  # of a loop the compiler counts one turn, in operations and in bytes alike
        traffic *= max(1.0, operations / max(costs.get("flops", 0.0), 1.0))
    found = collectives(text)
    seconds = roofline(operations, traffic, found, generation)
    return Measured(
        memory, memory.total, generation.memory, operations, traffic, found, seconds, elapsed
    )


def roofline(
    operations: float, traffic: float, found: dict[str, Collective], generation: Generation
) -> float:
    """Seconds of one call at best: the longest of arithmetic, memory traffic and messages.

    `max(flops / peak, bytes / bandwidth, moved / interconnect)`; a real step takes longer.

    Example:
      >>> from launch_tpu.compile.topologies import GENERATIONS
      >>> roofline(197e12, 819e9 / 2, {}, GENERATIONS["v5e"])
      1.0
    """
    moved = sum(_MOVED.get(kind, 1.0) * one.bytes for kind, one in found.items())
    links = moved / generation.interconnect if generation.interconnect else 0.0
    return max(operations / generation.flops, traffic / generation.bandwidth, links)


def collectives(text: str) -> dict[str, Collective]:
    """The messages of a compiled program, by kind; in a loop they are counted once.

    Args:
      text: the program as the compiler prints it, `compiled.as_text()`.

    Example:
      >>> collectives("  %sum = f32[8,4]{1,0} all-reduce(%x), replica_groups={{0,1}}")
      {'all-reduce': Collective(number=1, bytes=128)}
    """
    found: dict[str, Collective] = {}
    for result, kind, asynchronous in _COLLECTIVE.findall(text):
        arrays = [_size(*array) for array in _ARRAY.findall(result)]
        # An operation that is started and awaited holds its operand beside its result; the small
        # words that some kinds add are neither.
        paired = asynchronous and kind != "all-reduce"
        size = max(arrays) if paired and arrays else sum(arrays)
        before = found.get(kind, Collective(0, 0))
        found[kind] = Collective(before.number + 1, before.bytes + size)
    return found


def has_loop(text: str) -> bool:
    """Whether a compiled program has a loop."""
    return " while(" in text


def refusal(message: str) -> tuple[int, int] | None:
    """Bytes needed and available of a program that the compiler found too large, else None.

    Example:
      >>> refusal("Ran out of memory in memory space hbm. Used 2.5G of 1.5G hbm.")
      (2684354560, 1610612736)
    """
    found = _REFUSED.search(message)
    if found is None:
        return None
    needed, unit, available, other = (group for group in found.groups() if group is not None)
    return _bytes(needed, unit), _bytes(available, other)


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * 1024 ** " KMGT".index(unit or " "))


def _size(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.findall(r"\d+", dtype)[0])
    return int(np.prod([int(n) for n in shape.split(",") if n], dtype=np.int64)) * bits // 8
