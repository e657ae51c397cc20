"""Tokenizers give ids, the characters behind them, and refuse those of other models."""

import json

import numpy as np
import pytest

from mu_jax.datasets import language


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("text", ["", "plain", "aß€😀\n"])
def test_bytes_come_back_and_cover_their_character(text):
    tokenizer = language.ByteTokenizer()
    encoded = tokenizer.encode(text)
    assert tokenizer.decode(encoded.tokens) == text
    assert bytes(encoded.tokens.tolist()) == text.encode()
    for character, piece in zip(text, map(str.encode, text)):
        first = text.encode().index(piece)
        assert text[encoded.start[first] : encoded.end[first]] == character
    assert encoded.tokens.dtype == encoded.start.dtype == np.int32


def test_a_tokenizer_of_a_directory_encodes_whole_texts_with_offsets(folder):
    tokenizer = language.read_tokenizer(folder)
    text = "Answer: Paris on"
    encoded = tokenizer.encode(text)
    pieces = [text[a:b] for a, b in zip(encoded.start, encoded.end)]
    assert pieces[-4:] == [":", " Paris", " ", "on"]
    assert len(encoded.tokens) > 4, "the truncation that the file asks for is off"
    assert tokenizer.decode(encoded.tokens) == text
    assert (tokenizer.begin, tokenizer.end, tokenizer.pad) == (0, 1, 1)
    assert tokenizer.size == 5 + 256 + 6
    assert tokenizer.token_id("<|im_end|>") == 4 and tokenizer.token_id("<|eot_id|>") is None
    assert tokenizer.encode("<|im_end|>\n").tokens[0] == 4


def test_the_tokenizer_config_rules_over_the_model_config(folder):
    change(folder / "config.json", bos_token_id=3, pad_token_id=2)
    change(folder / "tokenizer_config.json", bos_token=None)
    assert language.read_tokenizer(folder).begin is None
    assert language.read_tokenizer(folder).pad == 2, "which tokenizer_config.json does not name"
    (folder / "tokenizer_config.json").unlink()
    found = language.read_tokenizer(folder)
    assert (found.begin, found.end) == (None, 4), "the tokenizer puts another token first"
    change(folder / "config.json", bos_token_id=0)
    assert language.read_tokenizer(folder).begin == 0


def test_add_bos_token_decides_whether_texts_begin(folder):
    change(folder / "tokenizer_config.json", add_bos_token=False)
    assert language.read_tokenizer(folder).begin is None
    change(folder / "tokenizer_config.json", bos_token="<|im_start|>", add_bos_token=True)
    assert language.read_tokenizer(folder).begin == 3


def test_tokenizers_of_other_models_are_refused(folder):
    with pytest.raises(ValueError, match=r"at most 266 tokens.*found 267"):
        language.read_tokenizer(folder, vocab_size=266)
    change(folder / "config.json", vocab_size=100)
    with pytest.raises(ValueError, match=r"at most 100 tokens.*found 267"):
        language.read_tokenizer(folder)
    assert language.read_tokenizer(folder, vocab_size=267).size == 267
    change(folder / "tokenizer_config.json", eos_token="<|eot_id|>")
    with pytest.raises(ValueError, match=r"eos_token '<\|eot_id\|>' of tokenizer_config.json"):
        language.read_tokenizer(folder, vocab_size=300)
    (folder / "tokenizer_config.json").unlink()
    change(folder / "config.json", vocab_size=300, eos_token_id=299)
    with pytest.raises(ValueError, match=r"eos_token 299 of config.json"):
        language.read_tokenizer(folder)


def test_files_that_are_missing_or_damaged_are_refused(folder, tmp_path_factory):
    with pytest.raises(FileNotFoundError, match="no such file: put the model's"):
        language.read_tokenizer(tmp_path_factory.mktemp("empty"))
    for text in ("{", "[" * 100_000):
        (folder / "tokenizer_config.json").write_text(text)
        with pytest.raises(ValueError, match=r"JSON in .*tokenizer_config.json, found a damaged"):
            language.read_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"another or a damaged file"):
        language.read_tokenizer(folder)
