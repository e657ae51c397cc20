"""What a `config.json` says, and what is refused in it."""

from __future__ import annotations

import dataclasses
import json
import math

import checkpoints
import numpy as np
import pytest

from mu_jax.models.decoder import DecoderConfig, RopeScaling
from mu_jax.models.decoder.blocks import frequencies
from mu_jax.models.decoder.layout import tensor_names


def read(folder, found, **options):
    (folder / "config.json").write_text(json.dumps(found))
    return DecoderConfig.read(folder, **options)


@pytest.mark.parametrize("name", checkpoints.NAMES)
def test_written_and_read_again_is_the_same(name, tmp_path):
    config = read(tmp_path, checkpoints.config_json(name))
    assert read(tmp_path, config.as_json()) == config
    assert hash(config) == hash(dataclasses.replace(config))


def test_the_new_spelling_of_rope(tmp_path):
    old = checkpoints.config_json("llama3")
    new = {k: v for k, v in old.items() if k not in ("rope_theta", "rope_scaling")}
    new["rope_parameters"] = {**old["rope_scaling"], "rope_theta": old["rope_theta"]}
    assert read(tmp_path, old) == read(tmp_path, new)
    assert read(tmp_path, old).rope_scaling == RopeScaling(8.0, 1.0, 4.0, 16)
    older = old | {"rope_scaling": {"type": "default"}}
    assert read(tmp_path, older).rope_scaling is None


def test_stretched_frequencies(tmp_path):
    config = read(tmp_path, checkpoints.config_json("llama3", head_dim=12))
    plain = 500.0 ** (-np.arange(0, 12, 2) / 12)
    length = 2 * np.pi / plain
    smooth = (16 / length - 1) / 3
    wanted = np.where(length < 4, plain, (1 - smooth) * plain / 8 + smooth * plain)
    wanted = np.where(length > 16, plain / 8, wanted)
    np.testing.assert_allclose(frequencies(config), wanted, rtol=1e-5)
    assert len({*(wanted / plain).round(4)} - {1.0, 0.125}) >= 1  # one lies between


def test_defaults_are_those_of_each_architecture(tmp_path):
    def of(name, *left_out):
        changes = dict.fromkeys(left_out)
        return read(tmp_path, checkpoints.config_json(name, **changes))

    assert of("llama2", "num_key_value_heads").num_kv_heads == 4
    assert of("llama2").head_dim == 6 and of("llama2").tied_head is False
    assert of("mistral", "sliding_window").sliding_window == 4096
    assert of("mistral", "rope_theta").rope_theta == 10000.0
    assert of("qwen3", "head_dim").head_dim == 128
    assert of("qwen2").sliding_layers == (False, True, True)
    assert of("qwen2", "use_sliding_window").sliding_window is None
    assert of("llama3").eos_tokens == (7, 9) and of("llama2").eos_tokens == ()
    null = checkpoints.config_json("mistral") | {"sliding_window": None}
    assert read(tmp_path, null).sliding_window is None
    words = ["sliding_attention", "full_attention", "sliding_attention"]
    mixed = checkpoints.config_json("qwen3", use_sliding_window=True, sliding_window=6)
    config = read(tmp_path, mixed | {"layer_types": words})
    assert config.sliding_layers == (True, False, True) and config.sliding_window == 6
    assert read(tmp_path, config.as_json()) == config


REFUSED = [
    ("llama2", {"model_type": "gemma"}, "a model_type among .* found 'gemma'"),
    ("llama2", {"architectures": ["LlamaModel"]}, "architecture LlamaForCausalLM .* 'LlamaModel'"),
    ("llama2", {"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope type .* found 'yarn'"),
    ("llama2", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope type .* found 'linear'"),
    ("llama2", {"rope_scaling": {"rope_type": "default", "factor": 2.0}}, "no key 'factor'"),
    ("llama3", {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "number as 'low_freq_fac"),
    ("llama2", {"hidden_act": "gelu"}, 'expected hidden_act to be "silu", found "gelu"'),
    ("llama2", {"quantization_config": {"bits": 4}}, 'quantization_config .* found {"bits": 4}'),
    ("llama2", {"attention_bias": True}, "expected attention_bias to be false, found true"),
    ("llama2", {"mlp_bias": True}, "expected mlp_bias to be false, found true"),
    ("qwen3", {"attention_bias": True}, "expected attention_bias to be false, found true"),
    ("llama2", {"attention_dropout": 0.1}, "expected attention_dropout to be 0, found 0.1"),
    ("llama2", {"partial_rotary_factor": 0.5}, "expected partial_rotary_factor to be 1, found 0.5"),
    (
        "llama2",
        {"logit_scale": 0.1},
        r"found 'logit_scale' = 0.1, .* pass ignore=\('logit_scale',\)",
    ),
    ("llama2", {"sliding_window": 8}, "keys of a llama config, found 'sliding_window' = 8"),
    (
        "mistral",
        {"layer_types": ["full_attention"] * 3},
        "keys of a mistral config, found 'layer_t",
    ),
    ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "found 'chunked_attention'"),
    (
        "qwen2",
        {"use_sliding_window": False, "layer_types": ["sliding_attention"] * 3},
        "none in use",
    ),
    ("qwen2", {"layer_types": ["sliding_attention"]}, "sliding_layers for 3 blocks, found 1"),
    ("llama2", {"hidden_size": None}, "expected a number as 'hidden_size', found null"),
    ("llama2", {"num_key_value_heads": 3}, "a multiple of num_kv_heads, found 4 and 3"),
    ("llama2", {"head_dim": 5}, "expected an even head_dim to rotate, found 5"),
    ("llama2", {"rms_norm_eps": 0}, "expected a positive number as norm_eps, found 0"),
]


@pytest.mark.parametrize(("name", "change", "message"), REFUSED)
def test_refused_by_name(name, change, message, tmp_path):
    with pytest.raises(ValueError, match=message) as raised:
        read(tmp_path, checkpoints.config_json(name) | change)
    assert "\n" not in str(raised.value) and "config.json" in str(raised.value)


def test_options_that_are_off_and_keys_that_the_caller_vouches_for(tmp_path):
    found = checkpoints.config_json("llama2")
    plain = read(tmp_path, found)
    off = {"rope_interleaved": False, "auto_map": {}, "logit_scale": None, "use_cache": True}
    off |= {"_model_name": "tiny", "unk_token_id": 0, "id2label": {"0": "LABEL_0"}}
    assert read(tmp_path, found | off) == plain
    assert read(tmp_path, found | {"logit_scale": 1.0}, ignore=("logit_scale",)) == plain


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000], ids=["{", "[]", "deep"])
def test_a_damaged_file(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"expected (JSON|a JSON object) in .*config.json, found"):
        DecoderConfig.read(tmp_path)


def test_sizes_made_by_hand():
    sizes = {"width": 8, "depth": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4}
    sizes |= {"vocab_size": 9, "mlp_width": 16, "max_positions": 32}
    assert DecoderConfig("mistral", **sizes, sliding_window=4).sliding_layers == (True, True)
    for kind, change, message in [
        ("gpt", {}, "expected a kind among llama, mistral, qwen2, qwen3, found 'gpt'"),
        ("llama", {"depth": 0}, "expected a positive number as depth, found 0"),
        ("llama", {"width": 8.0}, "expected a positive number as width, found 8.0"),
        ("llama", {"sliding_window": 4}, "expected no sliding_window in llama"),
        ("mistral", {"sliding_window": 4, "sliding_layers": (True, False)}, "in all layers of mis"),
    ]:
        with pytest.raises(ValueError, match=message):
            DecoderConfig(kind, **sizes | change)
    with pytest.raises(ValueError, match="factor >= 1, 0 < low < high"):
        RopeScaling(8.0, 4.0, 1.0, 8192)


PUBLISHED = {  # configs as published, and the number of parameters on the cards of the models
    "llama 2, 7B": (
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
         "bos_token_id": 1, "eos_token_id": 2, "hidden_size": 4096, "initializer_range": 0.02,
         "intermediate_size": 11008, "max_position_embeddings": 4096, "num_attention_heads": 32,
         "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1,
         "rms_norm_eps": 1e-5, "rope_scaling": None, "tie_word_embeddings": False,
         "torch_dtype": "float16", "use_cache": True, "vocab_size": 32000},
        6_738_415_616,
    ),
    "llama 3.2, 1B": (
        {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "attention_bias": False,
         "attention_dropout": 0.0, "bos_token_id": 128000, "head_dim": 64, "hidden_act": "silu",
         "eos_token_id": [128001, 128008, 128009], "hidden_size": 2048, "mlp_bias": False,
         "intermediate_size": 8192, "max_position_embeddings": 131072, "num_attention_heads": 32,
         "num_hidden_layers": 16, "num_key_value_heads": 8, "pretraining_tp": 1,
         "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True,
         "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                          "original_max_position_embeddings": 8192, "rope_type": "llama3"},
         "vocab_size": 128256},
        1_235_814_400,
    ),
    "mistral 0.1, 7B": (
        {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "bos_token_id": 1,
         "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
         "intermediate_size": 14336, "max_position_embeddings": 32768, "num_attention_heads": 32,
         "num_hidden_layers": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
         "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
         "vocab_size": 32000},
        7_241_732_096,
    ),
    "qwen 2.5, 0.5B": (
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0,
         "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 896,
         "intermediate_size": 4864, "max_position_embeddings": 32768, "max_window_layers": 24,
         "num_attention_heads": 14, "num_hidden_layers": 24, "num_key_value_heads": 2,
         "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "sliding_window": 32768,
         "tie_word_embeddings": True, "use_mrope": False, "use_sliding_window": False,
         "vocab_size": 151936},
        494_032_768,
    ),
    "qwen 3, 0.6B": (
        {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "attention_bias": False,
         "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
         "head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072,
         "max_position_embeddings": 40960, "max_window_layers": 28, "num_attention_heads": 16,
         "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
         "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
         "tie_word_embeddings": True, "use_sliding_window": False, "vocab_size": 151936},
        596_049_920,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_configs_have_their_number_of_parameters(name, tmp_path):
    found, parameters = PUBLISHED[name]
    config = read(tmp_path, found)
    assert sum(math.prod(leaf.shape) for leaf in tensor_names(config).values()) == parameters
    assert (config.sliding_window is not None) == (found["model_type"] == "mistral")
    assert read(tmp_path, config.as_json()) == config
