"""What the TPU compiler makes of the programs, without a TPU; `make test-tpu` runs this."""

import functools
import runpy
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import ConfigDict

from launch_tpu.compile import compiled, decoders, programs, topologies
from launch_tpu.configs import llama_1b, llama_8b

pytestmark = pytest.mark.tpu_aot
CONFIGS = Path(__file__).resolve().parents[3] / "experiments/configs"
SLICES = ("v5e:16x16", "v5p:8x8x16")
MODELS = {"imagenet_resnet50": 25_557_032, "imagenet_vit_b16": 86_567_656}
SMALL = {
    "dataset": "none",
    "shapes": {
        "examples": 1_000_000,
        "forget": 100_000,
        "inputs": (64, 64, 3),
        "dtype": "float32",
        "num_classes": 10,
    },
    "model": {"name": "cnn", "features": (32, 64), "dtype": "bfloat16"},
    "loss": "cross_entropy",
    "batch_size": 64,
    "training": {},
    "methods": {"ssd": {"alpha": 2.0}, "iau": {"optimizer": "adam", "learning_rate": 1e-3}},
}


@pytest.fixture(autouse=True, scope="module")
def without_cache():
    """Programs for a machine that is not there can be written to the cache, and not be read."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@functools.cache
def measured(config, method, name, *, per_chip=32, fsdp=1, whole=False):
    """Every program of a method by its name, compiled."""
    if config == "small":
        fields = ConfigDict(SMALL)
    else:
        fields = runpy.run_path(str(CONFIGS / f"{config}.py"))["get_config"]()
    topology = topologies.parse(name)
    task = programs.abstract_task(fields)
    mesh = programs.make_mesh(topologies.devices(topology), fsdp=fsdp)
    batch_size = per_chip * topology.num_chips
    inputs = programs.lay_out(task, mesh, batch_size=batch_size, forget=fields.shapes.forget)
    found = (programs.whole if whole else programs.streamed)(task, method, inputs)
    return [
        (programs.name(p), compiled.measure(p, topology.generation, platform="tpu")) for p in found
    ]


def test_memory_of_a_chip_is_flat_from_8_to_1024_chips():
    chips = ("v5p:2x2x2", "v5p:4x4x4", "v5p:8x8x16")
    found = [dict(measured("small", "ssd", name))["statistic, a batch"] for name in chips]
    for one in found:
        assert one.fits and one.collectives == {}
        assert one.memory.arguments == found[0].memory.arguments
        assert one.memory.temporaries == pytest.approx(found[0].memory.temporaries, rel=0.02)
        assert one.flops == found[0].flops


@pytest.mark.parametrize("name", ["v4:2x2x1", "v5e:1x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_every_generation_compiles(name):
    found = measured("small", "iau", name)
    assert len(found) == 2 and all(one.fits and one.seconds > 0 for _, one in found)


def test_data_that_do_not_fit_are_refused_here_and_not_there():
    ((_, one),) = measured("small", "iau", "v5e:2x2", whole=True)
    assert not one.fits and one.memory is None
    assert one.needed > 1_000_000 * 64 * 64 * 3 * 4 > one.available > 15 * 2**30


def test_divided_parameters_are_gathered_and_their_sums_scattered():
    whole, divided = (dict(measured("small", "ssd", "v5e:2x4", fsdp=f)) for f in (1, 4))
    whole, divided = (found["statistic, a batch"] for found in (whole, divided))
    assert whole.collectives == {}
    assert "all-gather" in divided.collectives
    assert divided.memory.arguments < whole.memory.arguments


@pytest.mark.parametrize("name", SLICES)
@pytest.mark.parametrize("config", MODELS)
@pytest.mark.parametrize("method", ["ssd", "iau"])
def test_statistics_of_large_models(config, method, name):
    """Nothing is sent while batches are summed; then one tree, in as many parts as its size asks.

    The compiler cuts a large all-reduce into a few. No per-example gradient leaves its chip.
    """
    (_, batch), (_, total) = measured(config, method, name)
    assert batch.fits and total.fits
    assert batch.collectives == {} and set(total.collectives) == {"all-reduce"}
    messages = total.collectives["all-reduce"]
    assert messages.bytes == 4 * MODELS[config] + 4  # the tree and the weight
    assert messages.number == (1 if config == "imagenet_resnet50" else 3)


@pytest.mark.parametrize("name", SLICES)
@pytest.mark.parametrize("config", MODELS)
@pytest.mark.parametrize(("method", "number"), [("blindspot", 2), ("dmm", 3)])
def test_fits_of_large_models(config, method, number, name):
    found = measured(config, method, name)
    assert len(found) == number and all(one.fits for _, one in found)
    for label, one in found:
        if label == "fit, a step":
            # One gradient, of kernels in half precision; statistics of normalization in training.
            sent = one.collectives["all-reduce"].bytes
            assert 2 * MODELS[config] <= sent <= 4 * MODELS[config] + 2**21
            assert "all-gather" not in one.collectives


DECODERS = {"v5e:4x4": llama_1b.get_config, "v5p:4x4x4": llama_8b.get_config}


@functools.cache
def of_decoder(name, method):
    config, topology = DECODERS[name](), topologies.parse(name)
    mesh = programs.make_mesh(topologies.devices(topology), fsdp=config.fsdp)
    sizes = {"batch_size": config.batch_size, "forget": config.rows.forget}
    found = decoders.streamed(config, method, mesh, **sizes)
    return [compiled.measure(p, topology.generation, platform="tpu") for p in found]


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("method", ["npo", "rmu", "ssd", "evaluation"])
def test_large_decoders_fit(method, name):
    assert all(one.fits for one in of_decoder(name, method))


def test_a_step_of_the_larger_decoder_leaves_room():
    for method in ("npo", "rmu"):
        (step,) = of_decoder("v5p:4x4x4", method)
        assert step.memory.temporaries <= 20 * topologies.GIB


@pytest.mark.parametrize("name", DECODERS)
def test_a_step_of_npo_is_one_of_fine_tuning(name):
    """No second model, and the same work."""
    (npo,), (tuned,) = of_decoder(name, "npo"), of_decoder(name, "finetune")
    assert npo.flops == tuned.flops and npo.needed <= 1.05 * tuned.needed
