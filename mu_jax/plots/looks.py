"""One color and one shape a method, the same in every figure and every report."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from mu_jax.plots._altair import alt
from mu_jax.plots.theme import GRAY, INK, adaptive
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN

# Told apart with normal sight and without red, green or blue cones: CIELAB distance of any two,
# and of any and the gray, at least 20. Contrast with the ground at least 3.
HUES = (
    ("#1645ca", "#4993e6"),
    ("#b94125", "#dd5337"),
    ("#00aa5a", "#32d27f"),
    ("#9952a0", "#b85ea5"),
    ("#b78d00", "#d9b84a"),
    ("#3786ff", "#9dd4ee"),
    ("#7d0113", "#b04759"),
)
SHAPES = (
    *("circle", "square", "diamond", "triangle-up", "cross"),
    *("triangle-down", "triangle-right", "triangle-left"),
)
PLACES = len(HUES) * len(SHAPES)  # all pairs, as 7 and 8 have no common divisor
# What most reports have: no two of the first seven share a color.
FAMILIAR = (
    *("ssd", "finetune", "scrub", "iau", "dmm", "blindspot", "gradient_ascent"),
    *("salun", "neg_grad_plus", "random_labels", "bad_teacher", "l1_sparse", "influence", "npo"),
)


class Look(NamedTuple):
    """color: a hexadecimal one, or an expression of Vega that suits the ground. shape: of Vega."""

    color: Any
    shape: str


SPECIAL = {
    RETRAIN: Look(INK, "circle"),
    NOTHING: Look(GRAY, "square"),
    CONSTANT: Look(GRAY, "cross"),
}


def looks(methods: Iterable[str]) -> dict[str, Look]:
    """The color and the shape of each method.

    Retrained models are black, white on a dark ground, the untouched model is gray. Other names
    have one of 56 pairs of seven colors and eight shapes: familiar methods a fixed one, all others
    one that follows from the name alone, or the next free one where two names of one figure share
    it. Beyond 56 methods pairs are shared.

    Args:
        methods: names, in any order.

    Example:
        >>> looks(["retrain", "ssd"])["ssd"].shape
        'circle'
        >>> few, many = looks(["ssd"]), looks(["dmm", "iau", "scrub", "ssd"])
        >>> few["ssd"] == many["ssd"]
        True
    """
    names = list(dict.fromkeys(methods))
    found = {name: SPECIAL[name] for name in names if name in SPECIAL}
    familiar = [name for name in FAMILIAR if name in names]
    places = {name: FAMILIAR.index(name) for name in familiar}
    for name in sorted(set(names) - set(found) - set(familiar)):
        places[name] = _place(name, set(places.values()))
    found |= {name: _look(place) for name, place in places.items()}
    return {name: found[name] for name in names}


def _place(name: str, taken: set[int]) -> int:
    free = PLACES - len(FAMILIAR)
    start = zlib.crc32(name.encode()) % free
    order = [len(FAMILIAR) + (start + step) % free for step in range(free)]
    order += range(len(FAMILIAR))
    return next((place for place in order if place not in taken), order[0])


def _look(place: int) -> Look:
    return Look(adaptive(*HUES[place % len(HUES)]), SHAPES[place % len(SHAPES)])


def color(labels: Mapping[str, str], field: str = "row", **options: Any) -> Any:
    """The color of each label, which is that of its method; `labels` has the method of each."""
    found = looks(labels.values())
    scale = alt.Scale(domain=list(labels), range=[found[m].color for m in labels.values()])
    return alt.Color(f"{field}:N", scale=scale, **_legend(labels, options))


def shape(labels: Mapping[str, str], field: str = "row", **options: Any) -> Any:
    """The shape of each label, as `color`."""
    found = looks(labels.values())
    scale = alt.Scale(domain=list(labels), range=[found[m].shape for m in labels.values()])
    return alt.Shape(f"{field}:N", scale=scale, **_legend(labels, options))


def _legend(labels: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, Any]:
    columns = 1 + (len(labels) - 1) // 20
    return {"title": "model", "legend": alt.Legend(columns=columns), **options}
