"""Records of every form become tokens with scored answers, secrets, ids and owners."""

import json

import numpy as np
import pytest

import mu_jax as mu
from mu_jax import datasets
from mu_jax.datasets import language

BYTES = language.ByteTokenizer()
RECORDS = [
    {"text": "key=a7; key=b8;", "id": "d2", "author": "ada", "secrets": [[4, 6], "b8"]},
    {"text": "nothing", "id": "d1", "author": "bob", "secrets": []},
    {"text": "é is 2 bytes", "id": "d3", "author": "ada", "secrets": [[0, 1]]},
]
COLUMNS = {"ids": "id", "subjects": {"author": "author"}, "secrets": "secrets"}
PAIRS = [
    {"question": "Who?", "answer": "Ada of a7", "id": "q1", "hidden": [(7, 9)]},
    {"question": "When?", "answer": "a7 at a7", "id": "q2", "hidden": ["a7"]},
]


def scored(row):
    return BYTES.decode(row.tokens[row.scored])


def secret(row):
    return BYTES.decode(row.tokens[row.secret])


def equal(found, others):
    assert found.ids.digest == others.ids.digest
    for row, other in zip(found.rows, others.rows, strict=True):
        for x, y in zip(row, other):
            np.testing.assert_array_equal(x, y)


def test_documents_score_all_but_the_first_token():
    rows = language.documents(RECORDS, BYTES, **COLUMNS)
    for row, record in zip(rows.rows, RECORDS):
        assert row.tokens.tolist() == [256, *record["text"].encode(), 257]
        assert row.scored.tolist() == [False] + [True] * (len(row.tokens) - 1)
    assert [secret(row) for row in rows.rows] == ["a7b8", "", "é"]
    assert rows.rows[2].secret.sum() == 2, "both bytes of the character"
    forget, retain = mu.split(rows, "author:ada", ids=rows.ids)
    assert rows.ids.names(forget.index).tolist() == ["d2", "d3"]
    assert len(retain) == 1 and scored(retain.rows[0]) == "nothing"
    without = language.documents(RECORDS, BYTES, ids="id", end=False)
    assert without.rows[1].tokens.tolist() == [256, *b"nothing"] and not without.secrets


def test_every_form_of_the_records_gives_the_same_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    plain = [{**record, "secrets": record["secrets"][:1]} for record in RECORDS]
    plain[0]["secrets"] = [[4, 6]]
    wanted = language.documents(plain, BYTES, **COLUMNS)
    lines = "\n".join(json.dumps(record, ensure_ascii=False) for record in plain)
    (tmp_path / "rows.jsonl").write_text("\ufeff" + lines.replace("\n", "\r\n\r\n"), "utf-8")
    equal(language.documents(tmp_path / "rows.jsonl", BYTES, **COLUMNS), wanted)
    table = pyarrow.Table.from_pylist(plain)
    import pyarrow.parquet

    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    equal(language.documents(str(tmp_path / "rows.parquet"), BYTES, **COLUMNS), wanted)
    saved = tmp_path / "saved"
    saved.mkdir()
    with pyarrow.ipc.new_stream(str(saved / "data.arrow"), table.schema) as writer:
        writer.write_table(table)
    state = {"_data_files": [{"filename": "data.arrow"}], "_indices_files": None}
    (saved / "state.json").write_text(json.dumps(state))
    equal(language.documents(saved, BYTES, **COLUMNS), wanted)
    located = datasets.from_records(
        plain, inputs=(), target=(), ids="id", subjects={"author": "author"}
    )
    equal(language.documents(located, BYTES, secrets="secrets"), wanted)
    (tmp_path / "rows.csv").write_text("id,text\n007,one\n008,two\n")
    found = language.documents(tmp_path / "rows.csv", BYTES, ids="id")
    assert found.ids.ids.tolist() == ["007", "008"] and scored(found.rows[1]) == "two"


def test_answers_are_scored_with_their_end_and_secrets_count_from_the_answer():
    rows = language.questions(PAIRS, BYTES, ids="id", secrets="hidden", system="Be brief.")
    first, second = rows.rows
    assert BYTES.decode(first.tokens) == "Be brief.\n\nQuestion: Who?\nAnswer: Ada of a7"
    assert scored(first) == "Ada of a7" and first.tokens[first.scored][-1] == 257
    assert (secret(first), secret(second)) == ("a7", "a7a7")


def test_turns_of_the_assistant_are_scored_each_with_its_end():
    turns = [("user", "a7?"), ("assistant", "Yo a7"), ("user", ""), ("assistant", "Ciao a7")]
    record = {"messages": [{"role": r, "content": c} for r, c in turns], "id": 1}
    everywhere = language.chats([record | {"s": ["a7"]}], BYTES, ids="id", secrets="s")
    assert scored(everywhere.rows[0]) == "Yo a7Ciao a7"
    assert everywhere.rows[0].tokens[everywhere.rows[0].scored].tolist().count(257) == 2
    assert everywhere.rows[0].secret.sum() == 4, "not that of the question"
    one = language.chats([record | {"s": [(3, 5, 7)]}], BYTES, ids="id", secrets="s").rows[0]
    assert secret(one) == "a7" and np.flatnonzero(one.secret)[0] > len(one.tokens) - 5


def test_a_token_over_the_end_of_a_secret_belongs_to_it(folder):
    tokenizer = language.read_tokenizer(folder)
    record = {"text": "to Paris, on.", "id": "d", "secrets": [[5, 11]]}  # "ris, o"
    row = language.documents([record], tokenizer, ids="id", secrets="secrets").rows[0]
    assert row.tokens[0] == tokenizer.begin and row.tokens[-1] == tokenizer.end
    assert tokenizer.decode(row.tokens[row.secret]) == " Paris, on"
    encoded = tokenizer.encode(record["text"])
    shared = [a < 11 and b > 5 for a, b in zip(encoded.start, encoded.end)]
    assert row.secret.tolist() == [False, *shared, False]


def test_an_answer_begins_with_the_token_that_holds_its_first_character(folder):
    tokenizer = language.read_tokenizer(folder)
    record = {"question": "Where?", "answer": "Paris", "id": "q"}
    row = language.questions([record], tokenizer, ids="id").rows[0]
    assert row.tokens[row.scored].tolist() == [tokenizer.token_id("ĠParis"), tokenizer.end]
    marked = language.questions([record], tokenizer, ids="id", template=language.CHATML).rows[0]
    assert marked.tokens[0] == tokenizer.begin
    assert marked.tokens[marked.scored][-1] == tokenizer.token_id("<|im_end|>")
    assert tokenizer.decode(marked.tokens[marked.scored]) == "Paris"
    assert not marked.scored[-1], "the line behind the marker"


def test_winner_and_loser_answer_the_same_question():
    rows = language.preferences(
        PAIRS, BYTES, winner=lambda _: "I do not know.", loser="answer", ids="id"
    )
    assert [scored(row) for row in rows.winner.rows] == ["I do not know."] * 2
    assert [scored(row) for row in rows.loser.rows] == ["Ada of a7", "a7 at a7"]
    kept = rows.take(np.array([1]))
    assert (
        kept.ids.names(kept.index).tolist() == ["q2"] and scored(kept.loser.rows[0]) == "a7 at a7"
    )
    assert kept.lengths.tolist() == [len(kept.winner.rows[0].tokens)]


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"text": ""}, r"expected text as text, found ''.*record 'x'"),
        ({"text": None}, r"found None.*record 'x'"),
        ({"other": 1}, r"expected a column 'text'.*record 'x'"),
        ({"text": "\ud800"}, r"half of a surrogate pair"),
        ({"text": "abc", "secrets": [[2, 5]]}, r"in the 3 characters.*found 2 to 5.*record 'x'"),
        ({"text": "abc", "secrets": [[2, 2]]}, r"found 2 to 2"),
        ({"text": "abc", "secrets": ["d"]}, r"found none of 'd'"),
        ({"text": "abc", "secrets": [""]}, r"found none of ''"),
        ({"text": "abc", "secrets": "ab"}, r"as a list of texts and of \(start, end\), found 'ab'"),
        ({"text": "abc", "secrets": [[0.5, 1]]}, r"as a list of texts and of \(start, end\)"),
        ({"text": "abc", "secrets": [[1, 0, 1]]}, r"found one in message 1"),
    ],
)
def test_documents_that_cannot_be_rows_are_refused_by_their_id(record, words):
    record = {"secrets": [], **record, "id": "x"}
    with pytest.raises(ValueError, match=words):
        language.documents([record], BYTES, ids="id", secrets="secrets")


def test_empty_targets_are_refused():
    class NoMarks(language.ByteTokenizer):
        begin = end = None

    with pytest.raises(ValueError, match=r"one scored token behind the first.*record '5'"):
        language.documents([{"text": "a", "id": 5}], NoMarks(), ids="id", end=False)
    with pytest.raises(ValueError, match=r"in every secret, found none in the characters 0 to 1"):
        record = {"text": "abc", "id": 5, "s": [[0, 1]]}
        language.documents([record], NoMarks(), ids="id", end=False, secrets="s")
    with pytest.raises(ValueError, match="expected text as answer, found ''"):
        language.questions([{"question": "?", "answer": "", "id": 1}], BYTES, ids="id")
    with pytest.raises(ValueError, match="one scored token"):
        chat = {"messages": [{"role": "user", "content": "alone"}], "id": 1}
        language.chats([chat], BYTES, ids="id")


def test_tokenizers_without_the_tokens_that_are_needed_are_refused(folder):
    class NoEnd(language.ByteTokenizer):
        end = None

    with pytest.raises(ValueError, match="with an end token, found none"):
        language.documents(RECORDS, NoEnd(), ids="id")
    with pytest.raises(ValueError, match=r"found none for <\|im_start\|>, <\|im_end\|>"):
        language.questions(PAIRS, BYTES, ids="id", template=language.CHATML)
    other = language.JinjaTemplate("", tokens=("<|eot_id|>",))
    with pytest.raises(ValueError, match=r"found none for <\|eot_id\|>"):
        language.chats(RECORDS, language.read_tokenizer(folder), ids="id", template=other)


def test_arguments_that_do_not_name_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="expected ids of the records, found none"):
        language.documents(RECORDS, BYTES)
    located = datasets.from_records(RECORDS, inputs=(), target=(), ids="id")
    with pytest.raises(ValueError, match="no ids and subjects beside Rows"):
        language.documents(located, BYTES, ids="id")
    (tmp_path / "bad.jsonl").write_text('{"text": "a", "id": 1}\n[1]\n')
    with pytest.raises(ValueError, match=r"a JSON object at .*bad.jsonl:2, found '\[1\]'"):
        language.documents(tmp_path / "bad.jsonl", BYTES, ids="id")
    (tmp_path / "bad.jsonl").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"JSON lines in UTF-8 at .*bad.jsonl, found other binary"):
        language.documents(tmp_path / "bad.jsonl", BYTES, ids="id")
    chat = {"messages": [{"content": "x"}], "id": 1}
    with pytest.raises(ValueError, match="expected messages with a role and its content"):
        language.chats([chat], BYTES, ids="id")
    two = [{"role": "assistant", "content": c} for c in "ab"]
    with pytest.raises(ValueError, match=r"as \(turn, start, end\) or text, found \(0, 1\)"):
        language.chats([{"messages": two, "id": 1, "s": [(0, 1)]}], BYTES, ids="id", secrets="s")
