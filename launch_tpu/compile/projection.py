"""What measured programs mean for a run and for a sweep: time, chip-hours, a table, JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.sweep.files import Sweep
from experiments.sweep.trials import takes_one_pass
from launch_tpu.compile.compiled import Measured
from launch_tpu.compile.topologies import GIB, Topology

HEAD = (
    "method",
    "program",
    "calls",
    "GiB a chip",
    "arguments",
    "temporary",
    "GFLOP",
    "ms at best",
    "messages (MiB)",
    "verdict",
)


class Row(NamedTuple):
    """One program of one method: what it is called, how often, and what was measured of it."""

    method: str
    program: str
    calls: int
    measured: Measured


class Run(NamedTuple):
    """A run of one method at best; `chip_hours` of the whole slice. None if it does not fit."""

    seconds: float | None
    chip_hours: float | None


def runs(rows: Sequence[Row], topology: Topology) -> dict[str, Run]:
    """Every method's time: calls times the roofline of each program, one after another."""
    found = {}
    for method in dict.fromkeys(row.method for row in rows):
        mine = [row for row in rows if row.method == method]
        if not all(row.measured.fits for row in mine):
            found[method] = Run(None, None)
            continue
        seconds = sum(row.calls * row.measured.seconds for row in mine)
        found[method] = Run(seconds, seconds * topology.num_chips / 3600)
    return found


def sweep_runs(sweep: Sweep, method: str) -> int:
    """How many runs of a method its tuning takes: settings x forget sets x seeds x models.

    A method that takes one pass runs all its settings at once.

    Raises:
      ValueError: the sweep does not search that method.
    """
    if method not in sweep.kinds:
        raise ValueError(
            f"expected methods of the sweep ({', '.join(sweep.kinds)}), found {method!r}: "
            "leave it out"
        )
    settings = 1 if takes_one_pass(sweep.kinds[method]) else sweep.size(method)
    return settings * len(sweep.requests) * len(sweep.seeds) * sweep.models


def table(rows: Sequence[Row], topology: Topology) -> str:
    """A line for every program, in columns."""
    return aligned([HEAD, *(_cells(row) for row in rows)])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of text: the first two to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]

    def pad(column: int, text: str) -> str:
        return text.ljust(widths[column]) if column < 2 else text.rjust(widths[column])

    return "\n".join("  ".join(pad(*cell) for cell in enumerate(line)).rstrip() for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    one, memory = row.measured, row.measured.memory
    messages = ", ".join(
        f"{found.number} {kind} ({_number(found.bytes / 2**20)})"
        for kind, found in one.collectives.items()
    )
    verdict = "fits" if one.fits else f"OUT OF MEMORY: {_number(one.available / GIB)} GiB there are"
    return (
        row.method,
        row.program,
        f"{row.calls:,}",
        _number(one.needed / GIB),
        _number(memory.arguments / GIB) if memory else "-",
        _number(memory.temporaries / GIB) if memory else "-",
        _number(one.flops / 1e9),
        _number(one.seconds * 1e3) if memory else "-",
        messages or "none",
        verdict,
    )


def summary(found: Mapping[str, Run], topology: Topology, sweep: Sweep | None) -> list[str]:
    """A sentence for each method, and one for its share of a sweep."""
    lines = []
    for method, run in found.items():
        if run.seconds is None or run.chip_hours is None:
            lines.append(
                f"{method}: does not fit; stream the data, lower --batch_per_chip, set remat, or "
                "divide the parameters with --fsdp"
            )
            continue
        lines.append(
            f"{method}: {_duration(run.seconds)} at best on {topology.num_chips} chips, "
            f"{run.chip_hours:.3g} chip-hours"
        )
        if sweep is not None:
            number = sweep_runs(sweep, method)
            lines.append(
                f"  {number:,} runs in the sweep: {number * run.chip_hours:,.3g} chip-hours at best"
            )
    return lines


def as_json(
    rows: Sequence[Row], topology: Topology, sweep: Sweep | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The same for machines; sizes in bytes, times in seconds."""
    found = runs(rows, topology)
    result: dict[str, Any] = {
        "topology": topology.name,
        "chips": topology.num_chips,
        **settings,
        "fits": all(row.measured.fits for row in rows),
        "programs": [_program(row) for row in rows],
        "runs": {method: run._asdict() for method, run in found.items()},
    }
    if sweep is not None:
        result["sweep"] = {method: sweep_runs(sweep, method) for method in found}
    return result


def _program(row: Row) -> dict[str, Any]:
    one = row.measured
    fields = one._asdict()
    fields["memory"] = one.memory and one.memory._asdict()
    fields["collectives"] = {kind: c._asdict() for kind, c in one.collectives.items()}
    names = {"method": row.method, "program": row.program, "calls": row.calls}
    return names | fields | {"fits": one.fits}


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"
