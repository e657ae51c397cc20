"""Records and the table of passages that a language model was made to forget."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.lib.passages import Measured, Texts
from mu_jax import datasets, reporting
from mu_jax.reporting import Metric, Oracle
from mu_jax.scoring.shown import shown_texts

ORIGINAL, UNLEARNED, RELEARNED = "do nothing", "undial", "undial, then other texts"
UNSEEN = "texts never seen"
STEPS = "steps of forgetting"
RISE = "rise of the loss of retained texts"


class Rows(NamedTuple):
    """What each model gives, by its name, and how many steps of forgetting were taken."""

    found: dict[str, Measured]
    steps: int


class Group(NamedTuple):
    """What is forgotten together: its name, the positions of its texts, and their file."""

    name: str
    where: np.ndarray
    texts: Texts


def rise(before: Measured, after: Measured, where: np.ndarray) -> float:
    """By which share the mean loss of a token of some texts has risen."""
    sums = [(found.nll * found.tokens)[where].sum() for found in (before, after)]
    return float(sums[1] / sums[0] - 1)


def group_records(
    group: Group, rows: Rows, hyperparameters: dict[str, Any]
) -> list[reporting.Record]:
    """One record for each row; the level of texts never seen stands beside every number."""
    texts = group.texts
    ids = np.array([texts.texts[k].id for k in group.where])
    forget_set = reporting.ForgetSet(
        f"{texts.name}: {group.name}",
        len(ids),
        datasets.digest(np.asarray(group.where)),
        tuple(ids),
    )
    records, selection = [], "chosen on other texts, those of the role choose"
    for name, found in rows.found.items():
        records.append(
            reporting.Record(
                name,
                forget_set,
                seed=hyperparameters["seed"],
                metrics=metrics_of(group, rows.found[ORIGINAL], found)
                | {STEPS: Metric(0 if name == ORIGINAL else rows.steps, unit="steps")},
                hyperparameters={} if name == ORIGINAL else hyperparameters,
                selection="" if name == ORIGINAL else selection,
                cost=reporting.Cost(device=jax.devices()[0].device_kind),
            )
        )
    return records


def group_arrays(group: Group, rows: Rows) -> reporting.Arrays:
    """What each model gives of the texts; an id is the place of a text in its file.

    The losses are nats a token, of "forget", "retain" (texts to measure with), "test" (texts that
    no model has seen) and "held" (of the group and not given to the method), where a model was
    measured there. All that was measured is in `others`, under `row/field`, NaN where it was not.
    """
    places = {"forget": group.where}
    for name, role in (("retain", "measure"), ("test", "unseen"), ("held", "held")):
        places[name] = group.texts.where(role)
    examples = {
        row: {
            name: reporting.Examples(
                where.astype(np.int32), None, found.nll[None, where].astype(np.float32), None, None
            )
            for name, where in places.items()
            if where.size and np.isfinite(found.nll[where]).all()
        }
        for row, found in rows.found.items()
    }
    texts = [text.text for text in group.texts.texts]
    shown = {name: (where, [texts[k] for k in where]) for name, where in places.items()}
    others = {
        f"{row}/{field}": values
        for row, found in rows.found.items()
        for field, values in found._asdict().items()
    }
    return reporting.Arrays(examples, shown=shown_texts(shown), others=others)


def metrics_of(group: Group, original: Measured, found: Measured) -> dict[str, Metric]:
    """The numbers of one model."""
    texts = group.texts
    unseen, measured = texts.where("unseen"), texts.where("measure")
    places = {"": group.where}
    if any(text.role == "held" for text in texts.texts):
        places[" of those held back"] = texts.where("held")
    metrics = {}
    for words, where in places.items():
        for field, unit in FIELDS.items():
            level = getattr(original, field)[unseen]
            metrics[field.replace("_", " ") + words] = Metric(
                float(getattr(found, field)[where].mean()),
                n=int(found.tokens[where].sum()),
                oracle=Oracle(float(level.mean()), float(level.min()), float(level.max())),
                unit=unit,
            )
    metrics[RISE] = Metric(
        rise(original, found, measured),
        n=int(found.tokens[measured].sum()),
        direction="lower is better",
        unit="fraction",
    )
    return metrics


FIELDS = {
    "exact_memorization": "fraction",
    "extraction_strength": "fraction",
    "verbatim": "tokens",
    "nll": "nats",
}
COLUMNS = (
    reporting.Column("n", "scored tokens", 1.0, 0),
    reporting.Column("steps", "of forgetting", 1.0, 0),
    reporting.Column("exact memorization", "%, closer to never seen", 100.0, 1),
    reporting.Column("extraction strength", "%, closer to never seen", 100.0, 1),
    reporting.Column("verbatim", "tokens, closer to never seen", 1.0, 1),
    reporting.Column("loss", "nats a token", 1.0, 2),
    reporting.Column("retained", "%, rise of the loss", 100.0, 2),
)


def table_of(groups: list[Group], rows_of: dict[str, Rows]) -> reporting.Table:
    """Groups and models down; the texts that nobody has seen last."""
    texts = groups[0].texts
    rows = []
    for group in groups:
        every, steps = rows_of[group.name]
        for name, found in every.items():
            change = rise(every[ORIGINAL], found, texts.where("measure"))
            taken = steps if name == UNLEARNED else None
            rows.append(_row(f"{group.name}: {name}", found, group.where, taken, change))
        held = texts.where("held")
        for name, found in every.items() if held.size else ():
            rows.append(_row(f"held back: {name}", found, held))
    original = rows_of[groups[0].name].found[ORIGINAL]
    rows.append(_row(UNSEEN, original, texts.where("unseen")))
    return reporting.Table(
        title=f"What is left of the texts of {texts.name}",
        columns=COLUMNS,
        rows=tuple(rows),
        notes=(
            f"{ORIGINAL}: the original model. {UNSEEN}: in it, the mean of "
            f"{texts.where('unseen').size} texts in the same style.",
            "verbatim: tokens in a row that greedy decoding gives from a beginning of the text.",
            "retained: of other texts, which the method was not given.",
        ),
    )


def _row(
    label: str,
    found: Measured,
    where: np.ndarray,
    steps: int | None = None,
    change: float | None = None,
) -> reporting.Row:
    values = [float(getattr(found, field)[where].mean()) for field in FIELDS]
    numbers = [float(found.tokens[where].sum()), steps, *values, change]
    cells = tuple(reporting.Cell(value, None, 1) for value in numbers)
    return reporting.Row(label, 1, cells, collapsed=False, best=False)
