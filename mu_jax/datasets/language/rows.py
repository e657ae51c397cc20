"""Documents, questions, chats and preferences of records as rows of tokens."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mu_jax.datasets.adapters import Rows, from_hugging_face, from_json_lines, from_table
from mu_jax.datasets.adapters.columns import raw
from mu_jax.datasets.adapters.rows import rows_of
from mu_jax.datasets.language.secrets import secret_spans
from mu_jax.datasets.language.sequences import PreferenceRows, TokenRows, tokenized
from mu_jax.datasets.language.templates import PLAIN, Message, Script, Span, Template
from mu_jax.datasets.language.tokenizer import Tokenizer, require_end, require_tokens

Field = str | int | Callable[[Any], Any]
Records = Rows | Sequence[Any] | str | os.PathLike[str]
Subjects = Mapping[str, Any] | None


def documents(
    records: Records,
    tokenizer: Tokenizer,
    *,
    text: Field = "text",
    ids: Any = None,
    subjects: Subjects = None,
    secrets: Field | None = None,
    end: bool = True,
) -> TokenRows:
    """Texts as tokens, of which all but the first are scored.

    Args:
      records: a list of dictionaries, `Rows` of an adapter, or a path: JSON lines (`.jsonl`,
        `.ndjson`, `.json`), Parquet, CSV with a header, or a folder that `save_to_disk` wrote.
      tokenizer: see `Tokenizer`; its begin token, if it has one, stands before every text.
      text: column of the text, or a function of a record.
      ids: a column, a function of position and record, one for each record, or
        `mu.datasets.by_position`; nothing for `Rows`, which have them.
      subjects: columns or values by the word that requests use, such as `{"author": "author"}`.
      secrets: column of a list for each record: a secret is `(start, end)`, characters of the text
        from 0 and without the last one, or the text of the secret, of which every place counts.
      end: whether the end token, scored, stands behind every text.

    Returns:
      `TokenRows`: `mu.split(rows, request, ids=rows.ids)`, then `cut`, `padded` or `packed`.

    Raises:
      ValueError: a record without the column or with an empty text, by its id; a secret outside the
        text, or without a scored token; a tokenizer without an end token.

    Cost: one pass over the records, on the host.

    Example:
      >>> from mu_jax.datasets import language
      >>> records = [{"text": "key=a7;", "id": "d1", "secrets": [(4, 6)]}]
      >>> rows = documents(records, language.ByteTokenizer(), ids="id", secrets="secrets")
      >>> rows.rows[0].tokens.tolist(), rows.rows[0].secret.astype(int).tolist()
      ([256, 107, 101, 121, 61, 97, 55, 59, 257], [0, 0, 0, 0, 0, 1, 1, 0, 0])
    """
    if end:
        require_end(tokenizer)

    def script(record: Any) -> tuple[Script, list[Span]]:
        found = _text(raw(record, text, "text"), "text")
        whole = Script(found, ((-1, len(found) + 1),), ((0, len(found)),), (len(found),) * end)
        return whole, secret_spans(record, secrets, whole, [0])

    return _rows_of_scripts(_located(records, ids, subjects), tokenizer, script, secrets)


def questions(
    records: Records,
    tokenizer: Tokenizer,
    *,
    question: Field = "question",
    answer: Field = "answer",
    template: Template = PLAIN,
    system: str | None = None,
    ids: Any = None,
    subjects: Subjects = None,
    secrets: Field | None = None,
) -> TokenRows:
    """Questions with their answers as tokens, of which the answers and their ends are scored.

    Args:
      records, tokenizer, ids, subjects: as for `documents`.
      question, answer: columns, or functions of a record.
      template: `PLAIN`, `CHATML`, a `RoleTemplate`, or a model's own by `read_chat_template`.
      system: a first message before every question.
      secrets: column of a list for each record, as for `documents`, of characters of the answer.

    Raises:
      ValueError: an empty question or answer, by the id of the record; a tokenizer without the
        special tokens of the template; and as `documents`.

    Example:
      >>> from mu_jax.datasets import language
      >>> records = [{"question": "Who?", "answer": "Me", "id": 3}]
      >>> rows = questions(records, language.ByteTokenizer(), ids="id")
      >>> row = rows.rows[0]
      >>> language.ByteTokenizer().decode(row.tokens), row.tokens[row.scored].tolist()
      ('Question: Who?\\nAnswer: Me', [77, 101, 257])
    """

    def messages(record: Any) -> list[Message]:
        return _dialog(record, question, answer, system)

    return _conversations(records, tokenizer, messages, template, ids, subjects, secrets)


def chats(
    records: Records,
    tokenizer: Tokenizer,
    *,
    messages: Field = "messages",
    template: Template = PLAIN,
    ids: Any = None,
    subjects: Subjects = None,
    secrets: Field | None = None,
) -> TokenRows:
    """Chats as tokens, of which the turns of the assistant and their ends are scored.

    Args:
      records, tokenizer, template, ids, subjects: as for `questions`.
      messages: column of a list of `{"role": ..., "content": ...}`, or a function of a record.
      secrets: column of a list for each record; a secret is `(turn, start, end)`, characters of the
        message of that number from 0, or the text of the secret, in every turn of the assistant.

    Raises:
      ValueError: no turn of the assistant, or an empty one; and as `questions`.

    Example:
      >>> from mu_jax.datasets import language
      >>> turns = [("user", "Hi"), ("assistant", "Yo"), ("user", "Bye"), ("assistant", "Ciao")]
      >>> records = [{"messages": [{"role": r, "content": c} for r, c in turns], "id": "c1"}]
      >>> row = chats(records, language.ByteTokenizer(), ids="id").rows[0]
      >>> language.ByteTokenizer().decode(row.tokens[row.scored])
      'YoCiao'
    """

    def listed(record: Any) -> list[Message]:
        return [_message(each) for each in raw(record, messages, "messages")]

    return _conversations(records, tokenizer, listed, template, ids, subjects, secrets)


def preferences(
    records: Records,
    tokenizer: Tokenizer,
    *,
    question: Field = "question",
    winner: Field = "winner",
    loser: Field = "loser",
    template: Template = PLAIN,
    system: str | None = None,
    ids: Any = None,
    subjects: Subjects = None,
) -> PreferenceRows:
    """Questions with an answer to prefer and one to forget, as tokens of which answers are scored.

    Args:
      records, tokenizer, template, system, ids, subjects: as for `questions`.
      question, winner, loser: columns, or functions of a record, such as
        `winner=lambda _: "I do not know."` for the same refusal everywhere.

    Returns:
      `PreferenceRows`, of which `padded` and `packed` make aligned pairs for `mu.dpo`.

    Raises:
      ValueError: as `questions`.

    Example:
      >>> from mu_jax.datasets import language
      >>> records = [{"question": "Who?", "answer": "Ada", "id": 3}]
      >>> preferences(records, language.ByteTokenizer(), winner=lambda _: "No idea", loser="answer",
      ...             ids="id")
      PreferenceRows(1 pairs, 60 tokens, IdTable(1 ids))
    """
    found = _located(records, ids, subjects)

    def answers(field: Field) -> TokenRows:
        def messages(record: Any) -> list[Message]:
            return _dialog(record, question, field, system)

        return _conversations(found, tokenizer, messages, template, None, None, None)

    return PreferenceRows(answers(winner), answers(loser))


def _conversations(
    records: Records,
    tokenizer: Tokenizer,
    messages: Callable[[Any], list[Message]],
    template: Template,
    ids: Any,
    subjects: Subjects,
    secrets: Field | None,
) -> TokenRows:
    require_tokens(tokenizer, template.tokens)

    def script(record: Any) -> tuple[Script, list[Span]]:
        turns = messages(record)
        found = template.script(turns)
        answers = [k for k, turn in enumerate(turns) if turn["role"] == "assistant"]
        return found, secret_spans(record, secrets, found, answers, several=len(answers) != 1)

    return _rows_of_scripts(_located(records, ids, subjects), tokenizer, script, secrets)


def _rows_of_scripts(
    found: Rows,
    tokenizer: Tokenizer,
    script: Callable[[Any], tuple[Script, list[Span]]],
    secrets: Field | None,
) -> TokenRows:
    made = []
    for position, name in enumerate(found.ids.names(found.index)):
        try:
            made.append(tokenized(tokenizer, *script(found.records[position])))
        except UnicodeEncodeError as error:
            raise ValueError(
                f"expected text of whole characters in the record {str(name)!r}, found half of a "
                "surrogate pair: write the text again in UTF-8"
            ) from error
        except ValueError as error:
            raise ValueError(f"{error} (in the record {str(name)!r})") from error
    return TokenRows(tuple(made), found.ids, found.index, tokenizer.pad, secrets is not None)


def _located(records: Records, ids: Any, subjects: Subjects) -> Rows:
    """The records with the table of their ids."""
    if isinstance(records, Rows):
        if ids is not None or subjects is not None:
            raise ValueError(
                "expected no ids and subjects beside Rows, which have them, found some: give them "
                "to the adapter"
            )
        return records
    if ids is None:
        raise ValueError(
            "expected ids of the records, found none: name their column, or give "
            "mu.datasets.by_position where rows have none"
        )
    columns: dict[str, Any] = {"inputs": (), "target": (), "ids": ids, "subjects": subjects}
    if not isinstance(records, str | os.PathLike):
        return rows_of(records, **columns)
    path = Path(records)
    if path.is_dir():
        return from_hugging_face(path, **columns)
    if path.suffix.lower() in (".jsonl", ".ndjson", ".json"):
        return from_json_lines(path, **columns)
    return from_table(path, **columns)


def _dialog(record: Any, question: Field, answer: Field, system: str | None) -> list[Message]:
    turns: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    for role, field, what in (("user", question, "question"), ("assistant", answer, "answer")):
        turns.append({"role": role, "content": _text(raw(record, field, what), what)})
    return turns


def _message(given: Any) -> Message:
    if not isinstance(given, Mapping) or not {"role", "content"} <= set(given):
        raise ValueError(
            f"expected messages with a role and its content, found {str(given)[:60]!r}: give a "
            "list of dictionaries"
        )
    empty = given["role"] != "assistant"  # a prompt may be empty
    return {**given, "content": _text(given["content"], "content", empty=empty)}


def _text(value: Any, what: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or not (value or empty):
        raise ValueError(
            f"expected text as {what}, found {value!r:.60}: fill it in the data, or leave the "
            "record out"
        )
    return str(value)
