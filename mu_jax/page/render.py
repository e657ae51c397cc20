"""One HTML file from runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from mu_jax._version import __version__
from mu_jax.page.embedding import SCRIPTS, asset, drawing_library, pack, pack_text
from mu_jax.page.examples import examples_of
from mu_jax.page.figures import drift_of, figures_of, themes
from mu_jax.page.gathering import Part, gather, listed, model_count
from mu_jax.page.record_lines import as_json_lines, record_lines
from mu_jax.page.verdict import verdict
from mu_jax.reporting import Run


def render(runs: Sequence[Run], *, title: str = "Unlearning report") -> str:
    """The report of one or several runs as one self-contained HTML page.

    The page needs no network and no server: charts, scripts, style, arrays and records stand in it.
    For each forget set it has a table of verdicts (retrained models first, rows that collapsed grey
    and without a rank, a definition behind every column), the figures of `mu_jax.plots`, any two
    rows side by side down to single examples, and the records themselves. What cannot be shown has
    a sentence in its place. Charts are drawn when they come into view. Equal runs give equal bytes.

    Args:
        runs: records with the arrays behind them, as `reporting.read_run` gives them; those of one
            forget set stand in one table.
        title: of the page.

    Returns:
        The text of the file.

    Raises:
        ValueError: no records.

    Cost: KLoM of every row, a few charts a row, and about two seconds for the library that draws.
    The page has 0.9 MB of that library, at most 3,000 examples and 1.5 MB of their images.
    """
    parts = gather(runs)
    alone = [part for part in parts if not part.sequence]
    return _template("page.html").render(
        title=title,
        library=_markup(drawing_library()),
        scripts=[_markup(asset(name)) for name in SCRIPTS],
        style=_markup(asset("page.css")),
        themes=pack(themes()),
        runs=[_provenance(run) for run in runs],
        version=__version__,
        parts=[_view(part, number) for number, part in enumerate(parts)],
        drift=drift_of(alone) if len(alone) > 1 else None,
    )


def _template(name: str) -> Any:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mu_jax.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def _markup(text: str) -> Markup:
    """Text of our own files, which is markup already."""
    return Markup(text)


def _view(part: Part, number: int) -> dict[str, Any]:
    """What the template shows of one forget set."""
    found = examples_of(part.arrays)
    return {
        "key": f"set{number}",
        "forget_set": part.forget_set,
        "ids": listed(part.forget_set.ids, 20),
        "notes": part.notes,
        "models": model_count(part.arrays),
        "verdict": verdict(part.rows, part.beside),
        "figures": figures_of(part),
        "has_arrays": part.arrays is not None,
        "why_no_examples": found if isinstance(found, str) else "",
        "examples": found if isinstance(found, dict) else None,
        "packed": "" if isinstance(found, str) else pack(found),
        "lines": record_lines(part.sequence or part.records),
        "json_lines": pack_text(as_json_lines(part.sequence or part.records)),
    }


def _provenance(run: Run) -> dict[str, Any]:
    """Where the numbers of a run come from, line by line."""
    records = run.records
    seeds = sorted({record.seed for record in records})
    return {
        "digest": run.digest or listed(sorted({r.config_hash for r in records} - {""})),
        "ids": listed(sorted({r.run_id for r in records} - {""})),
        "records": len(records),
        "methods": listed(dict.fromkeys(r.method for r in records), 20),
        "seeds": listed(map(str, seeds), 12),
        "devices": listed(sorted({r.cost.device for r in records} - {""})),
        "arrays": listed(run.arrays),
    }
