"""The figures of a page: which there are, how to read each, and the sentence in place of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mu_jax import plots
from mu_jax.page.embedding import pack
from mu_jax.page.gathering import Part
from mu_jax.reporting import Arrays
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN


class Choice(NamedTuple):
    """One chart of a figure. name: of the model, or "". spec: packed, or "" and a sentence."""

    name: str
    spec: str
    described: str
    sentence: str = ""


class Figure(NamedTuple):
    """A section of the page. read: how to read it. choices: one, or one for each model.

    left_out: sentences on the models of which there is no chart, where there is one of others.
    """

    key: str
    heading: str
    read: str
    choices: tuple[Choice, ...]
    left_out: tuple[str, ...] = ()

    @property
    def nothing(self) -> tuple[str, ...]:
        """The sentences to show in place of the figure; empty where a chart can be drawn."""
        if any(choice.spec for choice in self.choices):
            return ()
        return tuple(dict.fromkeys(choice.sentence for choice in self.choices))


class _Kind(NamedTuple):
    key: str
    heading: str
    read: str
    draw: Callable[..., Any]


_OF_RECORDS = (
    _Kind(
        "tradeoff",
        "Forgetting against utility",
        "A method is good where the bands of retrained models cross, neither above nor below; each "
        "faint point is one seed.",
        lambda part: plots.tradeoff(part.rows),
    ),
    _Kind(
        "run_time",
        "Run time",
        "Shorter is better, and only as a share of retraining does it say something; work that "
        "later requests share is drawn apart.",
        lambda part: plots.run_time(part.rows),
    ),
    _Kind(
        "landscape",
        "Settings that were tried",
        "One point is one setting of the hyper-parameters: a method is robust where most of its "
        "points are low, not where the best one is.",
        lambda part: plots.landscape(part.rows),
    ),
)
_OF_ARRAYS = (
    _Kind(
        "klom",
        "KLoM, example by example",
        "Further left is closer to retraining, down to the dashed floor, which a perfect unlearner "
        "scores by chance; the tail tells more than the middle.",
        lambda part, arrays: plots.klom(part.rows, arrays),
    ),
    _Kind(
        "membership",
        "Membership attack",
        "The nearer a curve runs to the band of retrained models, the less an attacker can tell; "
        "look at the left end, where few are accused wrongly.",
        lambda part, arrays: plots.membership(arrays),
    ),
    _Kind(
        "losses",
        "Losses before, after and retrained",
        "The losses of the forget set should be spread as those of retrained models are: too small "
        "is remembered, too large is a mark that something was removed.",
        lambda part, arrays: plots.losses(arrays),
    ),
    _Kind(
        "classes_test",
        "Change of each class, test examples",
        "Bars near zero are as retrained; a class that has fallen has paid for the forgetting.",
        lambda part, arrays: plots.classes(arrays, set="test"),
    ),
    _Kind(
        "classes_train",
        "Change of each class, retained examples",
        "As for test examples: near zero is as retrained.",
        lambda part, arrays: plots.classes(arrays, set="retain"),
    ),
    _Kind(
        "relearning",
        "Relearning",
        "A curve that rises faster than that of retrained models shows that the knowledge was "
        "hidden, not removed.",
        lambda part, arrays: plots.relearning(arrays),
    ),
)
_OF_ROWS = (
    _Kind(
        "confusion",
        "What the forget set is taken for",
        "Compare with the retrained models beside it: mistakes should be as theirs.",
        lambda arrays, row: plots.confusion(arrays, row),
    ),
    _Kind(
        "similarity",
        "Layer by layer: similarity to the original and to retraining",
        "In the band a layer is as like to a retrained model as another retrained model is.",
        lambda arrays, row: plots.similarity(arrays, row),
    ),
    _Kind(
        "edits",
        "Where the edit touched the network",
        "Leaf by leaf: which share of its entries has changed, how far, and whether towards a "
        "retrained model.",
        lambda arrays, row: plots.edits(arrays, row),
    ),
    _Kind(
        "ratios",
        "The ratio by which entries are chosen",
        "Entries beyond the line are edited; a line in a dense part makes the result depend on it.",
        lambda arrays, row: plots.ratios(arrays, row),
    ),
)
_DRIFT = _Kind(
    "drift",
    "Drift over requests",
    "Each request is unlearned from what the one before has left: a line that leaves the band of "
    "retrained models says after how many requests to retrain. Crosses are rows that collapsed.",
    lambda records: plots.drift(records),
)


def figures_of(part: Part) -> list[Figure]:
    """All figures of a forget set, in order of the page; of a sequence its drift before all."""
    drifted = [_single(_DRIFT, part.sequence)] if part.sequence else []
    first, *others = [_single(kind, part) for kind in _OF_RECORDS]
    if part.arrays is None:
        return [*drifted, first, *others]
    found = [_single(kind, part, part.arrays) for kind in _OF_ARRAYS]
    found += [_by_row(kind, part.arrays) for kind in _OF_ROWS]
    return [*drifted, first, *found, *others]


def drift_of(parts: Sequence[Part]) -> Figure:
    """The figure over all requests."""
    return _single(_DRIFT, [record for part in parts for record in part.rows])


def themes() -> dict[str, Any]:
    """How charts look on light and on dark ground."""
    return {"light": plots.theme(dark=False), "dark": plots.theme(dark=True)}


def _single(kind: _Kind, *arguments: Any) -> Figure:
    return Figure(kind.key, kind.heading, kind.read, (_draw("", kind.draw, *arguments),))


def _by_row(kind: _Kind, arrays: Arrays) -> Figure:
    rows = sorted(_rows(arrays), key=lambda row: row == NOTHING)  # where something was done first
    choices = tuple(_draw(row, kind.draw, arrays, row) for row in rows)
    drawn = tuple(choice for choice in choices if choice.spec)
    shown = drawn or choices or (_NO_ROWS,)
    return Figure(kind.key, kind.heading, kind.read, shown, _left_out(choices) if drawn else ())


def _left_out(choices: Sequence[Choice], most: int = 3) -> tuple[str, ...]:
    sentences = [choice.sentence for choice in choices if not choice.spec]
    if len(sentences) <= most:
        return tuple(sentences)
    return (*sentences[:most], f"{len(sentences) - most} more models have no chart here.")


def _rows(arrays: Arrays) -> list[str]:
    groups = (arrays.examples, arrays.similarity, arrays.edits, arrays.ratios)
    names = dict.fromkeys(name for group in groups for name in group)
    return [name for name in names if name not in (RETRAIN, CONSTANT)]


_NO_ROWS = Choice("", "", "", "Nothing to draw: the arrays of this run have no rows.")


def _draw(name: str, draw: Callable[..., Any], *arguments: Any) -> Choice:
    try:
        chart = draw(*arguments)
    except plots.NothingToDraw as error:
        return Choice(name, "", "", str(error))
    spec = chart.to_dict()
    for field in ("config", "$schema"):
        spec.pop(field, None)
    described = str(spec.get("description", ""))
    return Choice(name, pack(spec), described)
