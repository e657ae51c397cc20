"""Decoders in GGUF files: the same parameters as in safetensors, and what is refused."""

from __future__ import annotations

import json
import math

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.models.decoder import DecoderConfig, read_decoder, write_decoder

gguf = pytest.importorskip("gguf", reason="needs the extra gguf")
import gguf_files  # noqa: E402

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 8}
LLAMA3 = {**checkpoints.STRETCHED, "original_max_position_embeddings": 8192}
KINDS = {
    "llama2": {},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 5e5, "eos_token_id": 7},
    "qwen2": {"use_sliding_window": False, "sliding_window": None},
    "qwen3": {},
}
Type = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    """`name of an architecture -> (config, tensors)`."""

    def made(name):
        folder = tmp_path_factory.mktemp(name)
        fields = checkpoints.config_json(name, **SIZES, **KINDS[name])
        (folder / "config.json").write_text(json.dumps(fields))
        config = DecoderConfig.read(folder)
        return config, checkpoints.tensors(config)

    return made


def by_safetensors(folder, config, tensors):
    """The parameters of the same numbers in a checkpoint of Hugging Face's form."""
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config.as_json()))
    save_file(tensors, folder / "model.safetensors")
    return read_decoder(folder)[1].params


def stretching(config):
    """What Llama 3.1 divides its frequencies by, from wavelengths."""
    found = []
    for k in range(0, config.head_dim, 2):
        wavelength = 2 * math.pi * config.rope_theta ** (k / config.head_dim)
        smooth = (8192 / wavelength - 1) / 3
        if wavelength < 8192 / 4:
            found.append(1.0)
        elif wavelength > 8192:
            found.append(8.0)
        else:
            found.append(1 / ((1 - smooth) / 8.0 + smooth))
    return np.array(found, np.float32)


def completed(config):
    """Ids of special tokens and the divisors of frequencies, which a file keeps elsewhere."""

    def change(found):
        if config.eos_tokens:
            found = found | {"tokenizer.ggml.eos_token_id": config.eos_tokens[0]}
        if config.rope_scaling is not None:
            found = found | {"rope_freqs.weight": (stretching(config), None)}
        return found

    return change


@pytest.mark.parametrize("name", KINDS)
def test_parameters_are_those_of_the_same_tensors_in_safetensors(name, of, tmp_path):
    config, tensors = of(name)
    path = gguf_files.write(tmp_path / "a.gguf", config, tensors, change=completed(config))
    decoder, variables = read_decoder(path)
    assert decoder.config == config
    wanted = by_safetensors(tmp_path / "b", config, tensors)
    jax.tree.map(np.testing.assert_array_equal, variables.params, wanted)


@pytest.mark.parametrize("kind", [Type.Q4_1, Type.Q8_0, Type.F16, Type.BF16])
def test_quantized_tensors_are_the_numbers_that_they_stand_for(kind, of, tmp_path):
    config, tensors = of("llama2")
    path = gguf_files.write(tmp_path / "a.gguf", config, tensors, quantization=kind)
    _, variables = read_decoder(path, scan_layers=True, dtype=jnp.float32)
    rounded = {  # by rows, so that their order does not matter
        name: x if x.ndim == 1 else gguf.quants.dequantize(gguf.quants.quantize(x, kind), kind)
        for name, x in tensors.items()
    }
    by_safetensors(tmp_path / "b", config, rounded)
    wanted = read_decoder(tmp_path / "b", scan_layers=True)[1]
    jax.tree.map(np.testing.assert_array_equal, variables, wanted)
    up = "model.layers.0.mlp.up_proj.weight"
    assert 0 < np.abs(rounded[up] - tensors[up]).max() < 0.1
    stored = read_decoder(path)[1].params["block_0"]["mlp"]["up"].dtype
    assert stored == {Type.F16: jnp.float16, Type.BF16: jnp.bfloat16}.get(kind, jnp.float32)


def test_every_device_dequantizes_its_part(of, tmp_path):
    config, tensors = of("llama2")
    path = gguf_files.write(tmp_path / "a.gguf", config, tensors, quantization=Type.Q4_1)
    mesh = jax.make_mesh((2,), ("fsdp",), devices=jax.devices()[:2])
    _, divided = read_decoder(path, mesh=mesh)
    jax.tree.map(np.testing.assert_array_equal, divided, read_decoder(path)[1])


def without(found, *names):
    return {name: value for name, value in found.items() if name not in names}


NORM = np.ones(32, np.float32)
DAMAGED = {
    "architecture": (
        lambda f: {"general.architecture": "gemma2", **f},
        "general.architecture among llama, qwen2, qwen3, found 'gemma2'",
    ),
    "experts": (lambda f: f | {"llama.expert_count": 8}, "found 'llama.expert_count' = 8"),
    "no depth": (lambda f: without(f, "llama.block_count"), "number as 'llama.block_count'"),
    "rope type": (lambda f: f | {"llama.rope.scaling.type": "yarn"}, "llama3's factors, .*'yarn'"),
    "rope factors": (
        lambda f: f | {"rope_freqs.weight": (np.array([1, 2, 3, 3], np.float32), None)},
        "rope_freqs.weight to be the factors of Llama 3",
    ),
    "partial rotation": (
        lambda f: f | {"llama.rope.dimension_count": 4},
        "'llama.rope.dimension_count' to be the size of a head, 8, found 4",
    ),
    "missing": (
        lambda f: without(f, "blk.1.ffn_up.weight"),
        "expected a tensor blk.1.ffn_up.weight in .*a.gguf, found none",
    ),
    "offsets": (
        lambda f: f | {"blk.0.attn_q.bias": (NORM, None)},
        "found blk.0.attn_q.bias too",
    ),
    "unknown": (
        lambda f: f | {"blk.0.ssm_in.weight": (NORM, None)},
        "found blk.0.ssm_in.weight too, which it does not have; its metadata",
    ),
    "another shape": (
        lambda f: f | {"llama.feed_forward_length": 96},
        r"blk.0.ffn_gate.weight of shape \(96, 32\), as its metadata says, found \(64, 32\)",
    ),
    "quantization": (
        lambda f: f | {"blk.0.ffn_up.weight": (np.zeros((64, 40), np.uint8), Type.Q8_1)},
        "blk.0.ffn_up.weight of a type among .* found Q8_1",
    ),
    "whole numbers": (
        lambda f: f | {"blk.0.ffn_up.weight": (np.zeros((64, 32), np.int8), None)},
        "blk.0.ffn_up.weight of a type among .* found I8",
    ),
    "an adapter": (lambda f: f | {"general.type": "adapter"}, "a whole model in .*, found a"),
    "a part": (lambda f: f | {"split.count": 3}, "a whole model in .*, found one of 3 parts"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_not_computed_is_refused_by_name(name, of, tmp_path):
    change, message = DAMAGED[name]
    config, tensors = of("llama2")
    path = gguf_files.write(tmp_path / "a.gguf", config, tensors, change=change)
    with pytest.raises(ValueError, match=message):
        read_decoder(path)


def test_a_key_that_the_caller_vouches_for_is_passed_over(of, tmp_path):
    config, tensors = of("llama2")
    path = gguf_files.write(
        tmp_path / "a.gguf", config, tensors, change=lambda f: f | {"llama.some_note": 3}
    )
    assert read_decoder(path, ignore=("llama.some_note",))[0].config == config


def test_files_that_are_no_gguf_are_refused(of, tmp_path):
    path = tmp_path / "a.gguf"
    with pytest.raises(FileNotFoundError, match=r"expected a GGUF file at .*a.gguf, found none"):
        read_decoder(path)
    path.write_bytes(b"no model, but longer than a header has to be" * 9)
    with pytest.raises(ValueError, match=r"expected a GGUF file at .*a.gguf, found 'GGUF magic"):
        read_decoder(path)
    config, tensors = of("llama2")
    whole = gguf_files.write(tmp_path / "b.gguf", config, tensors).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"expected a GGUF file at .*a.gguf, found"):
        read_decoder(path)
    gguf_files.write(path, config, tensors, endian=gguf.GGUFEndian.BIG)
    with pytest.raises(ValueError, match="this machine's byte order"):
        read_decoder(path)
    with pytest.raises(FileNotFoundError, match=r"found a.gguf, b.gguf; .* path of a .gguf file"):
        (tmp_path / "config.json").write_text(json.dumps(config.as_json()))
        read_decoder(tmp_path)


def test_a_file_that_was_replaced_is_read_again(of, tmp_path):
    config, tensors = of("llama2")
    path = gguf_files.write(tmp_path / "a.gguf", config, tensors)
    before = read_decoder(path)[1]
    doubled = {name: 2 * array for name, array in tensors.items()}
    gguf_files.write(tmp_path / "b.gguf", config, doubled).replace(path)
    after = read_decoder(path)[1]
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(2 * x, y), before, after)


def test_what_was_read_from_a_file_is_written_as_safetensors(of, tmp_path):
    config, tensors = of("llama3")
    path = gguf_files.write(
        tmp_path / "a.gguf", config, tensors, quantization=Type.Q8_0, change=completed(config)
    )
    decoder, variables = read_decoder(path, scan_layers=True)
    written = write_decoder(tmp_path / "b", decoder, variables)
    again, read = read_decoder(written, scan_layers=True)
    assert again.config == config
    jax.tree.map(np.testing.assert_array_equal, read, variables)
