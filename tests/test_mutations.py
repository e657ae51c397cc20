"""The tables of mutations are up to date; `make mutations` runs them."""

from __future__ import annotations

import mutations


def test_every_text_to_break_and_its_test_are_there():
    assert [text for text in map(mutations.stale, mutations.EVERY) if text] == []
    names = [mutation.name for mutation in mutations.EVERY]
    assert len(set(names)) == len(names) > 100


def test_a_text_that_is_not_there_is_an_error(capsys):
    known = mutations.EVERY[0]
    assert mutations.stale(known) == ""
    gone = known._replace(old="no such text")
    assert "found it 0 times: bring the mutation" in mutations.stale(gone)
    untested = known._replace(tests=("tests/test_edits.py::test_no_such_thing",))
    assert "expected the test tests/test_edits.py::test_no_such" in mutations.stale(untested)
    assert mutations.main(["no such mutation"]) == 1
    assert "0 of 0 noticed" in capsys.readouterr().out
