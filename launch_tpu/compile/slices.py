"""How many hosts a slice has, and what each cloud service calls it.

Hosts are virtual machines: up to 8 chips of v5e or v6e are one host where the service has machines
of that size, larger slices of these have hosts of 4 chips, and so have all slices of v4, v5p and
v7x (Google Cloud TPU's pages of each generation). The queue counts v4 and v5p in cores, two a chip.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from launch_tpu.compile import topologies

_CORES = {"v4": 2, "v5e": 1, "v5p": 2, "v6e": 1, "v7x": 2}
_PREFIXES = {"v4": "v4", "v5e": "v5litepod", "v5p": "v5p", "v6e": "v6e", "v7x": "tpu7x"}
_MACHINES = {"v5p": "ct5p-hightpu", "v6e": "ct6e-standard", "v7x": "tpu7x-standard"}
_SMALL_CUBES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))


class Slice(NamedTuple):
    """Chips of one generation, and how many there are along each axis.

    Attributes:
      generation: `v4`, `v5e`, `v5p`, `v6e` or `v7x`.
      shape: 2 or 3 sizes.
    """

    generation: str
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """Chips of the slice."""
        return math.prod(self.shape)

    @property
    def devices(self) -> int:
        """JAX devices of the slice: one a chip, on v7x one a core."""
        return self.chips * (2 if self.generation == "v7x" else 1)

    @property
    def topology(self) -> str:
        """The shape as the services write it, `4x4`."""
        return "x".join(map(str, self.shape))

    @property
    def accelerator_type(self) -> str:
        """The name with a count, `v5litepod-16` or `v4-8`."""
        return f"{_PREFIXES[self.generation]}-{self.chips * _CORES[self.generation]}"

    @property
    def machine_type(self) -> str:
        """The Compute Engine machine of one host, `ct6e-standard-4t`."""
        return f"{_MACHINES[self.generation]}-{self.chips // self.hosts()}t"

    @property
    def tpu_type(self) -> str:
        """The name with a shape that xpk takes, `v5litepod-4x4`."""
        return f"{_PREFIXES[self.generation]}-{self.topology}"

    @property
    def follows_from_size(self) -> bool:
        """Whether `accelerator_type` stands for this shape: the one nearest to a cube."""
        if len(self.shape) == 2 or self.chips < 64:
            return True
        sides = range(4, math.isqrt(self.chips) + 1, 4)
        shapes = [(a, b, self.chips // (a * b)) for a in sides for b in sides if a <= b]
        whole = [(a, b, c) for a, b, c in shapes if a * b * c == self.chips and c >= b]
        cubes = [shape for shape in whole if shape[2] % 4 == 0]
        return self.shape == min(cubes, key=lambda shape: shape[2] - shape[0])

    def hosts(self, largest: int = 8) -> int:
        """Hosts of the slice where the largest machine of a slice in a plane has so many chips."""
        if len(self.shape) == 2 and self.chips <= largest:
            return 1
        return max(1, self.chips // 4)


def parse(name: str) -> Slice:
    """The slice called `name`.

    Args:
      name: generation and shape, as in `v5e:16x16`, `v5p:4x4x8` or `v7x:4x4x4`.

    Raises:
      ValueError: a generation that is not known, or a shape that does not exist.

    Example:
      >>> parse("v5e:4x4").hosts(), parse("v5e:4x4").accelerator_type
      (4, 'v5litepod-16')
    """
    generation, _, shape = name.partition(":")
    if generation == "v7x":
        return Slice("v7x", _cube(name, shape))
    return Slice(generation, topologies.parse(name).shape)


def _cube(name: str, shape: str) -> tuple[int, ...]:
    sizes = tuple(int(size) if size.isdecimal() else 0 for size in shape.split("x"))
    whole = all(size and size % 4 == 0 for size in sizes) and sizes == tuple(sorted(sizes))
    if len(sizes) != 3 or not (sizes in _SMALL_CUBES or whole) or math.prod(sizes) > 9216:
        raise ValueError(
            "expected a v7x slice of shape 2x2x1, 2x2x2, 2x2x4, 2x4x4, or AxBxC with A <= B <= C "
            f"multiples of 4 and at most 9216 chips, found {name!r}; choose one of them"
        )
    return sizes
