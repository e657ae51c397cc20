"""The sizes of a decoder in a GGUF file: what its metadata say, and which are refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from mu_jax._gguf import GgufFile

Json = dict[str, Any]

KINDS = ("llama", "qwen2", "qwen3")
ROPE_FACTORS = "rope_freqs.weight"
_SIZES = {  # required
    "width": "embedding_length",
    "depth": "block_count",
    "num_heads": "attention.head_count",
    "mlp_width": "feed_forward_length",
    "max_positions": "context_length",
}
_READ = {
    "vocab_size", "attention.head_count_kv", "attention.key_length", "attention.value_length",
    "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count",
}  # fmt: skip
# Groups of keys that say nothing of the computation; the tokenizer reads its own.
_SILENT = ("general.", "tokenizer.", "quantize.", "split.")


def fields_of(values: Json, file: GgufFile) -> Json:
    """The fields of a `DecoderConfig`, see there, from the metadata of a file."""
    kind = values.get("general.architecture")
    if kind not in KINDS:
        raise ValueError(
            f"expected a general.architecture among {', '.join(KINDS)}, found {kind!r}"
        )
    _refuse(kind, values)
    found = {key.removeprefix(f"{kind}."): value for key, value in values.items()}
    for key in _SIZES.values():
        if not isinstance(found.get(key), int):
            raise ValueError(f"expected a number as '{kind}.{key}', found {_few(found.get(key))}")
    fields = {field: found[key] for field, key in _SIZES.items()}
    head_dim = found.get("attention.key_length", fields["width"] // fields["num_heads"])
    _require_whole_heads(kind, found, head_dim)
    theta = _decimal(found.get("rope.freq_base", 10_000.0))
    return fields | {
        "kind": kind,
        "vocab_size": _vocabulary(file, found),
        "num_kv_heads": found.get("attention.head_count_kv", fields["num_heads"]),
        "head_dim": head_dim,
        "norm_eps": _decimal(found.get("attention.layer_norm_rms_epsilon", 1e-6)),
        "rope_theta": theta,
        "rope_scaling": _scaling(file, head_dim, theta),
        "tied_head": "output.weight" not in file,
        "bos_token": found.get("tokenizer.ggml.bos_token_id"),
        "eos_tokens": _ends(found),
        "pad_token": found.get("tokenizer.ggml.padding_token_id"),
    }


def _refuse(kind: str, values: Json) -> None:
    known = {f"{kind}.{key}" for key in {*_SIZES.values(), *_READ, "rope.scaling.type"}}
    for key, value in values.items():
        off = value is None or value is False or value in (0, "", [])
        if key not in known and not off and not key.startswith(_SILENT):
            raise ValueError(
                f"expected metadata of a {kind}, found {key!r} = {_few(value)}, which this decoder "
                f"does not know; if it does not change the outputs, pass ignore=({key!r},)"
            )
    scaling = values.get(f"{kind}.rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(f"expected the rope type none or llama3's factors, found {scaling!r}")


def _require_whole_heads(kind: str, found: Json, head_dim: int) -> None:
    for key in ("rope.dimension_count", "attention.value_length"):
        if found.get(key, head_dim) != head_dim:
            raise ValueError(
                f"expected '{kind}.{key}' to be the size of a head, {head_dim}, found {found[key]}"
            )


def _vocabulary(file: GgufFile, found: Json) -> int:
    if "vocab_size" in found:
        return found["vocab_size"]
    if "token_embd.weight" not in file:
        raise ValueError(f"expected a tensor token_embd.weight in {file.path}, found none")
    return file.kind("token_embd.weight")[0][0]


def _ends(found: Json) -> tuple[int, ...]:
    ids = [found.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
    return tuple(dict.fromkeys(k for k in ids if k is not None))


def _scaling(file: GgufFile, head_dim: int, theta: float) -> Json | None:
    """Llama 3's stretching, of which a file keeps what each frequency was divided by.

    The usual constants, low 1, high 4 and 8,192 positions, must give the same divisors.
    """
    if ROPE_FACTORS not in file:
        return None
    found = np.asarray(file.rows(ROPE_FACTORS, slice(None)), np.float64)
    factor, positions, low, high = float(found.max()), 8192, 1.0, 4.0
    frequency = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    share = np.clip((positions * frequency / (2 * math.pi) - low) / (high - low), 0, 1)
    wanted = 1 / ((1 - share) / factor + share)
    if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=1e-3):
        raise ValueError(
            f"expected {ROPE_FACTORS} to be the factors of Llama 3 for 8192 positions, found others"
        )
    return {
        "factor": factor,
        "low_frequency_factor": low,
        "high_frequency_factor": high,
        "original_max_positions": positions,
    }


def _decimal(value: float) -> float:
    """The shortest number that is the same in float32, in which a file keeps it."""
    return float(str(np.float32(value)))


def _few(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
