"""TPU slices by name: what the vendor states of their chips, and devices to compile for.

The numbers are those of the vendor's documentation, "System architecture" pages "TPU v4", "TPU
v5e", "TPU v5p" and "TPU v6e" of Google Cloud TPU: peak compute per chip (bf16), HBM capacity and
bandwidth, bidirectional inter-chip bandwidth per chip, chips per host, and the table of supported
slice shapes (for v4 and v5p with the rule of the page "TPU types and topologies"). v4 has no
inter-chip bandwidth there. Capacities are taken as binary gigabytes: the compiler reports 15.75 GiB
as usable of the 16 GB of a v5e chip.
"""

from __future__ import annotations

import importlib.util
import math
import os
from typing import Any, NamedTuple

GIB = 2**30
# The compiler looks for the TPU of the machine it is on: let it not ask the metadata server, not
# complain that there is none, and not mind other processes that do the same.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
_PLANES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))


class Generation(NamedTuple):
    """What the vendor states of one generation of chips.

    Attributes:
      name: as in the topology's name, `v5e`.
      memory: bytes of a chip. flops: peak bf16 FLOP/s of a chip.
      bandwidth: bytes/s between a chip and its memory.
      interconnect: bytes/s between a chip and its neighbors, both ways; None if not stated.
      chips_per_host: chips of a full host.
      shapes: the valid shapes of a slice, in words.
      axes: 2 or 3. max_chips: of one slice.
      compiler_options: what makes the compiler see one device per chip.
    """

    name: str
    memory: int
    flops: float
    bandwidth: float
    interconnect: float | None
    chips_per_host: int
    shapes: str
    axes: int
    max_chips: int
    compiler_options: tuple[tuple[str, str], ...] = ()


_FLAT = ", ".join(f"{a}x{b}" for a, b in _PLANES)
_CUBES = "2x2x1, 2x2x2, 2x2x4, 2x4x4, or AxBxC with A <= B <= C multiples of 4"
GENERATIONS = {
    generation.name: generation
    for generation in (
        Generation(
            "v4", 32 * GIB, 275e12, 1200e9, None, 4, _CUBES, 3, 4096,
            (("chip_config_name", "megacore"),),
        ),
        Generation("v5e", 16 * GIB, 197e12, 819e9, 400e9, 8, _FLAT, 2, 256),
        Generation("v5p", 95 * GIB, 459e12, 2765e9, 1200e9, 4, _CUBES, 3, 6144),
        Generation("v6e", 32 * GIB, 918e12, 1638e9, 800e9, 8, _FLAT, 2, 256),
    )
}  # fmt: skip


class Topology(NamedTuple):
    """A slice: chips of one generation, and how many there are along each axis."""

    generation: Generation
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """The name that `parse` takes."""
        return f"{self.generation.name}:{'x'.join(map(str, self.shape))}"

    @property
    def num_chips(self) -> int:
        """Chips of the slice."""
        return math.prod(self.shape)


def parse(name: str) -> Topology:
    """The slice called `name`.

    Args:
      name: generation and shape, as in `v5e:16x16` or `v5p:8x8x16`.

    Raises:
      ValueError: a generation that is not known, or a shape that the vendor does not offer.

    Example:
      >>> parse("v5p:8x8x16").num_chips
      1024
    """
    kind, _, shape = name.partition(":")
    if kind not in GENERATIONS:
        raise ValueError(
            f"expected a TPU generation among {', '.join(GENERATIONS)}, found {kind!r} in "
            f"{name!r}: write a topology such as v5e:16x16"
        )
    generation = GENERATIONS[kind]
    sizes = shape.split("x")
    if not all(size.isdecimal() for size in sizes) or not _exists(
        generation, tuple(map(int, sizes))
    ):
        raise ValueError(
            f"expected a {kind} slice of shape {generation.shapes}, at most "
            f"{generation.max_chips} chips, found {name!r}: choose one of them"
        )
    return Topology(generation, tuple(map(int, sizes)))


def _exists(generation: Generation, shape: tuple[int, ...]) -> bool:
    if len(shape) != generation.axes:
        return False
    if generation.axes == 2:
        return shape in _PLANES
    small = shape in ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
    cubes = all(size and size % 4 == 0 for size in shape) and shape == tuple(sorted(shape))
    return (small or cubes) and math.prod(shape) <= generation.max_chips


def devices(topology: Topology) -> list[Any]:
    """Devices of the slice that programs can be compiled for, one per chip; none of them is real.

    Raises:
      FileNotFoundError: the TPU compiler is not installed.
    """
    check_compiler()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from jax.experimental import topologies

    options: dict[str, Any] = dict(topology.generation.compiler_options)
    if topology.num_chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    return topologies.get_topology_desc(topology.name, "tpu", **options).devices


def check_compiler() -> None:
    """Refuse to go on without libtpu, which holds the TPU compiler."""
    if importlib.util.find_spec("libtpu") is None and "TPU_LIBRARY_PATH" not in os.environ:
        raise FileNotFoundError(
            "expected the TPU compiler, found no libtpu: install it with pip install -e '.[tpu]' "
            "(no TPU is needed)"
        )
