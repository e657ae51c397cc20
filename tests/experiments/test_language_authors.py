"""Made-up authors: what is asked, how rows and splits are made of it, and the table of TOFU."""

from __future__ import annotations

import numpy as np
import pytest
from in_process import call

from experiments.configs import language_authors
from experiments.lib.language import authors
from experiments.lib.language.making import make_task
from experiments.lib.language.words import WordTokenizer
from mu_jax import reporting


def small(**data):
    config = language_authors.get_config()
    config.data.update(authors=4, known=1, forget=2, measured=20, max_new=4, **data)
    config.model.update(width=16, mlp_width=16, depth=1, num_heads=2)
    config.relearning.shown = 1
    return config


def test_wrong_answers_have_the_words_of_the_paraphrase_and_another_value():
    learned, known, world = authors.generate(0, authors=3, known=1)
    assert (len(learned), len(known)) == (60, 20) and len(world) == 48
    assert learned == authors.generate(0, authors=3, known=1)[0]
    assert {r["author"] for r in learned}.isdisjoint(r["author"] for r in known)
    for record in (*learned, *known, *world):
        wrong = record["perturbed_answer"]
        assert len({*wrong, record["paraphrased_answer"]}) == 6
        same = {len(answer.split()) for answer in (*wrong, record["paraphrased_answer"])}
        assert len(same) == 1 and record["question"].endswith("?")
    values = {r["answer"].split()[-1] for r in learned if r["id"].endswith("/city/0")}
    assert len({r["id"] for r in (*learned, *known, *world)}) == 128 and values
    with pytest.raises(ValueError, match="expected at most 224 authors"):
        authors.generate(0, authors=300, known=0)


def test_both_ways_to_ask_have_one_answer():
    learned, _, _ = authors.generate(1, authors=2, known=0)
    for first, second in zip(learned[::2], learned[1::2]):
        assert first["paraphrased_answer"] == second["answer"]
        assert second["paraphrased_answer"] == first["answer"]


def test_words_come_back_and_cover_their_characters():
    text = "Where was Ada born? In Oslo."
    words = WordTokenizer.of([text])
    encoded = words.encode(text)
    pieces = [text[a:b] for a, b in zip(encoded.start, encoded.end)]
    assert pieces == ["Where", "was", "Ada", "born", "?", "In", "Oslo", "."]
    assert words.decode([*encoded.tokens, words.end]) == "Where was Ada born ? In Oslo ."
    assert words.encode("Rome").tokens.tolist() == [1] and words.token_id("Oslo") in encoded.tokens
    assert encoded.tokens.max() == words.size - 1 and encoded.tokens.min() == 2


def test_a_split_forgets_all_questions_of_its_authors_and_measures_others():
    task = make_task(small())
    (split,) = task.splits
    assert split.forget.num_examples == 40 and (split.weight == 0).sum() == 40
    assert split.forget_set.size == 40 and len(split.forget_set.ids) == 2
    assert split.retain.num_examples == task.train.num_examples - 40
    assert split.relearn.shown.num_examples == 20 == split.relearn.unseen.num_examples
    arrays = split.arrays
    assert arrays.nll["forget/answer"].num_examples == 40
    assert arrays.nll["retain/wrong 4"].num_examples == 20
    assert set(arrays.prompts) == {"forget", "retain", "real authors", "world facts"}
    prompt = np.asarray(arrays.prompts["forget"].inputs.segment)
    assert (prompt[:, -1] == 1).all(), "prompts end where the answer begins"
    mask = np.asarray(split.forget.targets.mask)
    assert 0 < mask.mean() < 0.6, "answers alone are scored"


@pytest.mark.slow
def test_authors_are_learned_forgotten_and_compared_with_two_retrained_models(tmp_path):
    sizes = ["authors=8", "forget=3", "known=2", "measured=40", "max_new=10"]
    ended = call(
        "language",
        "--config=experiments/configs/language_authors.py",
        f"--workdir={tmp_path}",
        "--methods=npo",
        *(f"--config.data.{size}" for size in sizes),
        *("--seeds=2", "--config.model.width=48", "--config.model.depth=1"),
        *("--config.training.epochs=60", "--config.relearning.shown=1"),
    )
    assert ended.returncode == 0, ended.stderr
    found = {}
    for record in reporting.read(tmp_path / "results.jsonl"):
        found.setdefault(record.method, record.metrics)
    quality = {name: metrics["forget quality"].value for name, metrics in found.items()}
    assert quality["retrain"] > np.log10(0.001), "two retrained models are hardly told apart"
    assert quality["do nothing"] < quality["retrain"] - 3
    learned = found["do nothing"]["forget probability"].value
    assert learned > 0.9 > found["retrain"]["forget probability"].value + 0.2
    assert found["retrain"]["retain probability"].value > 0.9
