"""Tokenizers in GGUF files cut texts as their models do, and others are refused."""

from __future__ import annotations

import pytest

from mu_jax._gguf import open_gguf
from mu_jax._gguf_tokenizer import tokenizer_files
from mu_jax.datasets import language

gguf = pytest.importorskip("gguf", reason="needs the extra gguf")
tokenizers = pytest.importorskip("tokenizers", reason="needs the extra lm")

MERGES = ["Ġ 1", "1 2", "12 3", "t h", "th e", "Ġ the", "Ã ©"]
WHOLE = ["Ġ1", "12", "123", "th", "the", "Ġthe", "Ã©", "xyz"]
SPECIAL = ["<|begin|>", "<|end|>"]
TOKENS = [*SPECIAL, *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), *WHOLE, "<user>"]
VALUES = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": [3, 3, *[1] * (len(TOKENS) - 3), 4],
    "tokenizer.ggml.merges": MERGES,
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.chat_template": "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}",
}


def write(path, **changes):
    """A file without tensors; a value of None is left out."""
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (VALUES | {f"tokenizer.ggml.{k}": v for k, v in changes.items()}).items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif value is not None:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def pieces(tokenizer, text):
    return [tokenizer.inner.id_to_token(int(k)) for k in tokenizer.encode(text).tokens]


CUTS = {
    "smollm": ["the", "Ġthe", "Ġ", "1", "2", "3", "4", "x", "y", "z"],
    "gpt-2": ["the", "Ġthe", "Ġ1", "2", "3", "4", "x", "y", "z"],
    "llama-bpe": ["the", "Ġthe", "Ġ", "123", "4", "xyz"],
    "qwen2": ["the", "Ġthe", "Ġ", "1", "2", "3", "4", "x", "y", "z"],
}


@pytest.mark.parametrize("pre", CUTS)
def test_texts_are_cut_as_the_model_was_trained_with(pre, tmp_path):
    tokenizer = language.read_tokenizer(write(tmp_path / "a.gguf", pre=pre))
    text = "the the 1234xyz"
    assert pieces(tokenizer, text) == CUTS[pre]
    encoded = tokenizer.encode(text)
    assert "".join(text[a:b] for a, b in zip(encoded.start, encoded.end)) == text
    assert tokenizer.decode(encoded.tokens) == text
    assert pieces(tokenizer, "e\u0301") == (["Ã©"] if pre == "qwen2" else ["e", "Ì", "ģ"])
    assert (tokenizer.size, tokenizer.end, tokenizer.pad) == (len(TOKENS), 1, 1)
    assert tokenizer.begin == (0 if pre == "llama-bpe" else None)
    assert pieces(tokenizer, "the<|end|><user>") == ["the", "<|end|>", "<user>"]
    assert tokenizer.decode(tokenizer.encode("the<|end|><user>").tokens) == "the<user>"


@pytest.mark.parametrize("begins", [False, True])
def test_what_is_written_beside_a_checkpoint_is_read_the_same(begins, tmp_path):
    path = write(tmp_path / "a.gguf", add_bos_token=begins, padding_token_id=0)
    tokenizer = language.read_tokenizer(path)
    for name, text in tokenizer_files(open_gguf(path)).items():
        (tmp_path / name).write_text(text, "utf-8")
    again = language.read_tokenizer(tmp_path)
    assert (again.begin, again.end, again.pad) == (tokenizer.begin, tokenizer.end, tokenizer.pad)
    assert tokenizer.begin == (0 if begins else None)
    assert pieces(again, "the 12<|end|>") == pieces(tokenizer, "the 12<|end|>")
    assert again.inner.encode("the").ids[0] == (0 if begins else TOKENS.index("the"))
    template = language.read_chat_template(path)
    assert template == language.read_chat_template(tmp_path)
    script = template.script([{"role": "user", "content": "the"}])
    assert script.text == "the<|end|>"


REFUSED = {
    "sentences": (
        {"model": "llama"},
        "byte-level BPE as tokenizer.ggml.model, gpt2, found 'llama'",
    ),
    "cut": ({"pre": "tekken"}, "tokenizer.ggml.pre among gpt-2, .*, found 'tekken'"),
    "no tokens": ({"tokens": None}, "a list as tokenizer.ggml.tokens, found none"),
    "types": ({"token_type": [1, 1]}, r"token_type for each of \d+ tokens, found 2"),
    "merges": ({"merges": ["q q"]}, "expected merges of tokens, found others"),
    "half a merge": ({"merges": ["q"]}, "expected merges of tokens, found others"),
    "end": ({"eos_token_id": 9999}, "a tokenizer.ggml.eos_token_id below .* found 9999"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_tokenizers_of_another_kind_are_refused(name, tmp_path):
    changes, message = REFUSED[name]
    path = write(tmp_path / "a.gguf", **changes)
    with pytest.raises(ValueError, match=rf"{message}.*a\.gguf"):
        language.read_tokenizer(path)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a tokenizer of at most 9 tokens"):
        language.read_tokenizer(write(tmp_path / "a.gguf"), vocab_size=9)


def test_a_file_without_a_template_is_refused(tmp_path, monkeypatch):
    monkeypatch.delitem(VALUES, "tokenizer.chat_template")
    with pytest.raises(FileNotFoundError, match=r"expected a chat template in .*a.gguf, found"):
        language.read_chat_template(write(tmp_path / "a.gguf"))
