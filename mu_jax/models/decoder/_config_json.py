"""The keys of a Hugging Face `config.json`: what they say, and which are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mu_jax import _json

Json = dict[str, Any]

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_SIZES = {  # required
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "max_positions": "max_position_embeddings",
}
# Options that this decoder computes in one way only.
_FIXED: dict[str, tuple] = {
    "hidden_act": ("silu", "swish", None),
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "attention_dropout": (0, None),
    "partial_rotary_factor": (1, None),
    "quantization_config": (None,),
    "is_encoder_decoder": (False, None),
    "chunk_size_feed_forward": (0, None),
}
# Keys that do not change the outputs of a decoder; neither do those that start with `_`.
# fmt: off
_SILENT = {
    "architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "use_cache",
    "return_dict", "id2label", "label2id", "problem_type", "pretraining_tp", "is_llama_config",
    "transformers.js_config", "unsloth_version", "unsloth_fixed", "max_length", "min_length",
    "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "tokenizer_class",
    "do_sample", "temperature", "top_k", "top_p", "num_beams", "repetition_penalty",
    "max_new_tokens",
}
_READ = {
    "num_key_value_heads", "head_dim", "rms_norm_eps", "rope_theta", "rope_scaling",
    "rope_parameters", "tie_word_embeddings", "initializer_range", "bos_token_id", "eos_token_id",
    "pad_token_id",
}
# fmt: on
_WINDOW = {
    "llama": (),
    "mistral": ("sliding_window",),
    "qwen2": ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types"),
    "qwen3": ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types"),
}
_LLAMA3 = {
    "factor": "factor",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "original_max_positions": "original_max_position_embeddings",
}


def load(path: Path) -> Json:
    """The content of a `config.json`."""
    if not path.is_file():
        beside = (path.parent / "adapter_config.json").is_file()
        hint = "the adapter of another model; merge it into its base first" if beside else "none"
        raise FileNotFoundError(
            f"expected the config.json of a model in {path.parent}, found {hint}"
            + ("" if beside else "; give the directory of a checkpoint")
        )
    try:
        found = _json.parse(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, found {error}; copy the file again") from error
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object in {path}, found {type(found).__name__}")
    return found


def fields_of(found: Json) -> Json:
    """The fields of a `DecoderConfig`, see there."""
    kind = _kind(found)
    _refuse(kind, found)
    for key in _SIZES.values():
        if not isinstance(found.get(key), int):
            raise ValueError(f"expected a number as {key!r}, found {_few(found.get(key))}")
    fields = {field: found[key] for field, key in _SIZES.items()}
    by_kind = {"llama": fields["num_heads"], "mistral": 8}.get(kind, 32)
    heads = found.get("num_key_value_heads", by_kind)
    split = 128 if kind == "qwen3" else None
    head_dim = found.get("head_dim", split)
    eos = found.get("eos_token_id")
    return fields | {
        "kind": kind,
        "num_kv_heads": fields["num_heads"] if heads is None else heads,
        "head_dim": fields["width"] // fields["num_heads"] if head_dim is None else head_dim,
        "norm_eps": found.get("rms_norm_eps", 1e-6),
        "tied_head": bool(found.get("tie_word_embeddings", False)),
        "initializer_range": found.get("initializer_range", 0.02),
        "bos_token": found.get("bos_token_id"),
        "eos_tokens": tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
        "pad_token": found.get("pad_token_id"),
        **_rope(found),
        **_window(kind, found),
    }


def _kind(found: Json) -> str:
    kind = found.get("model_type")
    known = ", ".join(ARCHITECTURES)
    if kind not in ARCHITECTURES:
        raise ValueError(f"expected a model_type among {known}, found {kind!r}")
    for name in found.get("architectures") or [ARCHITECTURES[kind]]:
        if name != ARCHITECTURES[kind]:
            raise ValueError(
                f"expected the architecture {ARCHITECTURES[kind]} of model_type {kind!r}, found "
                f"{name!r}"
            )
    return kind


def _refuse(kind: str, found: Json) -> None:
    for key, allowed in _FIXED.items():
        if found.get(key) not in allowed:
            raise ValueError(
                f"expected {key} to be {json.dumps(allowed[0])}, found {_few(found[key])}; this "
                "decoder computes nothing else"
            )
    known = {*_SIZES.values(), *_FIXED, *_SILENT, *_READ, *_WINDOW[kind]}
    for key, value in found.items():
        off = value is None or value is False or value in ("", [], {})
        if key not in known and not off and not key.startswith("_"):
            raise ValueError(
                f"expected keys of a {kind} config, found {key!r} = {_few(value)}, which this "
                f"decoder does not know; if it does not change the outputs, pass ignore=({key!r},)"
            )


def _rope(found: Json) -> Json:
    """Theta and scaling, in the old spelling (`rope_scaling`) or the new (`rope_parameters`)."""
    scaling = dict(found.get("rope_parameters") or found.get("rope_scaling") or {})
    theta = scaling.pop("rope_theta", found.get("rope_theta", 10_000.0))
    old = scaling.pop("type", "default")
    kind = scaling.pop("rope_type", old)
    if kind not in ("default", "llama3"):
        raise ValueError(f"expected the rope type default or llama3, found {kind!r}")
    if scaling.pop("partial_rotary_factor", 1) != 1:
        raise ValueError("expected all of a head to be rotated, found a partial_rotary_factor")
    keys = _LLAMA3 if kind == "llama3" else {}
    for key in scaling:
        if key not in keys.values():
            raise ValueError(f"expected no key {key!r} of the rope type {kind}, found one")
    for key in keys.values():
        if not isinstance(scaling.get(key), int | float):
            raise ValueError(
                f"expected a number as {key!r} of the rope type {kind}, found {scaling.get(key)!r}"
            )
    fields = {field: scaling[key] for field, key in keys.items()}
    return {"rope_theta": theta, "rope_scaling": fields or None}


def _window(kind: str, found: Json) -> Json:
    depth = found["num_hidden_layers"]
    none = {"sliding_window": None, "sliding_layers": ()}
    if kind == "llama":
        return none
    if kind == "mistral":
        return none | {"sliding_window": found.get("sliding_window", 4096)}
    window = found.get("sliding_window", 4096) if found.get("use_sliding_window") else None
    first = found.get("max_window_layers", 28)
    usual = ["full_attention" if k < first else "sliding_attention" for k in range(depth)]
    words = found.get("layer_types") or (usual if window else ["full_attention"] * depth)
    for word in words:
        if word not in ("full_attention", "sliding_attention"):
            raise ValueError(
                f"expected layer_types of full_attention or sliding_attention, found {word!r}"
            )
    sliding = tuple(word == "sliding_attention" for word in words)
    if any(sliding) and window is None:
        raise ValueError(
            "expected a sliding_window for the layers of sliding_attention, found none in use"
        )
    return {"sliding_window": window, "sliding_layers": sliding} if any(sliding) else none


def write(fields: Json) -> Json:
    """The content of a `config.json` for the fields of a `DecoderConfig`."""
    kind, eos = fields["kind"], fields["eos_tokens"]
    scaling = fields["rope_scaling"]
    if scaling:
        scaling = {"rope_type": "llama3"} | {key: scaling[f] for f, key in _LLAMA3.items()}
    found = {key: fields[field] for field, key in _SIZES.items()} | {
        "architectures": [ARCHITECTURES[kind]],
        "model_type": kind,
        "hidden_act": "silu",
        "num_key_value_heads": fields["num_kv_heads"],
        "head_dim": fields["head_dim"],
        "rms_norm_eps": fields["norm_eps"],
        "rope_theta": fields["rope_theta"],
        "rope_scaling": scaling,
        "tie_word_embeddings": fields["tied_head"],
        "initializer_range": fields["initializer_range"],
        "bos_token_id": fields["bos_token"],
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos) or None,
        "pad_token_id": fields["pad_token"],
    }
    return found | _written_window(kind, fields["sliding_window"], fields["sliding_layers"])


def _written_window(kind: str, window: int | None, sliding: tuple[bool, ...]) -> Json:
    if kind == "llama":
        return {}
    if kind == "mistral":
        return {"sliding_window": window}
    first = sliding.index(True) if any(sliding) else len(sliding)
    words = ["sliding_attention" if each else "full_attention" for each in sliding]
    found = {"use_sliding_window": window is not None, "sliding_window": window}
    return found | ({"max_window_layers": first, "layer_types": words} if words else {})


def _few(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
