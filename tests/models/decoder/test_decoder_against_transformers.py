"""The five architectures against transformers: stored numbers, and transformers itself."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import generate_golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.models.decoder import decode, read_decoder, write_decoder

GOLDEN = np.load(generate_golden.GOLDEN)


@pytest.mark.parametrize("name", checkpoints.NAMES)
def test_log_probabilities_are_those_of_transformers(name, tmp_path, log_probabilities):
    folder = checkpoints.write(tmp_path, name, files=2)
    decoder, variables = read_decoder(folder, scan_layers=True)
    found = log_probabilities(decoder, variables.params, checkpoints.rows())
    assert np.abs(found - GOLDEN[name]).max() <= 1e-4
    assert np.ptp(GOLDEN[name]) > 5  # far from even, or nothing would be compared


@pytest.fixture
def transformers():
    pytest.importorskip("torch", reason="needs the extra test-lm")
    return pytest.importorskip("transformers", reason="needs the extra test-lm")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", checkpoints.NAMES)
def test_what_is_written_opens_in_transformers(name, tmp_path, log_probabilities, transformers):
    decoder, variables = read_decoder(checkpoints.write(tmp_path / "a", name))
    changed = jax.tree.map(lambda x: x * 1.01, variables)
    written = write_decoder(tmp_path / "b", decoder, changed)
    wanted = generate_golden.log_probabilities(written, checkpoints.rows())
    found = log_probabilities(decoder, changed.params, checkpoints.rows())
    assert np.abs(found - wanted).max() <= 1e-4
    assert np.abs(wanted - GOLDEN[name]).max() > 1e-2
    model = transformers.AutoModelForCausalLM.from_pretrained(written)
    model.save_pretrained(tmp_path / "c", max_shard_size="9KB")
    assert len(list((tmp_path / "c").glob("*.safetensors"))) > 1
    again, read = read_decoder(tmp_path / "c")
    assert again.config == decoder.config
    jax.tree.map(np.testing.assert_array_equal, read, changed)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", checkpoints.NAMES)
def test_greedy_texts_are_those_of_transformers(name, tmp_path, transformers):
    import torch

    folder = checkpoints.write(tmp_path, name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None
    prompts = checkpoints.rows()[:, :9]
    wanted = model.generate(
        torch.from_numpy(prompts).long(), max_new_tokens=20, do_sample=False, pad_token_id=0
    )
    decoder, variables = read_decoder(folder, scan_layers=True)
    found = decode(decoder, variables.params, prompts, max_new=20)
    np.testing.assert_array_equal(found.tokens, wanted[:, 9:].numpy())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", checkpoints.NAMES)
def test_the_configs_that_transformers_writes_are_read(name, tmp_path, transformers):
    kind = type(transformers.AutoConfig.for_model(checkpoints.KINDS[name]["model_type"]))
    kind(**checkpoints.config_json(name)).save_pretrained(tmp_path / "a")
    checkpoints.write(tmp_path / "b", name)
    theirs, ours = (
        type(read_decoder(tmp_path / "b")[0].config).read(tmp_path / folder) for folder in "ab"
    )
    drop = {"bos_token": None, "eos_tokens": (), "pad_token": None}
    import dataclasses

    assert dataclasses.replace(theirs, **drop) == dataclasses.replace(ours, **drop)


def test_the_golden_file_covers_every_architecture():
    assert sorted(GOLDEN.files) == checkpoints.NAMES and len(checkpoints.NAMES) == 5
    assert all(GOLDEN[name].shape == (2, 24, 61) for name in GOLDEN.files)
    assert Path(generate_golden.GOLDEN).stat().st_size < 100_000
    assert jnp.isfinite(GOLDEN["llama3"]).all()
