"""Checkpoints on disk: what is read and written, and what is refused."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import checkpoints
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.models.decoder import DecoderConfig, read_decoder, stack_blocks, write_decoder


def contents(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def cast(kind):
    return lambda found: {name: array.astype(kind) for name, array in found.items()}


@pytest.mark.quick("float32-False", "bfloat16-True")
@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("kind", [np.float32, ml_dtypes.bfloat16])
def test_written_and_read_again_are_the_same_bytes(scan, kind, tmp_path):
    source = checkpoints.write(tmp_path / "a", "qwen2", change=cast(kind))
    (source / "tokenizer.json").write_text("{}")
    (source / "generation_config.json").write_text('{"top_p": 0.5}')
    decoder, variables = read_decoder(source, scan_layers=scan)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(kind)}
    written = write_decoder(tmp_path / "b", decoder, variables, tokenizer=source)
    before, after = contents(source), contents(written)
    assert before.keys() == after.keys()
    for name, array in before.items():
        assert array.dtype == after[name].dtype
        assert array.tobytes() == after[name].tobytes(), name
    assert DecoderConfig.read(written) == decoder.config
    names = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    assert sorted(os.listdir(written)) == names
    assert json.loads((written / "config.json").read_text())["torch_dtype"] == np.dtype(kind).name
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_stacked_parameters_are_the_unrolled_ones_whatever_the_files(tmp_path):
    one = read_decoder(checkpoints.write(tmp_path / "a", "qwen3"))[1].params
    folder = checkpoints.write(tmp_path / "b", "qwen3", files=3)
    assert len(list(folder.glob("*.safetensors"))) == 3
    jax.tree.map(
        np.testing.assert_array_equal,
        stack_blocks(one),
        read_decoder(folder, scan_layers=True)[1][0],
    )


def test_types_are_cast_as_asked(tmp_path):
    folder = checkpoints.write(tmp_path / "a", "llama2", change=cast(np.float16))
    decoder, variables = read_decoder(folder, dtype=jnp.float32, scan_layers=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    written = write_decoder(tmp_path / "b", decoder, variables, dtype=jnp.bfloat16)
    assert {array.dtype for array in contents(written).values()} == {np.dtype(ml_dtypes.bfloat16)}
    folder = checkpoints.write(tmp_path / "c", "llama2", change=cast(np.float64))
    assert read_decoder(folder)[1].params["norm"].dtype == np.float32


@pytest.mark.slow
def test_the_host_holds_one_tensor_at_a_time(tmp_path):
    wide = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
    (tmp_path / "config.json").write_text(json.dumps(checkpoints.config_json("llama2", **wide)))
    config = DecoderConfig.read(tmp_path)
    folder = tmp_path / "model"
    decoder = mu.models.Decoder(config, scan_layers=True)
    write_decoder(folder, decoder, decoder.init(jax.random.key(0)))
    tensor, whole = 4 * 256 * 1024, (folder / "model.safetensors").stat().st_size
    read_decoder(folder, scan_layers=True)  # compiles
    tracemalloc.start()
    decoder, variables = read_decoder(folder, scan_layers=True)
    jax.block_until_ready(variables)
    _, read = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    write_decoder(tmp_path / "again", decoder, variables)
    _, written = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert whole > 20 * tensor
    assert read < 4 * tensor and written < 4 * tensor  # a tensor, its transpose, and change


def renamed(found, old, new):
    return {new if name == old else name: array for name, array in found.items()}


UP = "model.layers.1.mlp.up_proj.weight"
DAMAGED = {
    "missing": (lambda f: {n: x for n, x in f.items() if n != UP}, f"expected a tensor {UP} in"),
    "unknown": (
        lambda f: f | {"model.layers.1.mlp.up_proj.bias": f["model.norm.weight"]},
        "found model.layers.1.mlp.up_proj.bias too",
    ),
    "a block too many": (
        lambda f: f | {"model.layers.3.input_layernorm.weight": f["model.norm.weight"]},
        "blocks in .*, found model.layers.3.input_layernorm.weight too",
    ),
    "another shape": (lambda f: f | {UP: f[UP].T.copy()}, rf"expected {UP} of shape \(40, 24\)"),
    "quantized": (
        lambda f: f | {UP: f[UP].astype(np.int8)},
        f"expected {UP} of a type among .* I8",
    ),
    "frequencies": (
        lambda f: f | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(3, np.float32)},
        "inv_freq to be the rotary frequencies",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_other_tensors_are_refused_by_name(case, tmp_path):
    change, message = DAMAGED[case]
    checkpoints.write(tmp_path, "llama2", change=change)
    with pytest.raises(ValueError, match=message) as raised:
        read_decoder(tmp_path)
    assert "\n" not in str(raised.value)


def test_what_is_derived_may_be_stored(tmp_path):
    def both(found):
        table = found["model.embed_tokens.weight"]
        power = np.arange(0, 6, 2) / np.float32(6)
        frequencies = {
            f"model.layers.{k}.self_attn.rotary_emb.inv_freq": (1000000.0**-power).astype("f2")
            for k in range(3)
        }
        return found | {"lm_head.weight": table.copy()} | frequencies

    checkpoints.write(tmp_path, "qwen2", change=both)
    decoder, variables = read_decoder(tmp_path)
    assert decoder.config.tied_head and "head" not in variables.params

    def apart(found):
        return found | {"lm_head.weight": found["model.embed_tokens.weight"] + 1}

    checkpoints.write(tmp_path, "qwen2", change=apart)
    with pytest.raises(
        ValueError, match=r"as tie_word_embeddings says, found another lm_head.weig"
    ):
        read_decoder(tmp_path)


def break_files(folder, case):
    """Damages a checkpoint of two files; returns the error and its message."""
    index = folder / "model.safetensors.index.json"
    part = folder / "model-00002-of-00002.safetensors"
    if case == "no folder":
        return folder / "none", FileNotFoundError, "a directory of a checkpoint, found none at"
    if case == "no config":
        (folder / "config.json").unlink()
        return folder, FileNotFoundError, "expected the config.json of a model .* found none"
    if case == "adapter":
        (folder / "config.json").rename(folder / "adapter_config.json")
        return folder, FileNotFoundError, "found the adapter of another model; merge it into its"
    if case == "no weights":
        index.unlink()
        return folder, FileNotFoundError, "found model-00001-of-00002.safetensors, model-00002"
    if case == "no part":
        part.unlink()
        return folder, FileNotFoundError, f"expected {part.name}, which model.safetensors.index"
    if case == "cut short":
        part.write_bytes(part.read_bytes()[:-8])
        return folder, ValueError, f"expected a safetensors file at .*{part.name}"
    if case in ("no map", "deep map"):
        index.write_text("{}" if case == "no map" else "[" * 100_000)
        return folder, ValueError, "expected a JSON object with a weight_map"
    where = json.loads(index.read_text())
    del where["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(where))
    return folder, ValueError, "found it, which the index does not name: model.norm.weight"


CASES = "no folder,no config,adapter,no weights,no part,cut short,no map,deep map,not in the index"


@pytest.mark.parametrize("case", CASES.split(","))
def test_damaged_directories_are_refused_in_one_sentence(case, tmp_path):
    checkpoints.write(tmp_path, "llama2", files=2)
    folder, error, message = break_files(tmp_path, case)
    with pytest.raises(error, match=message) as raised:
        read_decoder(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.slow
def test_buckets_are_refused(tmp_path, tiny):
    pytest.importorskip("gcsfs")
    with pytest.raises(ValueError, match="expected a local directory, found gs://bucket/model"):
        read_decoder("gs://bucket/model")


def change_at(params, path, value):
    found = jax.tree.map(lambda x: x, params)
    tree, (*folders, name) = found, path.split("/")
    for folder in folders:
        tree = tree[folder]
    if value is None:
        del tree[name]
    else:
        tree[name] = value(tree.get(name, jnp.ones(2)))
    return found


WRONG = {
    "not finite": (
        "block_2/mlp/up",
        lambda x: x.at[0, 0].set(jnp.inf),
        "finite numbers in model.l",
    ),
    "missing": ("block_1/mlp/gate", None, "expected a parameter block_1/mlp/gate, found none"),
    "more": ("adapter", lambda x: x, "of a qwen3, found adapter too, .*: merge adapters first"),
    "shape": ("norm", lambda x: x[1:], r"expected norm of shape \(24,\), found \(23,\)"),
    "type": ("head", lambda x: x.astype(jnp.int32), "expected lm_head.weight of a floating type"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_parameters_leave_nothing_behind(case, tmp_path, tiny):
    decoder, params = tiny("qwen3")
    path, value, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        write_decoder(tmp_path / "new", decoder, mu.Variables(change_at(params, path, value)))
    assert os.listdir(tmp_path) == []
    with pytest.raises(TypeError, match=r"expected mu.Variables of the decoder, found dict"):
        write_decoder(tmp_path / "new", decoder, params)


def test_nothing_is_overwritten_and_nothing_is_left_of_a_stopped_writing(
    tmp_path, tiny, monkeypatch
):
    decoder, params = tiny("qwen3")
    variables = mu.Variables(params)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "note").write_text("mine")
    with pytest.raises(FileExistsError, match=r"expected nothing at .*old, found something"):
        write_decoder(tmp_path / "old", decoder, variables)
    with pytest.raises(FileNotFoundError, match=r"tokenizer.json or tokenizer.model in .*old"):
        write_decoder(tmp_path / "new", decoder, variables, tokenizer=tmp_path / "old")
    replace = os.replace

    def stopped(source, target):
        names = sorted(os.listdir(source))
        assert names == ["config.json", "model.safetensors"]  # whole before it has its name
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_decoder(tmp_path / "new", decoder, variables)
    assert os.listdir(tmp_path) == ["old"]
    monkeypatch.setattr(os, "replace", replace)
    (tmp_path / "new").mkdir()  # an empty one is as good as none
    assert write_decoder(tmp_path / "new", decoder, variables) == Path(tmp_path / "new")
    assert len(contents(tmp_path / "new")) == 3 + 11 * 3


def test_the_extra_is_named(tmp_path, monkeypatch):
    checkpoints.write(tmp_path, "llama2")
    import sys

    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(ModuleNotFoundError, match=r"mu_jax\[lm\]"):
        read_decoder(tmp_path)
