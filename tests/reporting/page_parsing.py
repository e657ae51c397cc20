"""A page as a browser reads it: elements in order, with their attributes and text."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "img", "hr"}


@dataclass(eq=False, repr=False)
class Element:
    """One element, with all text in it."""

    tag: str
    attributes: dict[str, str]
    parents: tuple[Element, ...]
    texts: list[str] = field(default_factory=list)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    @property
    def kinds(self):
        return self.attributes.get("class", "").split()


class Page(HTMLParser):
    """All elements of a page; an end without its beginning is an error."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open, [each.tag for each in self._open]

    def handle_starttag(self, tag, attributes):
        found = Element(tag, {k: v or "" for k, v in attributes}, tuple(self._open))
        self.elements.append(found)
        if tag not in VOID:
            self._open.append(found)

    def handle_endtag(self, tag):
        assert self._open and self._open[-1].tag == tag, (tag, [e.tag for e in self._open])
        self._open.pop()

    def handle_data(self, data):
        for each in self._open:
            each.texts.append(data)

    def all(self, tag, kind=None):
        return [e for e in self.elements if e.tag == tag and (kind is None or kind in e.kinds)]

    def by_id(self, name):
        (found,) = [e for e in self.elements if e.attributes.get("id") == name]
        return found

    def inside(self, name, tag, kind=None):
        """Elements in the one with this id."""
        outer = self.by_id(name)
        return [e for e in self.all(tag, kind) if any(p is outer for p in e.parents)]

    def unpacked(self, name):
        return json.loads(self.unpacked_text(name))

    def unpacked_text(self, name):
        return gzip.decompress(base64.b64decode(self.by_id(name).text)).decode()

    @property
    def visible(self):
        """The text outside scripts and style."""
        hidden = ("script", "style")
        whole = [e.text for e in self.elements if e.tag == "body"]
        scripts = [e.text for e in self.elements if e.tag in hidden]
        (text,) = whole
        for each in scripts:
            text = text.replace(each, "")
        return text
