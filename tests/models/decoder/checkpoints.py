"""Five tiny architectures, weights by a formula of their names, and checkpoints of them on disk."""

from __future__ import annotations

import functools
import json
import zlib
from pathlib import Path

import numpy as np

from mu_jax.models.decoder.config import DecoderConfig
from mu_jax.models.decoder.layout import tensor_names

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
}
STRETCHED = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
KINDS = {
    "llama2": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_key_value_heads": 4,
        "rope_theta": 10000.0,
    },
    "llama3": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "rope_theta": 500.0,
        "rope_scaling": STRETCHED,
        "tie_word_embeddings": True,
        "eos_token_id": [7, 9],
    },
    "mistral": {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "head_dim": 8,
        "sliding_window": 5,
        "rope_theta": 1000000.0,
    },
    "qwen2": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "tie_word_embeddings": True,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
        "rope_theta": 1000000.0,
    },
    "qwen3": {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "head_dim": 10,
        "use_sliding_window": False,
        "rope_theta": 1000.0,
    },
}
NAMES = sorted(KINDS)


def config_json(name: str, **changes) -> dict:
    """The content of the `config.json` of an architecture; None takes a key away."""
    found = {**SIZES, **KINDS[name], **changes}
    return {key: value for key, value in found.items() if value is not None}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor of that name, from a seed that is its checksum: offsets and norms too."""
    values = np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape)
    if "norm" in name:
        return (1 + 0.3 * values).astype(np.float32)
    return (values / np.sqrt(shape[-1])).astype(np.float32)


def tensors(config: DecoderConfig) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint."""
    found = {name: tensor(name, leaf.stored_shape) for name, leaf in tensor_names(config).items()}
    found["model.embed_tokens.weight"] *= np.sqrt(config.width).astype(np.float32)
    return found


def write(folder: Path, name: str, *, files: int = 1, change=lambda found: found, **changes):
    """A checkpoint in one safetensors file, or in several with an index."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config_json(name)))
    found = change(tensors(DecoderConfig.read(folder)))
    (folder / "config.json").write_text(json.dumps(config_json(name, **changes)))
    if files == 1:
        save_file(found, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    parts = [f"model-{k + 1:05d}-of-{files:05d}.safetensors" for k in range(files)]
    where = {tensor: parts[k % files] for k, tensor in enumerate(sorted(found))}
    for part in parts:
        own = {n: np.ascontiguousarray(found[n]) for n in where if where[n] == part}
        save_file(own, folder / part, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@functools.cache
def rows(n: int = 2, length: int = 24) -> np.ndarray:
    """Ids i32[n, length]."""
    return np.random.default_rng(5).integers(0, SIZES["vocab_size"], (n, length)).astype(np.int32)
