"""Tiny decoders in GGUF files, written by the package of llama.cpp, with weights by a formula."""

from __future__ import annotations

import gguf
import numpy as np

from mu_jax.models.decoder.config import DecoderConfig

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def stored_name(name: str) -> str:
    """What llama.cpp calls a tensor of a checkpoint."""
    stem, end = name.rsplit(".", 1)
    if stem.startswith("model.layers."):
        _, _, block, inner = stem.split(".", 3)
        return f"blk.{block}.{NAMES[inner]}.{end}"
    return f"{NAMES[stem]}.{end}"


def mixed(array: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of queries or keys of Llama as llama.cpp rotates them: neighbors in place of halves."""
    found, half = np.empty_like(array), head_dim // 2
    for row in range(len(array)):
        head, inside = divmod(row, head_dim)
        part, k = divmod(inside, half)
        found[head * head_dim + 2 * k + part] = array[row]
    return found


def metadata(config: DecoderConfig) -> dict:
    """The keys that say how large a decoder is."""
    kind = config.kind
    found = {
        "block_count": config.depth,
        "context_length": config.max_positions,
        "embedding_length": config.width,
        "feed_forward_length": config.mlp_width,
        "attention.head_count": config.num_heads,
        "attention.head_count_kv": config.num_kv_heads,
        "attention.key_length": config.head_dim,
        "rope.freq_base": float(config.rope_theta),
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
    }
    return {f"{kind}.{key}": value for key, value in found.items()}


def write(path, config, tensors, *, quantization=None, change=lambda found: found, endian=None):
    """A file with the tensors of a checkpoint, those of two axes quantized.

    `change` is given and gives the tensors as they are stored, by name: arrays or `(bytes, type)`,
    and the metadata under their keys.
    """
    endian = gguf.GGUFEndian.LITTLE if endian is None else endian
    stored: dict = metadata(config)
    for name, array in tensors.items():
        if config.kind == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            array = mixed(array, config.head_dim)
        if quantization is not None and array.ndim == 2:
            stored[stored_name(name)] = gguf.quants.quantize(array, quantization), quantization
        else:
            stored[stored_name(name)] = array, None
    writer = gguf.GGUFWriter(path, config.kind, endianess=endian)
    for key, value in change(stored).items():
        _add(writer, key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer, key, value) -> None:
    if isinstance(value, tuple):
        writer.add_tensor(key, value[0], raw_dtype=value[1])
    elif key == "general.architecture":
        writer.kv_data[0][key].value = value
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)
