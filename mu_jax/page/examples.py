"""The examples of a forget set for the eye: what each row says of each, beside retrained models."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax import plots
from mu_jax.page.gathering import listed
from mu_jax.plots.verdicts import AS_RETRAINED, OVER, SPREAD, UNDER
from mu_jax.reporting import Arrays, Examples, Shown
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN

MOST = 3_000  # examples of a page
MOST_BYTES = 1_500_000  # of images
STANDS = {AS_RETRAINED: 0, UNDER: 1, OVER: -1}
SETS = ("forget", "retain", "test")


def examples_of(arrays: Arrays | None) -> dict[str, Any] | str:
    """What the page needs to show any two rows side by side, or the sentence why it cannot.

    Whether a row has forgotten an example is told by its margins, `plots.verdicts`, and where there
    are none by its losses in the same way.

    Returns:
        JSON values: `measure`, `rows`, `start`, `notes`, `shown`, `sets`; by set the ids, targets,
        the band of retrained models, and by row means, predictions, the share of models that
        predict so, and where the row stands to the band (1 under-forgotten, 0, -1 over-forgotten).
    """
    if arrays is None:
        return "No arrays are kept beside these records, so single examples cannot be shown."
    rows, notes = _rows(arrays)
    if len(rows) < 2:
        return "Two models side by side need arrays of two rows, and there are fewer."
    margins = all(part.margins is not None for sets in rows.values() for part in sets.values())
    measure = "margin" if margins else "loss"
    first = next(iter(rows.values()))
    common = [name for name in SETS if all(name in found for found in rows.values())]
    shares = _shares({name: first[name].ids.size for name in common if first[name].ids.size})
    sets = {}
    for name in (one for one in common if one in shares):
        ids, most = first[name].ids, shares[name]
        chosen = _chosen(ids, most, None if name == "test" else arrays.shown)
        if most < ids.size:
            notes.append(f"{most} of {ids.size} examples of the {name} set are here.")
        sets[name] = _set({row: found[name] for row, found in rows.items()}, chosen, measure)
    if not sets:
        return "The arrays of these rows have no example in common, so none can be compared."
    if not any("band" in found for found in sets.values()):
        notes.append(
            "There are fewer than two retrained models that can be read: nobody can tell which "
            "examples are forgotten."
        )
    return {
        "measure": measure,
        "rows": list(rows),
        "start": _start(list(rows)),
        "sets": sets,
        "notes": notes,
        "shown": _shown(arrays.shown, sets, notes),
    }


def _rows(arrays: Arrays) -> tuple[dict[str, Mapping[str, Examples]], list[str]]:
    """Rows that speak of the same examples as the first one, and a sentence on the others."""
    rows: dict[str, Mapping[str, Examples]] = {}
    other = []
    for name, sets in arrays.examples.items():
        if name == CONSTANT:
            continue
        first = next(iter(rows.values()), sets)
        if all(one in sets and np.array_equal(first[one].ids, sets[one].ids) for one in first):
            rows[name] = sets
        else:
            other.append(name)
    ordered = {name: rows[name] for name in (RETRAIN, NOTHING) if name in rows} | rows
    if not other:
        return ordered, []
    return ordered, [f"Not here, as their arrays are of other examples: {listed(other)}."]


def _start(rows: Sequence[str]) -> tuple[str, str]:
    """Which two rows are shown first: the untouched model and the first method."""
    methods = [row for row in rows if row not in (RETRAIN, NOTHING)]
    found = [*(row for row in (NOTHING, RETRAIN) if row in rows), *methods]
    return found[0], methods[0] if methods else found[1]


def _shares(sizes: Mapping[str, int]) -> dict[str, int]:
    """How many examples of each set the page has: small sets whole, the others as many each."""
    left, shares = MOST, {}
    for place, name in enumerate(sorted(sizes, key=lambda name: sizes[name])):
        shares[name] = min(sizes[name], left // (len(sizes) - place))
        left -= shares[name]
    return shares


def _chosen(ids: np.ndarray, most: int, shown: Shown | None) -> np.ndarray:
    """Places of that many examples: what can be looked at first, then others evenly."""
    if ids.size <= most:
        return np.arange(ids.size)
    has = np.zeros(ids.size, bool) if shown is None else np.isin(ids, shown.ids)
    places = np.flatnonzero(has)[:most]
    rest = np.flatnonzero(~has)
    even = rest[np.linspace(0, rest.size - 1, most - places.size).astype(int)]
    return np.sort(np.concatenate([places, even]))


def _set(rows: Mapping[str, Examples], chosen: np.ndarray, measure: str) -> dict[str, Any]:
    first = next(iter(rows.values()))
    found: dict[str, Any] = {
        "ids": first.ids[chosen].tolist(),
        "targets": _words(_taken(first.targets, chosen), len(chosen)),
        "rows": {name: _row(part, chosen, measure) for name, part in rows.items()},
    }
    oracle = _values(rows[RETRAIN], measure)[:, chosen] if RETRAIN in rows else ()
    if len(oracle) < 2:
        return found
    low, high = np.percentile(oracle, SPREAD, axis=0)
    found["band"] = {"low": _plain(low), "high": _plain(high), "models": len(oracle)}
    sign = 1 if measure == "margin" else -1
    for name, part in rows.items():
        values = _values(part, measure)[:, chosen]
        if len(values):
            told = plots.verdicts(sign * values, sign * oracle)
            found["rows"][name]["stands"] = [STANDS[word] for word in told.tolist()]
    return found


def _values(part: Examples, measure: str) -> np.ndarray:
    """Margins or losses [N', n] of the models that can be read."""
    values = np.asarray(part.margins if measure == "margin" else part.losses, np.float64)
    return values[np.isfinite(values).all(axis=1)]


def _row(part: Examples, chosen: np.ndarray, measure: str) -> dict[str, Any]:
    values = _values(part, measure)
    mean = values.mean(axis=0)[chosen] if len(values) else np.full(len(chosen), np.nan)
    found = {"mean": _plain(mean), "models": len(part.losses), "readable": len(values)}
    said = part.predictions
    if isinstance(said, np.ndarray) and said.ndim >= 2:
        found["says"], found["share"] = _majority(said[:, chosen])
    return found


def _majority(said: np.ndarray) -> tuple[list[str], list[float | None] | None]:
    """What most of the models say of each example, and which share of them; of numbers the mean."""
    if said.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            return _words(said.mean(axis=0), said.shape[1]), None
    if said.ndim > 2:  # yes or no to several labels
        return _words(said.mean(axis=0) > 0.5, said.shape[1]), None
    labels = np.unique(said)
    counts = np.stack([(said == label).sum(axis=0) for label in labels])
    share = counts.max(axis=0) / len(said)
    return _words(labels[counts.argmax(axis=0)], said.shape[1]), _plain(share)


def _taken(targets: Any, chosen: np.ndarray) -> Any:
    return np.asarray(targets)[chosen] if isinstance(targets, np.ndarray) else None


def _words(values: Any, number: int) -> list[str]:
    """One text an example: a class, numbers, or the labels to which the answer is yes."""
    if values is None:
        return [""] * number
    if values.ndim > 1 and values.dtype.kind == "b":
        return [", ".join(map(str, np.flatnonzero(one))) or "no label" for one in values]
    if values.ndim > 1:
        return [", ".join(f"{x:.4g}" for x in one.ravel()[:4]) for one in values]
    return [f"{x:.4g}" if values.dtype.kind == "f" else str(x) for x in values.tolist()]


def _plain(values: np.ndarray) -> list[float | None]:
    """Numbers to four digits; None for what is no number."""
    return [float(f"{x:.4g}") if np.isfinite(x) else None for x in values.tolist()]


def _shown(shown: Shown | None, sets: Mapping[str, Any], notes: list[str]) -> dict[str, Any] | None:
    """The examples themselves, those of the forget set first, as far as a page has room."""
    if shown is None or not len(shown.ids):
        return None
    known = _told_apart(sets)
    wanted = [i for name in known for i in sets[name]["ids"]]
    place = {int(i): k for k, i in enumerate(shown.ids.tolist())}
    places = [place[i] for i in dict.fromkeys(wanted) if i in place]
    content = shown.content
    if shown.kind == "image":
        most = max(MOST_BYTES // max(int(np.prod(content.shape[1:])), 1), 1)
        if len(places) > most:
            notes.append(
                f"{most} of {len(places)} pictures are here, as many as a page has room for."
            )
        places = places[:most]
    ids = shown.ids[places].tolist()
    found = {"kind": shown.kind, "ids": ids, "sets": known}
    if shown.kind != "image":
        return {**found, "texts": [str(content[k]) for k in places]}
    images = np.ascontiguousarray(content[places], np.uint8)
    return {
        **found,
        "shape": list(images.shape[1:]),
        "bytes": base64.b64encode(images.tobytes()).decode(),
    }


def _told_apart(sets: Mapping[str, Any]) -> list[str]:
    """The sets of which an id says which example it is: test examples may have ids of their own."""
    train = {i for name in ("forget", "retain") if name in sets for i in sets[name]["ids"]}
    return [n for n in SETS if n in sets and (n != "test" or not train & set(sets[n]["ids"]))]
