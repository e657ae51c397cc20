"""The tokenizer in a GGUF file, as the files that Hugging Face keeps beside a checkpoint."""

from __future__ import annotations

import json
from typing import Any

from mu_jax._extras import extra
from mu_jax._gguf import GgufFile

Json = dict[str, Any]

_CONTROL, _USER_DEFINED = 3, 4  # types of tokens
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
_OTHERS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# How a text is cut before its pieces are merged, by the name in `tokenizer.ggml.pre`.
_CUTS = {
    "llama-bpe": _CONTRACTIONS + _WORDS + r"\p{N}{1,3}" + _OTHERS,
    "qwen2": _CONTRACTIONS + _WORDS + r"\p{N}" + _OTHERS,
}
_PRE = ("gpt-2", "llama-bpe", "qwen2", "smollm")


def tokenizer_files(file: GgufFile) -> dict[str, str]:
    """`tokenizer.json` and `tokenizer_config.json`, the chat template in it, of a GGUF file.

    Raises:
      ValueError: a tokenizer that is not a byte-level BPE, or cuts texts in an unknown way; a list
        of tokens, types or merges that is missing or of another length.
      ModuleNotFoundError: without the extra `gguf`.
    """
    try:
        config = _config(file.values)
        return {
            "tokenizer.json": _inner(file.values, config).to_str(),
            "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        }
    except ValueError as error:
        raise ValueError(f"{error} (in {file.path})") from error


def _config(values: Json) -> Json:
    tokens = _listed(values, "tokens")
    found: Json = {"tokenizer_class": "PreTrainedTokenizerFast"}
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    for name, key in names.items():
        token = values.get(f"tokenizer.ggml.{key}_token_id")
        if token is not None and not 0 <= token < len(tokens):
            raise ValueError(
                f"expected a tokenizer.ggml.{key}_token_id below {len(tokens)}, found {token}"
            )
        found |= {} if token is None else {f"{name}_token": tokens[token]}
    usual = _pre(values) == "llama-bpe"
    begins = values.get("tokenizer.ggml.add_bos_token", usual) and "bos_token" in found
    template = values.get("tokenizer.chat_template")
    found |= {"add_bos_token": bool(begins), "clean_up_tokenization_spaces": False}
    return found if template is None else found | {"chat_template": template}


def _inner(values: Json, config: Json) -> Any:
    with extra("gguf"):
        import tokenizers
        from tokenizers import decoders, normalizers, processors

    pre, tokens = _pre(values), _listed(values, "tokens")
    merges = [tuple(merge.split(" ")) for merge in _listed(values, "merges")]
    types = _listed(values, "token_type")
    if len(types) != len(tokens):
        raise ValueError(
            f"expected a tokenizer.ggml.token_type for each of {len(tokens)} tokens, found "
            f"{len(types)}"
        )
    ids = {token: number for number, token in enumerate(tokens)}
    try:
        merged = tokenizers.models.BPE(ids, merges, ignore_merges=pre == "llama-bpe")
    except Exception as error:  # the package raises nothing narrower
        found = " ".join(str(error).split())[:120]
        raise ValueError(f"expected merges of tokens, found others ({found})") from error
    inner = tokenizers.Tokenizer(merged)
    inner.pre_tokenizer = _cut(pre)
    inner.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        inner.normalizer = normalizers.NFC()
    for kind, special in ((_CONTROL, True), (_USER_DEFINED, False)):
        whole = [token for token, its in zip(tokens, types) if its == kind]
        added = [tokenizers.AddedToken(x, special=special, normalized=False) for x in whole]
        (inner.add_special_tokens if special else inner.add_tokens)(added)
    if config["add_bos_token"]:
        begin = config["bos_token"]
        inner.post_processor = processors.TemplateProcessing(
            f"{begin} $A", special_tokens=[(begin, ids[begin])]
        )
    return inner


def _cut(pre: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    if pre == "gpt-2":
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pre == "smollm":  # single digits first
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    split = pre_tokenizers.Split(Regex(_CUTS[pre]), behavior="isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, bytes_of])


def _pre(values: Json) -> str:
    kind, pre = (values.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if kind != "gpt2":
        raise ValueError(
            f"expected a byte-level BPE as tokenizer.ggml.model, gpt2, found {kind!r}; use the "
            "tokenizer.json of the model"
        )
    if pre not in _PRE:
        raise ValueError(
            f"expected a tokenizer.ggml.pre among {', '.join(_PRE)}, found {pre!r}; use the "
            "tokenizer.json of the model"
        )
    return pre


def _listed(values: Json, key: str) -> list:
    found = values.get(f"tokenizer.ggml.{key}")
    if not isinstance(found, list) or not found:
        raise ValueError(f"expected a list as tokenizer.ggml.{key}, found none")
    return found
