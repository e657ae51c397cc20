"""All benchmarks, or those that are named.

    python -m benchmarks.run
    python -m benchmarks.run importance curvature first_call language memory grid
    python -m benchmarks.run convolutions klom page

Every ratio is the median over repetitions of the two times in turn, within this one run. With torch
installed (`pip install .[benchmark]`), PyTorch's and kronfluence's times stand beside.
"""

from __future__ import annotations

import sys

import jax

from benchmarks import (
    curvature,
    evaluation,
    first_call,
    importance,
    language,
    report,
    scaling,
    torch_networks,
    training,
)

SECTIONS = {
    "importance": lambda: "\n".join(importance.run(case) for case in importance.CASES),
    "curvature": curvature.run,
    "first_call": lambda: "\n".join(first_call.run(case) for case in first_call.CASES),
    "language": language.run,
    "memory": scaling.memory,
    "grid": scaling.grid,
    "convolutions": training.convolutions,
    "ensemble": training.ensemble,
    "klom": evaluation.klom,
    "floors": evaluation.floors,
    "page": report.page,
}


def main(names: list[str]) -> int:
    """Print the chosen sections; 2 for a name that is not one."""
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        print(
            f"error: expected sections among {', '.join(SECTIONS)}, found {unknown[0]!r}; "
            "choose some of these",
            file=sys.stderr,
        )
        return 2
    device = jax.devices()[0]
    print(
        f"jax {jax.__version__} on {device.device_kind} ({jax.default_backend()}), "
        f"torch {torch_networks.version()}"
    )
    for name in names or SECTIONS:
        print(SECTIONS[name](), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
