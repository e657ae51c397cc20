"""The API reference has every public name; the site builds without a warning."""

import importlib
import importlib.util
import inspect
import pkgutil
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

import mu_jax as mu

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def load(name):
    """A module of docs/_ext, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


public_names = load("public_names")
docstrings = load("docstrings")


def public_packages():
    """Packages without an underscore in their path, found on disk."""
    found = pkgutil.walk_packages(mu.__path__, "mu_jax.")
    return ["mu_jax", *(m.name for m in found if m.ispkg and "._" not in m.name)]


def all_names():
    """Public names that are no modules: of every package, and of every listed subpackage."""
    listed = [f"mu_jax.{name}" for name in sorted(mu._SUBPACKAGES)]
    for room in dict.fromkeys([*public_packages(), *listed]):
        module = importlib.import_module(room)
        names = getattr(module, "__all__", None)
        if names is None:
            names = [n for n, each in vars(module).items() if inspect.isfunction(each)]
            names = [n for n in names if getattr(module, n).__module__ == room and n[0] != "_"]
        for name in names:
            if not isinstance(getattr(module, name), types.ModuleType):
                yield f"{room}.{name}"


NAMES = sorted(set(all_names()))


def rooms_with_pages():
    """Rooms that a page of the reference shows, as the page itself says."""
    for page in (DOCS / "api").glob("*.md"):
        lines = page.read_text().splitlines()
        for line in lines:
            if line.startswith("```{room} "):
                room = line.removeprefix("```{room} ")
                assert page.stem == public_names.page(room).removeprefix("api/"), page
                yield room


def test_every_room_has_a_page():
    missing = set(public_names.rooms()) - set(rooms_with_pages())
    assert not missing, f"add docs/api/ROOM.md with a title and a fence {{room}}: {missing}"


def test_every_public_name_is_in_the_reference():
    shown = set()
    for room in rooms_with_pages():
        for entry in public_names.of_room(room):
            shown.update([entry.name, *entry.aliases])
    assert len(NAMES) > 600
    assert [name for name in NAMES if name not in shown] == []


def test_a_name_stands_on_one_page_under_its_shortest_name():
    entries = {entry.name: entry for entry in public_names.entries()}
    assert len(entries) == len(public_names.entries())
    assert entries["mu_jax.ssd"].room == "mu_jax.transforms"
    assert "mu_jax.transforms.ssd" in entries["mu_jax.ssd"].aliases
    assert entries["mu_jax.chain"].room == "mu_jax"
    assert entries["mu_jax.evaluation.score"].room == "mu_jax.scoring"


def test_the_index_of_the_reference_links_to_the_rooms():
    text = (DOCS / "api" / "index.md").read_text()
    families = ("mu_jax.objectives.",)
    for room in public_names.rooms():
        page = public_names.page(room).removeprefix("api/")
        assert f"({page}.md)" in text or room.startswith(families), room


DOCSTRING = """First line.

With `x`, the value is

    x = 1

Args:
  a, b: two numbers, of which
    the second counts.
  *rest: others.

Cost: one pass
over the data.

Differences from the reference program (`a/b`):
  1. None.

Example:
    >>> 1 + 1
    2
"""
MARKDOWN = """First line.

With `x`, the value is

    x = 1


**Args**

* `a`, `b`: two numbers, of which
  the second counts.
* `*rest`: others.


**Cost:** one pass
over the data.


**Differences from the reference program (`a/b`)**

1. None.



**Example**


```python
>>> 1 + 1
2
```
"""


def test_docstrings_become_markdown():
    found = "\n".join(docstrings.to_markdown(DOCSTRING.splitlines()))
    assert found.split() == MARKDOWN.split()
    assert "\n* `a`, `b`: two numbers, of which\n  the second counts.\n" in found
    assert "\n```python\n>>> 1 + 1\n2\n```" in found.replace("\n\n```\n", "\n```\n")


def test_code_that_runs_over_two_lines_is_no_item_of_a_list():
    assert docstrings.to_markdown(["`-a b", "+ c`, where", "x"]) == ["`-a b + c`, where", "x"]


def test_bars_inside_code_are_no_cells():
    assert docstrings.to_markdown(["| `|x|` | size |"]) == [r"| `\|x\|` | size |"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        ("`a ... b` in place of\nc, at first.\n\nMore.", "`a ... b` in place of c, at first."),
        ("Without an end:\n\n* more", "Without an end"),
    ],
)
def test_the_first_sentence_ends_where_no_code_runs(text, sentence):
    assert docstrings.first_sentence(text) == sentence


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_has_every_name(tmp_path):
    inventory = pytest.importorskip("sphinx.util.inventory").InventoryFile
    pytest.importorskip("myst_parser")
    pytest.importorskip("sphinx_book_theme")
    pytest.importorskip("sphinx_copybutton")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, str(DOCS), str(tmp_path)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    found = inventory.loads((tmp_path / "objects.inv").read_bytes(), uri="")
    names = {name for kind, each in found.data.items() if kind[:3] == "py:" for name in each}
    assert [name for name in NAMES if name not in names] == []
    assert "http" not in " ".join(scripts(tmp_path / "index.html"))


def scripts(page):
    """Where a page loads scripts, styles and images from."""
    return re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"([^\"]+)\"", page.read_text())
