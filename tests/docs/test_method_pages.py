"""Pages of methods: one for each transform, whole, and with the numbers that the repository has."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import re
import sys
from pathlib import Path

import pytest

import mu_jax as mu
from experiments.lib import arguments
from experiments.lib.language.methods import METHODS as OF_LANGUAGE

sys.path.insert(0, str(Path(mu.__file__).parents[1] / "docs" / "_ext"))

import measured
import method_facts as facts
import tuned

ROOT = Path(mu.__file__).parents[1]
PAGES = ROOT / "docs" / "methods"
NAMES = sorted(facts.names())
SECTIONS = [
    "When to take it",
    "What it needs",
    "Settings",
    "Measured here",
    "Published",
    "Definition",
]
every_method = pytest.mark.parametrize("name", NAMES)


def text_of(name):
    return (PAGES / f"{name}.md").read_text()


def sections(name):
    """The text before the first section, and the sections by their titles."""
    first, *parts = re.split(r"^## (.+)\n", text_of(name), flags=re.MULTILINE)
    return first, dict(zip(parts[::2], parts[1::2]))


def test_pages_and_transforms_are_the_same_set():
    pages = {path.stem for path in PAGES.glob("*.md")} - {"index"}
    public = {name for name in mu.transforms.__all__ if name.islower()}
    assert pages == set(NAMES) == public


def test_the_index_has_every_page_once():
    listed = re.findall(r"^```\{toctree\}\n(?::.*\n)+\n((?:\w+\n)+)```", text_of("index"), re.M)
    names = [name for block in listed for name in block.split()]
    assert sorted(names) == NAMES
    lines = facts.index_table().splitlines()
    assert [line.split("](")[0].removeprefix("| [") for line in lines[2:]] == facts.names()
    assert all(line.count("|") == lines[0].count("|") for line in lines)


@every_method
def test_a_page_has_its_sections_and_is_about_its_method(name):
    first, found = sections(name)
    assert list(found) == SECTIONS and all(text.strip() for text in found.values())
    title, idea = first.strip().split("\n\n")
    assert title.startswith("# ")
    assert len(re.findall(r"[.](?=\s|$)", idea)) == 3, "the idea in three sentences"
    assert f"```{{tuned}} {name}\n" in found["Settings"]
    assert f"```{{measured}} {name}\n" in found["Measured here"]
    assert f".. autofunction:: mu_jax.{name}\n" in found["Definition"]


@every_method
def test_a_docstring_says_what_its_page_leaves_to_it(name):
    assert facts.unsaid(name) == []
    assert facts.passes(name) and re.search(r"\b20\d\d\b", facts.published(name))


def test_what_a_docstring_leaves_out_is_found(monkeypatch):
    text = facts.docstring("ssd").replace("It fails on", "Beware of")
    monkeypatch.setattr(facts, "docstring", lambda name: text)
    assert facts.unsaid("ssd") == ["when it fails"]
    text = text.replace("; memory of two trees", "; two trees")
    assert facts.unsaid("ssd") == ["memory", "when it fails"]
    text = text.replace("Cost: ", "Price: ")
    assert facts.unsaid("ssd") == ["cost", "memory", "when it fails"]
    with pytest.raises(ValueError, match=r"'Cost: ...' in the docstring of ssd"):
        facts.passes("ssd")


@every_method
def test_tasks_are_those_of_the_binaries(name):
    tasks = facts.words(facts.needs_of_page(name).tasks)
    if name in arguments.offered("regression"):
        assert {"regression", "any"} & set(tasks)
    if name in arguments.offered("classification"):
        assert {"classification", "any"} & set(tasks)
    if name in arguments._CLASSIFICATION_ONLY:
        assert tasks == ["classification"]
    if name in OF_LANGUAGE:
        assert {"language", "any"} & set(tasks)
    if name in mu.transforms.LANGUAGE:
        assert tasks == ["language"]


@pytest.mark.parametrize(
    "change, says",
    [
        ({"retain": "everything"}, "expected words among inputs, labels, tokens, nothing"),
        ({"tasks": "vision; mostly"}, "expected words among classification"),
        ({"models": None}, "expected the fields tasks, forget"),
    ],
)
def test_needs_that_are_none_are_refused(change, says):
    good = facts.needs_of_page("ssd")._asdict()
    options = {key: value for key, value in {**good, **change}.items() if value}
    with pytest.raises(ValueError, match=says):
        facts.needs(options, "ssd.md")


def test_the_aim_is_that_of_the_transform():
    assert {name for name in NAMES if facts.aim(name) == "suppression"} == {"dpo", "o3"}
    table = facts.needs_table("o3", facts.needs_of_page("o3"))
    assert "| aim | suppression |" in table and "| published | ICLR 2025 |" in table


FOLDERS = r"`((?:tests|docs|experiments|mu_jax)/[\w/.-]+|[\w-]+\.md)`"


@pytest.mark.parametrize("name", [*NAMES, "index"])
def test_files_and_pages_that_a_page_names_exist(name):
    for path in re.findall(FOLDERS, text_of(name)):
        assert (ROOT / path).exists(), path
    made = "" if name == "index" else measured.markdown(name)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text_of(name) + made):
        assert (PAGES / target).exists(), target


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def method_of(record):
    return record["hyperparameters"].get("method", record["method"])


def rows_of(text, title):
    """The lines of the Markdown table behind a title, by their first cell and the head."""
    lines = itertools.dropwhile(lambda x: x[:1] != "|", text.partition(title)[2].splitlines())
    table = [measured.cells(line) for line in itertools.takewhile(lambda x: x[:1] == "|", lines)]
    head, rows = table[0], table[2:]
    return {row[0]: dict(zip(head, row)) for row in rows}


def gap(record):
    """The mean distance to the oracles in points, computed by hand."""
    metrics = [m for m in record["metrics"].values() if m["direction"] == "closer to retrain"]
    return 100 * sum(abs(m["value"] - m["oracle"]["mean"]) for m in metrics) / len(metrics)


RECORDS = sorted(measured.RECORDS.glob("*.classification.jsonl"))
RECORDED = [
    pytest.param(path, name, id=f"{path.stem}-{name}")
    for path in RECORDS
    for name in sorted({method_of(record) for record in lines_of(path)} & set(NAMES))
]


@pytest.mark.parametrize("path, name", RECORDED)
def test_measured_rows_are_those_of_the_records(path, name):
    found = rows_of(measured.markdown(name), f"sweep_files/{path.name}`;")
    records = [r for r in lines_of(path) if r["method"] in measured.FIXED or method_of(r) == name]
    settings = {record["method"] for record in records}
    assert len(records) >= 3
    for record in records:
        kind, setting = record["forget_set"]["kind"], record["method"]
        klom = record["metrics"]["KLoM forget p95"]
        cell = next(row for title, row in found.items() if title.startswith(f"KLoM, {kind} ("))
        column = next(head for head in cell if head.partition(" [")[0] == setting)
        if klom["value"] is not None:
            assert cell[column].startswith(f"{klom['value']:.2f}")
        if klom["low"] is not None:
            assert cell[column].endswith(f"[{klom['low']:.2f}, {klom['high']:.2f}]")
        cell = next(row for title, row in found.items() if title.startswith(f"gap, {kind} ("))
        if record["status"] == "ok":
            assert cell[column] == f"{gap(record):.2f}"
    columns = {head.partition(" [")[0] for head in next(iter(found.values()))} - {"measure"}
    assert columns == settings


def test_other_records_make_other_tables(monkeypatch, tmp_path):
    """No number is typed: a changed record changes the page."""
    lines = (measured.RECORDS / "digits.classification.jsonl").read_text().splitlines()
    chosen = [json.loads(line) for line in lines]
    for record in chosen:
        if method_of(record) == "ssd":
            record["metrics"]["KLoM forget p95"]["value"] = 4.3125
    text = "\n".join(map(json.dumps, chosen)) + "\n"
    (tmp_path / "other_digits.classification.jsonl").write_text(text)
    monkeypatch.setattr(measured, "RECORDS", tmp_path)
    found = measured.markdown("ssd")
    assert "**other digits** (`experiments/sweep_files/other_digits.classification.jsonl`;" in found
    assert found.count("4.31 [") == 3


def test_a_method_that_is_only_in_the_report_of_a_search_has_no_floor(monkeypatch, tmp_path):
    for name in ("digits.classification.jsonl", "digits.reporting.jsonl"):
        kept = [
            r
            for r in lines_of(measured.RECORDS / name)
            if "report" in name or method_of(r) != "ssd"
        ]
        (tmp_path / name).write_text("\n".join(map(json.dumps, kept)) + "\n")
    monkeypatch.setattr(measured, "RECORDS", tmp_path)
    found = measured.markdown("ssd")
    assert "digits.reporting.jsonl" in found and "digits.classification.jsonl" not in found
    head = next(iter(rows_of(found, "digits.reporting.jsonl`;").values()))
    assert set(head) == {"measure", "do nothing", "ssd"}
    assert measured.FLOOR_UNKNOWN in found and "run time" not in found


def test_a_method_without_a_record_says_so():
    assert "nothing that was measured can be shown" in measured.markdown("concept_noise")


def test_rows_of_other_pages_are_those_of_their_settings():
    page = (ROOT / "docs/language-demonstrations.md").read_text()
    found = measured.markdown("npo")
    rows = [line for line in page.splitlines() if re.match(r"\| npo(_\w+)? \|", line)]
    first = [line for line in rows if line.count("|") == 8]
    assert len(first) >= 7 and all(line in found for line in first)
    assert "| grad_diff |" not in found and "| retrain, the floor |" in found
    assert "| grad_diff |" in measured.markdown("grad_diff")
    assert "`reweighted_newton` | 2.04" in measured.markdown("influence")
    readme = (ROOT / "benchmarks/README.md").read_text()
    costs = {
        name: re.search(rf"^\| {name}.* \|$", readme, re.M)[0] for name in ("NPO", "DPO", "RMU")
    }
    assert costs["NPO"] in found and costs["RMU"] not in found
    assert costs["RMU"] in measured.markdown("rmu") and costs["DPO"] in measured.markdown("dpo")


def test_a_heading_that_is_gone_is_named(monkeypatch):
    moved = [page._replace(heading="## Elsewhere") for page in measured.PAGES]
    monkeypatch.setattr(measured, "PAGES", moved)
    with pytest.raises(ValueError, match=r"below '## Elsewhere' in docs/influence.md, found none"):
        measured.markdown("influence")


def test_regressions_are_those_of_the_configurations():
    found = measured.markdown("neg_grad_plus")
    module = importlib.import_module("experiments.configs.diabetes")
    line = next(line for line in module.__doc__.splitlines() if "neg_grad_plus |" in line)
    assert line in found
    expected = importlib.import_module("experiments.configs.digits_regression").get_config()
    (mean, *_), (std, *_) = expected.expected["amnesiac, 5 epochs"]
    assert f"| amnesiac, 5 epochs | {mean:.2f} ± {std:.2f} |" in measured.markdown(
        "gaussian_amnesiac"
    )


@pytest.mark.parametrize("config", tuned.searched())
def test_tuned_settings_are_on_the_page_of_their_method_and_no_other(config):
    pages = {name: tuned.markdown(name) for name in NAMES}
    for setting, given in tuned.configuration(config).methods.items():
        method = given.get("method", setting)
        start = f"| `{config}` | `{setting}` | "
        assert [name for name, text in pages.items() if start in text] == [method]
        line = next(line for line in pages[method].splitlines() if line.startswith(start))
        for key, value in given.to_dict().items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                assert f"{key} {value:.4g}" in line or f"{key} {value}" in line


def test_a_setting_that_no_search_looked_at_is_called_a_beginning(monkeypatch):
    config = tuned.configuration("tuned_digits")
    config.methods.ssd_other = dict(method="ssd", alpha=7.5)
    monkeypatch.setattr(tuned, "configuration", lambda name: config)
    monkeypatch.setattr(tuned, "searched", lambda: ["tuned_digits"])
    found = tuned.markdown("ssd").splitlines()
    lines = {line.split(" | ")[1]: line for line in found if "`tuned_digits`" in line}
    assert lines["`ssd_other`"].endswith("| alpha 7.5 | a beginning, not searched |")
    assert lines["`ssd`"].endswith(f"| {config.selection} |")


@every_method
def test_every_page_says_where_to_look_for_settings(name):
    found = tuned.markdown(name)
    assert f"`mu.tuning.spaces.{name}`" in found
    for parameter in getattr(mu.tuning.spaces, name):
        assert f"`{parameter}` " in found


def test_a_search_of_a_method_is_on_its_page():
    grids = tuned.grids("iau")
    assert set(grids["digits: iau_plain"]) == {"optimizer", "learning_rate"}
    assert "| `digits.json` | `iau_plain` | optimizer sgd; learning_rate 0.03 to 30 in 7 steps" in (
        tuned.markdown("iau")
    )


def test_every_function_with_a_page_takes_a_model_first():
    for name in NAMES:
        assert next(iter(inspect.signature(getattr(mu.transforms, name)).parameters)) == "model"


@pytest.mark.filterwarnings("ignore")  # of Sphinx about its extensions
def test_directives_put_their_tables_into_a_page(tmp_path):
    pytest.importorskip("myst_parser")
    application = pytest.importorskip("sphinx.application")
    (tmp_path / "ssd.md").write_text(text_of("ssd").partition("## Definition")[0])
    conf = 'extensions = ["myst_parser", "method_pages"]\nroot_doc = "ssd"\n'
    (tmp_path / "conf.py").write_text(conf)
    places = [str(tmp_path / name) for name in ("", "", "out", "trees")]
    app = application.Sphinx(*places, "html", status=None, warning=None)
    app.build()
    html = (tmp_path / "out" / "ssd.html").read_text()
    assert all(f"mu-{directive}" in html for directive in ("needs", "tuned", "measured"))
    record = next(r for r in lines_of(RECORDS[0]) if method_of(r) == "ssd")
    assert f"<p>{record['metrics']['KLoM forget p95']['value']:.2f} [" in html
    assert any(str(RECORDS[0]) in str(path) for path in app.env.dependencies["ssd"])
