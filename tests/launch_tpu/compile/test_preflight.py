"""Preflight without the TPU compiler: the same programs, compiled for CPU devices, and read."""

import json
import re
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from experiments.lib import command_line
from experiments.lib.methods import METHODS
from experiments.sweep.files import Axis, Sweep
from launch_tpu import preflight
from launch_tpu.compile import compiled, operations, programs, projection, topologies
from launch_tpu.compile.compiled import Collective, Measured, Memory
from mu_jax import _target as target
from mu_jax.loops.scan import Program

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


@pytest.mark.parametrize(
    ("operations", "traffic", "messages", "seconds"),
    [
        (197e12, 0.0, {}, 1.0),
        (197e12, 2 * 819e9, {}, 2.0),
        (0.0, 0.0, {"all-gather": Collective(3, 400 * 10**9)}, 1.0),
        (0.0, 819e9, {"all-reduce": Collective(1, 400 * 10**9)}, 2.0),
    ],
)
def test_the_roofline_is_the_longest_of_three(operations, traffic, messages, seconds):
    assert compiled.roofline(operations, traffic, messages, V5E) == pytest.approx(seconds)


def test_messages_cost_nothing_where_the_vendor_does_not_say():
    v4 = topologies.GENERATIONS["v4"]
    assert compiled.roofline(275e12, 0.0, {"all-reduce": Collective(1, 10**15)}, v4) == 1.0


def trace(function, *shapes):
    return jax.jit(function).trace(*(jnp.zeros(shape) for shape in shapes)).jaxpr


def convolve(x, kernel, strides=(1, 1)):
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=numbers)


def squares(x, kernel):
    return (convolve(x, kernel, (2, 2)) ** 2).sum()


CONVOLUTION = 2 * (2 * 4 * 4 * 5) * (3 * 3 * 4)  # outputs times taps


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (trace(jnp.matmul, (3, 4), (4, 5)), 2 * 3 * 4 * 5),
        (trace(jax.vmap(jnp.matmul), (7, 3, 4), (7, 4, 5)), 7 * 2 * 3 * 4 * 5),
        (trace(jnp.add, (3,), (3,)), 0),
        (trace(lambda x: lax.scan(lambda c, _: (c @ x, 0), x, length=6), (4, 4)), 6 * 128),
        (trace(lambda x: lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x), (4, 4)), 128),
        (trace(jax.jit(jax.checkpoint(lambda x: x @ x)), (4, 4)), 128),
        (trace(partial(convolve, strides=(2, 2)), (2, 9, 9, 4), (3, 3, 4, 5)), CONVOLUTION),
        # Two of the same size backward; the one to the inputs works on a padded, dilated array.
        (trace(jax.grad(squares, 1), (2, 9, 9, 4), (3, 3, 4, 5)), 2 * CONVOLUTION),
    ],
)
def test_operations_of_known_programs(program, expected):
    assert operations.count(program) == expected


def test_products_with_padding_between_pixels_do_not_count():
    backward = trace(jax.grad(squares, 0), (2, 9, 9, 4), (3, 3, 4, 5))
    assert CONVOLUTION < operations.count(backward) < 2.5 * CONVOLUTION


def test_operations_are_those_of_one_chip():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    local = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
    both = trace(lambda x, w: (local(x, w), x @ w), (16, 4), (4, 5))
    assert operations.count(both, chips=8) == 2 * (2 * 2 * 4 * 5)


MOVES = {
    "all-reduce": (lambda x: lax.psum(x, "data"), P(), 4 * 16),
    "all-gather": (lambda x: lax.all_gather(x, "data", tiled=True), P("data"), 8 * 4 * 16),
    "reduce-scatter": (
        lambda x: lax.psum_scatter(x, "data", tiled=True, scatter_dimension=1), P(None, "data"), 8,
    ),
    "all-to-all": (lambda x: lax.all_to_all(x, "data", 1, 0, tiled=True), P("data"), 4 * 16),
    "collective-permute": (
        lambda x: lax.ppermute(x, "data", [(i, (i + 1) % 8) for i in range(8)]), P("data"), 4 * 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MOVES)
def test_messages_of_known_programs(kind):
    function, out, size = MOVES[kind]
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    whole = jax.shard_map(function, mesh=mesh, in_specs=P("data"), out_specs=out, check_vma=False)
    rows = jax.ShapeDtypeStruct((8, 16), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    text = jax.jit(whole).lower(rows).compile().as_text()
    assert compiled.collectives(text) == {kind: Collective(1, size)}


def test_messages_as_a_tpu_writes_them():
    text = """
      %a = (f32[2,3]{1,0:T(8,128)S(1)}, bf16[4]{0:T(128)}, /*index=5*/pred[7]{0}) all-reduce(%x, %y)
      %b = (f32[2]{0}, f32[16]{0}, u32[]) all-gather-start(%z), dimensions={0}
      %c = f32[16]{0} all-gather-done(%b)
      %d = f32[9]{0} fusion(%all-reduce.3), calls=%all-reduce-scatter
    """
    expected = {"all-reduce": Collective(1, 24 + 8 + 7), "all-gather": Collective(1, 64)}
    assert compiled.collectives(text) == expected


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
        "gradient_ascent": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "gaussian_amnesiac": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "scrub": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 3, "max_epochs": 2},
        "salun": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "neg_grad_plus": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
        "retrain": {"optimizer": "sgd", "learning_rate": 1e-3, "epochs": 2},
    },
}
PARAMETERS = 9 * (3 * 4 + 4 * 8) + 2 * (4 + 8) + 8 * 3 + 3
STATISTIC, SUM, FIT, ROWS = (programs._NAMES[name] for name in programs._NAMES)


@cache
def found(method, devices=8, fsdp=1, *, whole=False, features=(4, 8)):
    task = programs.abstract_task(
        ConfigDict({**SMALL, "model": {"name": "cnn", "features": features}})
    )
    mesh = programs.make_mesh(jax.devices()[:devices], fsdp=fsdp)
    inputs = programs.lay_out(task, mesh, batch_size=8 * devices, forget=320)
    return (programs.whole if whole else programs.streamed)(task, method, inputs)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("ssd", [(STATISTIC, 5 + 10), (SUM, 2)]),
        ("iau", [(STATISTIC, 5 + 10), (SUM, 2)]),
        ("blindspot", [(FIT, 2 * 10), (FIT, 3 * 15)]),
        ("dmm", [(ROWS, 2 * 15), (ROWS, 15), (FIT, 2 * 15)]),
        ("finetune", [(FIT, 4 * 10)]),
        ("gradient_ascent", [(FIT, 2 * 5)]),
        ("gaussian_amnesiac", [(FIT, 2 * 15)]),
        ("neg_grad_plus", [(FIT, 2 * 15)]),
        ("retrain", [(FIT, 2 * 10)]),
    ],
)
def test_programs_of_every_method(method, expected):
    """By 64 rows: 320 to forget are 5 batches, 640 to retain 10; two checkpoints for `dmm`."""
    assert [(programs.name(one), one.times) for one in found(method)] == expected


def test_every_method_of_the_table_is_covered():
    assert set(SMALL["methods"]) == set(METHODS)


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


REFUSALS = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.",
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(20.50G) exceeds available HBM (15.75G).",
)


@pytest.mark.parametrize("message", REFUSALS)
def test_a_refusal_of_the_compiler_is_read(message):
    assert compiled.refusal(message) == (int(20.5 * 2**30), int(15.75 * 2**30))


def test_another_error_is_no_refusal():
    assert compiled.refusal("RESOURCE_EXHAUSTED: out of patience") is None


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
