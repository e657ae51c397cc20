"""What the measured programs of a run add up to: time, chip-hours, a table, a sweep."""

import json
import re
from pathlib import Path

import pytest

from experiments.sweep.files import Axis, Sweep
from launch_tpu.compile import projection, topologies
from launch_tpu.compile.compiled import Collective, Measured, Memory

V5E = topologies.GENERATIONS["v5e"]


def a_program(seconds=0.5, needed=2**30, fits=True):
    memory = Memory(needed, 0, 0, 0, 0) if fits else None
    sent = {"all-reduce": Collective(1, 2**20)}
    return Measured(memory, needed, V5E.memory, 4e9, 1e9, sent, seconds, 60.0)


def test_time_and_chip_hours_of_a_run():
    rows = [
        projection.Row("ssd", "a", 720, a_program()),
        projection.Row("ssd", "b", 1, a_program(3)),
    ]
    topology = topologies.parse("v5e:4x4")
    assert projection.runs(rows, topology) == {"ssd": projection.Run(363.0, 363 * 16 / 3600)}
    (sentence,) = projection.summary(projection.runs(rows, topology), topology, None)
    assert sentence == "ssd: 6.0 min at best on 16 chips, 1.61 chip-hours"


@pytest.mark.parametrize("memory", ["refused", "too much"])
def test_a_program_that_does_not_fit_says_so(memory):
    one = a_program(fits=memory != "refused", needed=17 * 2**30)
    row, topology = projection.Row("ssd", "a", 1, one), topologies.parse("v5e:4x4")
    assert "OUT OF MEMORY: 16 GiB there are" in projection.table([row], topology)
    assert projection.runs([row], topology)["ssd"].seconds is None
    result = projection.as_json([row], topology, None, {})
    assert not result["fits"] and json.loads(json.dumps(result)) == result


def test_a_table_has_a_line_for_every_program():
    row = projection.Row("ssd", "statistic, a batch", 1234, a_program())
    lines = projection.table([row], topologies.parse("v5e:4x4")).splitlines()
    assert len(lines) == 2 and len({len(line.split("  ")[0]) for line in lines})
    assert re.search(r"ssd +statistic, a batch +1,234 +1 .* 4 +500 +1 all-reduce \(1\)", lines[1])


def test_runs_of_a_sweep():
    kinds = {"ssd": "ssd", "dmm": "dmm"}
    axes = {"ssd": {"alpha": Axis((1.0, 2.0))}, "dmm": {"epochs": Axis((1, 2))}}
    sweep = Sweep(Path("config.py"), ("a", "b", "c"), kinds, axes, models=5, seeds=(0, 1))
    assert projection.sweep_runs(sweep, "ssd") == 3 * 2 * 5  # a pass for all settings
    assert projection.sweep_runs(sweep, "dmm") == 2 * 3 * 2 * 5
    with pytest.raises(
        ValueError, match=r"expected methods of the sweep \(ssd, dmm\), found 'iau'"
    ):
        projection.sweep_runs(sweep, "iau")
