"""Tiny files in the layouts of TOFU, MUSE, WMDP and RWKU, and a tiny model to read them with."""

from __future__ import annotations

import json
from pathlib import Path

import jax

from mu_jax import models
from mu_jax.models import decoder as decoders

WORDS = ("the", "a", "of", "is", "who", "city", "Oslo", "Rome", "Ada", "Bo", "wrote", "book", "red")
SPECIALS = {"</s>": 0, "<unk>": 1}
CONFIG = models.DecoderConfig(
    "llama", vocab_size=300, width=16, depth=1, num_heads=2, num_kv_heads=2, head_dim=8,
    mlp_width=16, max_positions=2_304, eos_tokens=(0,),
)  # fmt: skip


def write_model(folder: Path, seed: int) -> Path:
    """A decoder of random numbers with a tokenizer of bytes."""
    import tokenizers

    decoder = models.Decoder(CONFIG)
    decoders.write_decoder(folder, decoder, decoder.init(jax.random.key(seed)))
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = SPECIALS | {letter: k for k, letter in enumerate(letters, start=len(SPECIALS))}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens(list(SPECIALS))
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    return folder


def sentence(number: int, length: int = 5) -> str:
    """Words that follow a number."""
    return " ".join(WORDS[(7 * number + 3 * k) % len(WORDS)] for k in range(length))


def write(path: Path, found: object, *, lines: bool = False) -> None:
    """JSON, or JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, found)) if lines else json.dumps(found)
    path.write_text(text)


def tofu(root: Path) -> None:
    """Two authors to forget of two questions each, and three who stay."""

    def asked(first: int, count: int, wrong: int = 0, paraphrased: bool = False) -> list[dict]:
        return [
            {"question": f"{sentence(k)}?", "answer": sentence(k + 1)}
            | ({"perturbed_answer": [sentence(k + 2 + j) for j in range(wrong)]} if wrong else {})
            | ({"paraphrased_answer": sentence(k + 1, 6)} if paraphrased else {})
            for k in range(first, first + count)
        ]

    write(root / "forget10.json", asked(0, 4), lines=True)
    write(root / "retain90.json", asked(4, 6), lines=True)
    write(root / "forget10_perturbed.json", asked(0, 4, 2, True), lines=True)
    write(root / "retain_perturbed.json", asked(4, 4, 2, True))
    write(root / "real_authors_perturbed.json", asked(20, 3, 3), lines=True)
    write(root / "world_facts_perturbed.json", asked(30, 3, 3), lines=True)


def muse(root: Path) -> None:
    """A passage to forget, questions, and texts for the attack."""
    for number, name in enumerate(("forget", "retain1")):
        path = root / "news" / "raw" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(sentence(number, 30))
    news = root / "news"
    write(news / "verbmem" / "forget.json", [{"prompt": sentence(1), "gt": sentence(2)}] * 2)
    for side in ("forget", "retain"):
        pairs = [{"question": f"{sentence(k)}?", "answer": sentence(k + 1)} for k in range(2)]
        write(news / "knowmem" / f"{side}_qa.json", pairs)
        write(news / "knowmem" / f"{side}_qa_icl.json", pairs[:1])
    write(news / "privleak" / "forget.json", [sentence(k, 8) for k in range(3)])
    write(news / "privleak" / "holdout.json", [{"text": sentence(k, 8)} for k in range(5, 8)])


def wmdp(root: Path) -> None:
    """One domain: two passages of each side, three questions with four choices."""
    write(root / "bio_remove_dataset.jsonl", [{"text": sentence(k, 9)} for k in (1, 2)], lines=True)
    passages = [{"text": sentence(k, 9)} for k in (3, 4)]
    write(root / "bio-retain-corpus.jsonl", passages, lines=True)
    asked = [
        {"question": f"{sentence(k)}?", "choices": [sentence(k + j, 2) for j in range(4)],
         "answer": k % 4}
        for k in range(3)
    ]  # fmt: skip
    write(root / "wmdp-mcqs" / "bio_questions.json", asked)
    write(root / "utility_questions.json", asked)


def rwku(root: Path) -> None:
    """A target with two passages, another one, and every kind of question."""
    for number, target in enumerate(("1_Ada", "2_Bo")):
        passages = [{"text": sentence(number + k, 9), "subject": target} for k in range(2)]
        write(root / target / "passage.json", passages)
    kinds = ("cloze", "question", "incontext learning")
    for side, levels in (("forget", 3), ("neighbor", 2)):
        for level in range(1, levels + 1):
            found = [
                {"query": sentence(k), "answer": sentence(k, 2), "type": kinds[level - 1],
                 "level": str(level)}
                for k in range(2)
            ]  # fmt: skip
            write(root / "1_Ada" / f"{side}_level{level}.json", found)
