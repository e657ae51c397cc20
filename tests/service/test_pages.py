"""The page of a certificate: everything that it says, in three forms, and nothing that runs."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from test_certificates import ASKED, EXACT, certify, key  # noqa: F401

from mu_jax.service import certificates, envelopes, pages


class Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.texts = set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.texts.append(data)


def text_of(page, form):
    if form != "html":
        return page.replace("\\", "")
    parser = Texts()
    parser.feed(page)
    return " ".join(parser.texts)


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_a_page_says_all_of_it(key, form):  # noqa: F811
    line = certify(key, guarantee=EXACT, next_key="ab" * 32)
    (found,) = certificates.verify([line])
    text = text_of(pages.render(found, form), form)
    record = found.record
    for said in (
        *("Certificate 1", "ACME GmbH", "user:ada", "ssd", "removal", "exact", EXACT.protocol),
        *("alpha", "café", "retain accuracy", "0.5", ">= 0.4", "float32[2]", "from version"),
        *(record["code"]["source_sha256"], record["done"]["forgotten"]["ids"], found.key),
        *(envelopes.digest(line), record["outputs"]["variables"]["sha256"]),
        *("ab" * 32, "none, this is the first", *record["not_claimed"]),
    ):
        assert said in text, said


def test_a_page_runs_nothing_that_people_wrote(key):  # noqa: F811
    evil = '<script>alert(1)</script>\n\x1b[31m|`*"'
    asked = [ASKED._replace(asked=evil)]
    (found,) = certificates.verify([certify(key, asked=asked, operator=evil, notes=[evil])])
    page = pages.render(found, "html")
    parser = Texts()
    parser.feed(page)
    assert "script" not in parser.tags and "http" not in page
    assert "<script>" in " ".join(parser.texts)
    text = pages.render(found, "text")
    assert "\x1b" not in text and "\\x1b" in text
    markdown = pages.render(found, "markdown")
    rows = [line for line in markdown.splitlines() if "script" in line and line.startswith("|")]
    assert len(rows) == 2 and all("\\<script" in row and "\\|" in row for row in rows)


def test_other_forms_and_records_are_refused(key):  # noqa: F811
    (found,) = certificates.verify([certify(key)])
    with pytest.raises(ValueError, match="expected a form among text, markdown, html, found 'pdf'"):
        pages.render(found, "pdf")
    with pytest.raises(ValueError, match="expected the record of certificate 1 to be whole"):
        pages.render(found._replace(record={**found.record, "asked": 3}))
