"""Preflight of decoders without the TPU compiler: the same programs, for CPU devices."""

import functools

import jax
import pytest
from ml_collections import ConfigDict

from launch_tpu import preflight
from launch_tpu.compile import compiled, decoders, programs, topologies
from launch_tpu.compile.operations import count
from launch_tpu.configs import llama_1b, llama_8b

CONFIGS = {"1B": llama_1b.get_config, "8B": llama_8b.get_config}
PARAMETERS = {"1B": 1_235_814_400, "8B": 8_030_261_248}  # on the cards of the models
FIT, ROWS, STATISTIC, SUM = (
    "fit, a step", "rows, a batch", "statistic, a batch", "statistic, sum over chips",
)  # fmt: skip
SMALL = dict(
    decoder=dict(
        kind="llama", vocab_size=512, width=64, depth=4, num_heads=4, num_kv_heads=2, head_dim=16,
        mlp_width=128, max_positions=64,
    ),
    rows=dict(examples=96, forget=32, length=64),
)  # fmt: skip


def small(**changes):
    config = llama_1b.get_config()
    config.update(ConfigDict(SMALL))
    config.decoder.tied_head = True
    config.computation.chunk = 16
    config.batch_size, config.fsdp = 16, 8
    config.methods.rmu.layer = 2
    config.update(ConfigDict(changes))
    return config


@functools.cache
def found(name, method):
    config = small() if name == "small" else CONFIGS[name]()
    fsdp = 8
    mesh = programs.make_mesh(jax.devices()[:8], fsdp=fsdp)
    forget = config.rows.forget
    return decoders.streamed(config, method, mesh, batch_size=16, forget=forget)


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("finetune", [(FIT, 2)]),
        ("npo", [(FIT, 20)]),
        ("rmu", [(FIT, 20)]),
        ("ssd", [(STATISTIC, 2 + 4), (SUM, 2)]),
        ("evaluation", [(ROWS, 2), (ROWS, 4)]),
    ],
)
def test_programs_of_every_method(method, expected):
    """By 16 rows: 32 to forget are 2 batches, 64 to retain 4, or 2 of 32 for fine-tuning."""
    assert [(programs.name(one), one.times) for one in found("small", method)] == expected


@functools.cache
def operations(name, method):
    (program,) = found(name, method)
    traced = jax.jit(program.function).trace(*program.arguments)
    return count(traced.jaxpr, chips=8)


@pytest.mark.quick("1B")
@pytest.mark.parametrize("name", CONFIGS)
def test_operations_of_large_models_against_fine_tuning(name):
    assert operations(name, "npo") == operations(name, "finetune")
    assert operations(name, "rmu") <= 0.25 * operations(name, "finetune")


@pytest.mark.parametrize("name", CONFIGS)
def test_configurations_are_those_of_the_published_models(name):
    decoder = decoders.make_decoder(CONFIGS[name]())
    shapes = jax.eval_shape(decoder.init, jax.random.key(0)).params
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["npo", "rmu", "ssd", "evaluation"])
def test_programs_compile_with_divided_parameters(method):
    for program in found("small", method):
        one = compiled.measure(program, topologies.GENERATIONS["v5e"])
        assert one.fits


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"decoder": {"head_dim": 15}}, "expected an even head_dim"),
        ({"rows": {"length": 1}}, "for rows.length in the configuration, found 1"),
        ({"computation": {"chunk": 0}}, "for computation.chunk in the configuration, found 0"),
    ],
)
def test_bad_configurations_are_one_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        decoders.check(small(**changes))


def test_unknown_fields_and_methods_are_one_sentence():
    config = small()
    with config.unlocked():
        config.decoder.heads = 3
    with pytest.raises(ValueError, match=r"expected the fields of a decoder, found that .*'heads'"):
        decoders.check(config)
    topology = topologies.parse("v5e:2x4")
    with pytest.raises(
        ValueError, match=r"expected a method of the configuration among .*'nothing'"
    ):
        preflight.FLAGS.mark_as_parsed()
        list(preflight.check(small(), topology, ["nothing"], None))
