"""Local copies of STS-B, the similarity of two sentences."""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mu_jax._extras import extra
from mu_jax.datasets.examples import Source
from mu_jax.datasets.local_copy import (
    LocalCopy,
    check_label,
    find_folder,
    finite,
    make_copy,
    parse,
    read_table,
    warn_of_counts,
)

_SIZES = {"train": 5_249, "dev": 1_000, "test": 1_000}
_COLUMNS = ("index", "genre", "sentence1", "sentence2", "score")
_LENGTH = 10  # words of a sentence
_PADDING, _UNKNOWN = 0, 1  # codes beside those of the words


def sts_b(root: Path, label: str = "label") -> LocalCopy:
    """STS-B as word codes int32 [2, 10], with similarities from 0 to 5 as targets.

    The balanced re-split into `train`, `dev` and `test`; `forget` (a score below 2) and `retain`
    part `train`. The id is the column `index` of the split's file; attributes are `genre`,
    `sentence1` and `sentence2`; every split is in the order of ids.

    A sentence is lower-cased, loses addresses, everything but the letters a to z and English stop
    words, and is cut to its first ten words; padding, code 0, stands before them. Code 1 is a word
    that the train split lacks; the words of the train split follow in alphabetical order.

    Differences from the reference program: (1) quotation marks have no meaning in the files, as in
    the original, where they lose rows there; (2) the stop words come from scikit-learn.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: files with other columns, scores that are no numbers, an index used twice.

    Reference:
        D. Cer, M. Diab, E. Agirre, I. Lopez-Gazpio, L. Specia, SemEval-2017 Task 1: Semantic
        Textual Similarity, 2017; split of Y. Yang, K. Zha, Y. Chen, H. Wang, D. Katabi, Delving
        into Deep Imbalanced Regression, ICML 2021.
    """
    check_label(label, ("score",), "sts_b")
    views, pairs = _read(find_folder(root, ("sts_b", "STS-B"), _files()))
    words = sorted({word for pair in pairs["train"] for sentence in pair for word in sentence})
    codes = {word: code for code, word in enumerate(words, start=_UNKNOWN + 1)}
    for split, view in views.items():
        records = _Codes(_encode(pairs[split], codes))
        views[split] = dataclasses.replace(view, records=records, dtype=np.int32)
    num_codes = len(words) + _UNKNOWN + 1
    return _finish("sts_b", views, input_shape=(2, _LENGTH), num_codes=num_codes)


def sts_b_glove(root: Path, label: str = "label") -> LocalCopy:
    """STS-B as GloVe vectors float32 [2, 10, D], read from the file `glove*.txt` beside the tables.

    As `sts_b`, with the vector of each word; a word that the file lacks has the mean of the others
    in its sentence, padding and sentences without a known word are zeros. Every line is `word`, a
    blank and D numbers.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: as `sts_b`; several GloVe files, or one of another form.

    Reference:
        J. Pennington, R. Socher, C. D. Manning, GloVe: Global Vectors for Word Representation,
        EMNLP 2014; and the references of `sts_b`.
    """
    check_label(label, ("score",), "sts_b_glove")
    folder = find_folder(root, ("sts_b", "STS-B"), _files())
    vectors_files = sorted(folder.glob("glove*.txt"))
    if len(vectors_files) != 1:
        kind = ValueError if vectors_files else FileNotFoundError
        raise kind(
            f"expected one file glove*.txt such as glove.840B.300d.txt in {folder}, found "
            f"{len(vectors_files)}; put one there, or load sts_b for learned word vectors"
        )
    views, pairs = _read(folder)
    wanted = {word for some in pairs.values() for pair in some for line in pair for word in line}
    words, table = _read_glove(vectors_files[0], wanted)
    codes = {word: code for code, word in enumerate(words, start=_UNKNOWN + 1)}
    for split, view in views.items():
        records = _Vectors(_encode(pairs[split], codes), table)
        views[split] = dataclasses.replace(view, records=records)
    return _finish("sts_b_glove", views, input_shape=(2, _LENGTH, table.shape[1]))


@dataclasses.dataclass(frozen=True)
class _Codes:
    """Sentence pairs as records, `records[i]["words"]` int32 [2, 10]."""

    codes: np.ndarray

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        return {"words": self.codes[position]}


@dataclasses.dataclass(frozen=True)
class _Vectors:
    """Sentence pairs as records, `records[i]["words"]` float32 [2, 10, D]."""

    codes: np.ndarray
    table: np.ndarray

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        codes = self.codes[position]
        vectors = self.table[codes]
        for sentence, sentence_codes in zip(vectors, codes):
            known = sentence_codes > _UNKNOWN
            if known.any():
                sentence[sentence_codes == _UNKNOWN] = sentence[known].mean(axis=0)
        return {"words": vectors}


def _files() -> list[str]:
    return [f"{split}_new.tsv" for split in _SIZES]


def _finish(name: str, views: dict[str, Source], **description: object) -> LocalCopy:
    train = views["train"]
    low = train.targets < 2
    splits = views | {"forget": train.take(low), "retain": train.take(~low)}
    warn_of_counts(name, splits, _SIZES)
    return make_copy(name, splits, task="regression", **description)


def _read(folder: Path) -> tuple[dict[str, Source], dict[str, list[list[list[str]]]]]:
    """The splits, still without records, and the words of their sentence pairs."""
    with extra("datasets"):
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    views, pairs = {}, {}
    for split in _SIZES:
        path = folder / f"{split}_new.tsv"
        rows = list(read_table(path, _COLUMNS, delimiter="\t", quoting=csv.QUOTE_NONE))
        rows.sort(key=lambda row: parse(int, row["index"], "an integer index", path))
        scores = [parse(finite, row["score"], "a score from 0 to 5", path) for row in rows]
        kept = {key: np.array([row[key] for row in rows], object) for key in _COLUMNS[1:4]}
        views[split] = Source(
            records=None,
            inputs_name="words",
            targets=np.array(scores, np.float32),
            index=np.array([int(row["index"]) for row in rows], np.int32),
            attributes=kept,
        )
        texts = ((row["sentence1"], row["sentence2"]) for row in rows)
        pairs[split] = [[_words(text, ENGLISH_STOP_WORDS) for text in pair] for pair in texts]
    return views, pairs


def _words(text: str, stop_words: Iterable[str]) -> list[str]:
    """The first words of a sentence that carry meaning."""
    letters = re.sub(r"https?://\S+|www\.\S+|[^a-z\s]", " ", text.lower())
    return [word for word in letters.split() if word not in stop_words][:_LENGTH]


def _encode(pairs: list[list[list[str]]], codes: dict[str, int]) -> np.ndarray:
    """Word codes int32 [n, 2, 10], padding first."""
    encoded = np.full((len(pairs), 2, _LENGTH), _PADDING, np.int32)
    for row, pair in zip(encoded, pairs):
        for sentence, words in zip(row, pair):
            sentence[_LENGTH - len(words) :] = [codes.get(word, _UNKNOWN) for word in words]
    return encoded


def _read_glove(path: Path, wanted: set[str]) -> tuple[list[str], np.ndarray]:
    """The words found, and their vectors [2 + words, D]; the first two rows are zeros."""
    found: dict[str, np.ndarray] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            word, _, numbers = line.partition(" ")
            # Some words of the published files hold blanks; they begin like others.
            if word in wanted and word not in found:
                found[word] = parse(_vector, numbers, f"numbers after the word {word}", path)
    sizes = {len(vector) for vector in found.values()}
    if len(sizes) != 1:
        raise ValueError(
            f"expected vectors of one size for words of the sentences in {path}, found "
            f"{len(found)} words and the sizes {sorted(sizes)}; copy the file again"
        )
    words = sorted(found)
    zeros = np.zeros((_UNKNOWN + 1, sizes.pop()), np.float32)
    return words, np.concatenate([zeros, np.stack([found[word] for word in words])])


def _vector(numbers: str) -> np.ndarray:
    return np.array(numbers.split(), np.float32)
