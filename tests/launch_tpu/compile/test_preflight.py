"""Preflight without the TPU compiler: the same programs, compiled for CPU devices, and read."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from experiments.lib import command_line
from experiments.lib.arguments import arguments_of
from experiments.lib.methods import METHODS
from launch_tpu import preflight
from launch_tpu.compile import compiled, programs, topologies
from mu_jax import _target as target
from mu_jax.loops.recording import Program

ROOT = Path(__file__).resolve().parents[3]
V5E = topologies.GENERATIONS["v5e"]


@pytest.mark.parametrize(
    ("name", "chips"),
    [("v5e:1x1", 1), ("v5e:16x16", 256), ("v5p:8x8x16", 1024), ("v4:2x2x1", 4), ("v6e:4x8", 32)],
)
def test_slices_that_exist(name, chips):
    topology = topologies.parse(name)
    assert (topology.num_chips, topology.name) == (chips, name)


MISSING = (
    "v5e:16x32 v5e:3x3 v5e v5e: v5e:4x4x1 v5e:axb v5p:8x16x8 v5p:0x4x4 v5p:16x24x24 v5p:4x4x-4 "
    "v4:16x16x20 v9:2x2"
)


@pytest.mark.parametrize("name", MISSING.split())
def test_a_slice_that_does_not_exist_is_one_sentence(name):
    with pytest.raises(ValueError, match=r"^expected a .* found '.*: [^.]*$") as raised:
        topologies.parse(name)
    assert "\n" not in str(raised.value) and repr(name) in str(raised.value)


def test_without_the_compiler_the_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(FileNotFoundError, match=r"found no libtpu: .*pip install -e '\.\[tpu\]'"):
        topologies.devices(topologies.parse("v5e:2x2"))


SMALL = {
    "dataset": "none",
    "shapes": {
        "examples": 960,
        "forget": 320,
        "inputs": (8, 8, 3),
        "dtype": "float32",
        "num_classes": 3,
    },
    "loss": "cross_entropy",
    "training": {"batch_size": 64, "epochs": 1},
    "batch_size": 64,
    "methods": {
        "ssd": {"alpha": 2.0},
        "iau": {"optimizer": "adam", "learning_rate": 1e-3},
        "blindspot": {"optimizer": "adam", "learning_rate": 1e-3, "teacher_epochs": 2, "epochs": 3},
        "dmm": {
            "attribution": {"checkpoints": 2},
            "optimizer": "adam",
            "learning_rate": 1e-3,
            "epochs": 2,
            "batch_size": 16,
        },
        "finetune": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 4, "batch_size": 16},
        "fisher_forgetting": {"alpha": 1e-6},
        "gradient_ascent": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "gaussian_amnesiac": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "random_labels": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "bad_teacher": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "l1_sparse": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "boundary_shrink": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "boundary_expand": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "laf": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2, "vae_epochs": 3},
        "scrub": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 3, "max_epochs": 2},
        "salun": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "neg_grad_plus": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "unsir": {"optimizer": "sgd", "learning_rate": 1e-3, "copies": 4},
        "retrain": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "task_negation": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "ntk_scrub": {"weight_decay": 0.1, "iterations": 20},
    },
}
PARAMETERS = 9 * (3 * 4 + 4 * 8) + 2 * (4 + 8) + 8 * 3 + 3
STATISTIC, SUM, FIT, ROWS = (programs._NAMES[name] for name in programs._NAMES)


@cache
def found(method, devices=8, fsdp=1, *, whole=False, features=(4, 8)):
    methods = SMALL["methods"]
    if "optimizer" in arguments_of(method):
        methods = {method: {"optimizer": "sgd", "learning_rate": 1e-3}, **methods}
    task = programs.abstract_task(
        ConfigDict({**SMALL, "methods": methods, "model": {"name": "cnn", "features": features}})
    )
    mesh = programs.make_mesh(jax.devices()[:devices], fsdp=fsdp)
    inputs = programs.lay_out(task, mesh, batch_size=8 * devices, forget=320)
    return (programs.whole if whole else programs.streamed)(task, method, inputs)


PROGRAMS = {
    "ssd": [(STATISTIC, 5 + 10), (SUM, 2)],
    "iau": [(STATISTIC, 5 + 10), (SUM, 2)],
    "blindspot": [(FIT, 2 * 10), (FIT, 3 * 15)],
    "dmm": [(ROWS, 2 * 15), (ROWS, 15), (FIT, 2 * 15)],
    "finetune": [(FIT, 4 * 10)],
    "fisher_forgetting": [(STATISTIC, 10), (SUM, 1)],
    "gradient_ascent": [(FIT, 2 * 5)],
    "gaussian_amnesiac": [(FIT, 2 * 15)],
    "neg_grad_plus": [(FIT, 2 * 15)],
    "influence": [(STATISTIC, 5 + 10), (SUM, 2), (STATISTIC, 15 * 105), (SUM, 105)],
    "retrain": [(FIT, 2 * 10)],
    "unsir": [(FIT, 25), (FIT, 2 + 10 + 10)],
    "salun": [(STATISTIC, 5), (SUM, 1), (FIT, 2 * 5), (FIT, 2 * 10)],
    "l1_sparse": [(FIT, 2 * 10)],
    "boundary_shrink": [(STATISTIC, 5), (SUM, 1), (FIT, 2 * 5)],
    "boundary_expand": [(FIT, 2 * 5)],
    "laf": [(FIT, 3 * (5 + 10)), (FIT, 2 * 5), (FIT, 2 * 5)],
    "modhifi": [(STATISTIC, 5 + 10), (SUM, 2)],
    "random_labels": [(FIT, 2 * 15)],
    "bad_teacher": [(FIT, 2 * 8)],
    "scrub": [(FIT, 2 * 5), (FIT, 3 * 10)],
    "task_negation": [(FIT, 2 * 5)],
    "ntk_scrub": [
        *((STATISTIC, 5 + 10), (SUM, 2)),
        *((STATISTIC, 21 * 10 + 5 + 21 * 15), (SUM, 21 + 1 + 21)),
    ],
}


@pytest.mark.parametrize("method", METHODS)
def test_programs_of_every_method(method):
    """By 64 rows: 320 to forget are 5 batches, 640 to retain 10; two checkpoints for `dmm`.

    SCRUB goes away for 2 of its 3 epochs; SalUn sums one gradient of the forget set. Influence
    takes 100 products with all rows, and one every 25 and at the end for the true residual.
    """
    known = [(programs.name(one), one.times) for one in found(method)]
    assert known and known == PROGRAMS.get(method, known)


@pytest.mark.parametrize("method", ["blindspot", "dmm"])
def test_parameters_may_be_divided_in_any_method(method):
    whole, divided = (found(method, 8, fsdp, features=(64, 128)) for fsdp in (1, 4))
    assert [one.times for one in whole] == [one.times for one in divided]


@cache
def measured(method, number, devices=8, fsdp=1):
    return compiled.measure(found(method, devices, fsdp)[number], V5E)


@pytest.mark.parametrize("method", ["ssd", "iau"])
def test_a_statistic_is_summed_over_chips_once(method):
    batch, total = measured(method, 0), measured(method, 1)
    assert batch.collectives == {}
    assert set(total.collectives) == {"all-reduce"}
    assert total.collectives["all-reduce"].bytes == 4 * PARAMETERS + 4  # the tree and the weight
    assert batch.flops > 0 and total.flops == 0


def test_memory_of_a_chip_does_not_grow_with_the_chips():
    two, eight = (measured("ssd", 0, devices) for devices in (2, 8))
    assert two.memory.arguments == eight.memory.arguments
    assert two.memory.temporaries == pytest.approx(eight.memory.temporaries, rel=0.01)
    assert two.flops == eight.flops


def test_divided_parameters_take_less_room_and_more_messages():
    """Of the larger kernels: small leaves lie whole on every chip."""
    whole, divided = (
        compiled.measure(found("iau", 8, fsdp, features=(64, 128))[0], V5E) for fsdp in (1, 4)
    )
    assert whole.collectives == {} and "all-gather" in divided.collectives
    kernel = 4 * 9 * 64 * 128
    saved = whole.memory.arguments - divided.memory.arguments
    assert saved >= 2 * kernel * 3 // 4  # of the parameters and of the sum
    assert whole.flops == divided.flops


@pytest.mark.slow
def test_arrays_are_one_program_that_holds_all_data():
    (program,) = found("ssd", whole=True)
    one = compiled.measure(program, V5E)
    assert one.memory.arguments > 960 * 8 * 8 * 3 * 4
    assert program.times == 1


def test_programs_are_traced_for_the_platform_that_is_asked_for():
    seen = []

    def function(x):
        seen.append(target.platform())
        return x

    here = NamedSharding(Mesh(np.array(jax.devices()[:1]), ("data",)), P())
    rows = jax.ShapeDtypeStruct((8,), jnp.float32, sharding=here)
    compiled.measure(Program(function, (rows,), times=1, donates=False), V5E, platform="tpu")
    assert seen == ["tpu"] and target.platform() == "cpu"


@pytest.mark.slow
def test_convolutions_are_those_of_the_platform():
    """On a CPU a convolution is slices and a matrix product; on a TPU it stays one."""
    task = programs.abstract_task(ConfigDict({**SMALL, "model": {"name": "cnn", "features": (4,)}}))
    mesh = programs.make_mesh(jax.devices()[:2])
    inputs = programs.lay_out(task, mesh, batch_size=64, forget=320)
    counts = {}
    for platform in ("cpu", "tpu"):
        jax.clear_caches()
        (program,) = programs.streamed(task, "finetune", inputs, platform=platform)
        with target.traced_for(platform):
            text = str(jax.jit(program.function).trace(*program.arguments).jaxpr)
        counts[platform] = text.count("conv_general_dilated[")
    assert counts["cpu"] == 0 < counts["tpu"]


def test_groups_that_do_not_divide_the_chips_are_refused():
    with pytest.raises(ValueError, match="expected groups that divide 8 chips, found groups of 3"):
        programs.make_mesh(jax.devices()[:8], fsdp=3)


@pytest.fixture
def refused(monkeypatch, capsys):
    """Calls the binary in this process; the sentence with which it ends."""
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)  # of the whole process

    def call(*arguments):
        with pytest.raises(SystemExit) as end:
            argv = command_line._parse_or_exit(
                preflight.FLAGS, ["preflight", *arguments], about="", arguments=""
            )
            preflight.main(argv)
        said = capsys.readouterr()
        assert (end.value.code, said.out) == (2, "")
        assert said.err.startswith("error: ") and said.err.count("\n") == 1
        return said.err

    return call


def test_the_binary_ends_with_one_sentence_and_exit_code_2():
    command = [sys.executable, "-m", "launch_tpu.preflight", "--topology=v5e:5x5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "expected a v5e slice of shape 1x1" in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--topology=v5e:5x5"], "expected a v5e slice of shape 1x1"),
        (["--methods=ssd,nothing"], "expected a method among ssd, iau"),
        (["--json=nowhere/out.json"], "expected a folder nowhere for out.json"),
        (["--batch_per_chip=0"], "flag --batch_per_chip=0: 0 is not"),
        (["--config=nowhere.py"], "expected a configuration file at nowhere.py, found none"),
        (
            ["--config.training.batch_size=0"],
            "a whole number from 1 on for training.batch",
        ),
        (["--methods="], "expected --methods, found none"),
        (["--json=."], "expected a file to write at ., found a folder"),
        (["--config.nothing=3"], "nothing"),
        (["stray"], "expected flags only, found 'stray'"),
    ],
)
def test_bad_input_ends_with_one_sentence(arguments, sentence, tmp_path, refused):
    config = f"--config={ROOT}/experiments/configs/imagenet_resnet50.py"
    out = tmp_path / "out.json"
    assert sentence in refused(config, f"--json={out}", *arguments) and not out.exists()


BROKEN = {
    "raise RuntimeError('boom')": "it raises RuntimeError boom",
    "def get_config():\n    return {}['a']": "it raises KeyError 'a'",
    "def get_config(:": "it raises SyntaxError",
    "x = 1": "expected a function get_config in",
    "def get_config():\n    pass": "to return a ConfigDict, found NoneType",
    "def get_config():\n    return {'batch_size': 4}": "expected the field dataset in the",
}


@pytest.mark.parametrize("text", BROKEN)
def test_a_configuration_that_cannot_be_used_is_one_sentence(text, tmp_path, refused):
    path = tmp_path / "broken.py"
    path.write_text(text + "\n")
    said = refused(f"--config={path}", "--topology=v5e:2x2")
    assert said.startswith("error: expected ") and BROKEN[text] in said
