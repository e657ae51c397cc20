"""A tokenizer of words in a directory, as one is downloaded."""

import json

import pytest

SPECIALS = {"<s>": 0, "</s>": 1, "<unk>": 2, "<|im_start|>": 3, "<|im_end|>": 4}


@pytest.fixture
def folder(tmp_path):
    """Byte pairs with some merges, `<s>` before every text, and a config of the model."""
    tokenizers = pytest.importorskip("tokenizers")
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = SPECIALS | {letter: k for k, letter in enumerate(letters, start=len(SPECIALS))}
    merges = [("Ġ", "P"), ("ĠP", "a"), ("r", "i"), ("ri", "s"), ("ĠPa", "ris"), ("o", "n")]
    vocab |= {a + b: k for k, (a, b) in enumerate(merges, start=len(vocab))}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=merges))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIALS))
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    inner.enable_truncation(4)
    inner.save(str(tmp_path / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(named))
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 300, "eos_token_id": [4, 1]}))
    return tmp_path
