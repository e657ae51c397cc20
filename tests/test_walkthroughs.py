"""The walk-throughs run as scripts, say what is true, and open as notebooks that run."""

import pathlib
import runpy
import subprocess
import sys

import numpy as np
import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "walkthroughs"
NAMES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def run(name):
    """What the script has defined in the end."""
    return runpy.run_path(str(FOLDER / f"{name}.py"), run_name="walkthrough")


@pytest.mark.parametrize("name", NAMES)
def test_a_walkthrough_is_a_notebook_of_text_and_code(name):
    jupytext = pytest.importorskip("jupytext")
    notebook = jupytext.read(FOLDER / f"{name}.py")
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown" and notebook.cells[0].source.startswith("# ")
    assert kinds.count("code") >= 6 and kinds.count("markdown") >= 6
    assert '"""' not in notebook.cells[0].source
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.slow
def test_classification():
    """The words say that fine-tuning is far off, and that the others reach the floor."""
    gaps = run("classification")["gaps"]
    assert max(gaps["SSD"], gaps["NegGrad+"]) < gaps["retrain"] + 1
    assert 10 < gaps["fine-tuning"] < gaps["do nothing"] < gaps["constant"]


@pytest.mark.slow
def test_regression():
    """The words say that the average gap ranks otherwise than the answers themselves."""
    found = run("regression")
    distance = found["distance"]
    assert max(distance[name] for name in found["methods"]) < distance["do nothing"]
    constant = {row.label: row.cells[-1].mean for row in found["found"].rows}["constant"]
    assert constant < 12
    answers = {name: np.mean(values) for name, values in found["answers"].items()}
    assert answers["truth"] < answers["do nothing"] < answers["retrain"]


@pytest.mark.slow
def test_evaluation():
    """The words say who can be told from retraining, and that SSD has paid for it elsewhere."""
    found = run("evaluation")
    klom = {name: interval.estimate for name, interval in found["intervals"].items()}
    assert klom["retrain (floor)"] < klom["SSD"] < klom["do nothing"]
    assert min(klom["fine-tuning"], klom["NegGrad+"]) > klom["do nothing"] - 0.5
    (floor, floor_of_test), (nothing, nothing_of_test), (ssd, ssd_of_test) = (
        found["percentiles"][name] for name in ("retrain (floor)", "do nothing", "SSD")
    )
    assert floor < nothing - 2 and abs(ssd - nothing) < 0.5
    assert floor_of_test < nothing_of_test < ssd_of_test - 1
    attacks = found["attacks"]
    assert attacks["retrain"].estimate < attacks["do nothing"].estimate
    assert all(one.low < one.estimate < one.high for one in attacks.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_walkthrough_runs_as_a_notebook(name, tmp_path):
    pytest.importorskip("jupytext")
    pytest.importorskip("ipykernel")
    written = tmp_path / f"{name}.ipynb"
    command = [sys.executable, "-m", "jupytext", "--to", "notebook", "--execute"]
    done = subprocess.run(
        [*command, "--output", str(written), str(FOLDER / f"{name}.py")],
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"output_type": "stream"' in written.read_text()
