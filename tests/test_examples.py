"""The scripts under `examples/` run as their users would run them."""

import gzip
import importlib
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

ROOT = pathlib.Path(__file__).parents[1]


def gap(found, row):
    """The average gap of a row of a score, in points."""
    rows = {each.label: each for each in found.rows}
    names = [column.name for column in found.table.columns]
    return rows[row].cells[names.index("average gap")].mean


def test_the_front_page_installs_and_trains_before_it_unlearns():
    """What its example prints is checked where its own doctest runs."""
    before, example = (ROOT / "README.md").read_text().split("```python\n", 1)
    assert "pip install" in before
    lines = example.split("```", 1)[0].splitlines()
    trained, unlearned = (
        next(number for number, line in enumerate(lines) if text in line)
        for text in ("trained = mu.store.load_weights(", "mu.ssd(")
    )
    assert trained < unlearned and "(None, trained, forget, retain)" in lines[unlearned]


# Random rows are forgotten: doing nothing is then nearly as close as retraining itself.
RANDOM = ("nnx_model", "equinox_model", "sequence_masks", "string_ids", "tuned_method")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "row"),
    [
        ("linen_own_loop", "ssd"),
        ("nnx_model", "finetune"),
        ("haiku_model", "ssd"),
        ("equinox_model", "NegGrad+"),
        ("train_state_orbax", "ssd"),
        ("regression", "blindspot"),
        ("two_heads", "ssd"),
        ("sequence_masks", "gradient ascent"),
        ("lora_only", "merged"),
        ("head_only", "head"),
        ("streaming", "ssd"),
        ("string_ids", "finetune"),
        ("torch_loader", "ssd"),
        ("tuned_method", "chosen"),
    ],
)
def test_a_script_ends_with_a_model_closer_to_the_retrained_ones(script, row, capsys):
    if script == "torch_loader":
        pytest.importorskip("torch")
    found = importlib.import_module(f"examples.{script}").main()
    assert row in capsys.readouterr().out
    found = getattr(found, "score", found)
    floor = gap(found, "retrain")
    assert gap(found, row) < gap(found, "do nothing") + (floor if script in RANDOM else 0)


def write_fashion_mnist(folder, images, labels, train):
    """Gzipped IDX files of the names of Fashion-MNIST, the first `train` rows for training."""
    for part, rows in (("train", slice(0, train)), ("t10k", slice(train, None))):
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            array = array[rows].astype(np.uint8)
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:expected .* examples in fashion_mnist:UserWarning")
def test_files_of_fashion_mnist_give_a_tuned_method(tmp_path):
    digits = load_digits()
    large = np.kron(digits.images * 255 / 16, np.ones((1, 3, 3)))
    images = np.pad(large, ((0, 0), (2, 2), (2, 2)))
    write_fashion_mnist(tmp_path, images, digits.target, train=1500)
    found = importlib.import_module("examples.fashion_mnist").main(tmp_path, 1000, trials=8)
    assert gap(found.score, "chosen") < gap(found.score, "do nothing")


@pytest.mark.slow
def test_a_tuned_method_comes_as_close_on_fashion_mnist_as_retrained_models_to_each_other():
    script = importlib.import_module("examples.fashion_mnist")
    if not os.path.isdir(script.FOLDER):
        pytest.skip(f"no files in {script.FOLDER}")
    score = script.main().score
    assert gap(score, "chosen") <= gap(score, "retrain") < gap(score, "do nothing")


@pytest.mark.slow
def test_four_devices_give_the_weights_of_one():
    assert importlib.import_module("examples.mesh_of_four").main() < 1e-5


def run(*arguments, folder):
    """Output of a module that runs from the checkout."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_own_task_in_the_binaries(tmp_path):
    request = ["--workdir=w", "--request=cultivar:2"]
    train = ["experiments.train", "--workdir=w", "--task=examples.own_task:make_trained_task"]
    assert "serving version 1" in run(*train, folder=tmp_path)
    assert "Version 2 is published and serving" in run(
        "experiments.unlearn", *request, folder=tmp_path
    )
    table = run("experiments.evaluate", *request, folder=tmp_path)
    rows = {line.split()[0]: line for line in table.splitlines() if line.strip()}
    assert {"retrain", "do", "2:", "constant"} <= set(rows)
