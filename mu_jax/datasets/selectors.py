"""Selectors of forget requests: from words such as `class:3` or `client:12` to example ids."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

SELECTORS = (
    "class:3,5",
    "random:0.05:seed=0",
    "ids:1,5,10-20",
    "nearest:50:id=6",
    "below:3.5",
)


def select(
    kind: str,
    argument: str,
    index: np.ndarray,
    *,
    targets: np.ndarray | None,
    inputs: np.ndarray | None,
    attributes: Mapping[str, np.ndarray],
) -> list[int] | None:
    """The ids that `kind:argument` names, see `read_request`; None where it is no selector."""
    match kind:
        case "class":
            return _of_classes(argument, index, targets)
        case "below" | "above":
            return _beyond(kind, argument, index, targets)
        case "random":
            return _random(argument, index)
        case "ids":
            return _listed(argument, len(index))
        case "nearest":
            return _nearest(argument, index, inputs)
    if kind in attributes:
        return _with_attribute(kind, argument, index, np.asarray(attributes[kind]))
    return None


def _of_classes(argument: str, index: np.ndarray, targets: np.ndarray | None) -> list[int]:
    if targets is None or not np.issubdtype(np.asarray(targets).dtype, np.integer):
        found = "no targets" if targets is None else f"{np.asarray(targets).dtype} targets"
        raise ValueError(
            f"expected integer class labels for the selector 'class:{argument}', found {found}; "
            "select by ids: or random: instead"
        )
    targets = np.asarray(targets)
    if targets.shape != index.shape:
        raise ValueError(
            f"expected one target per id, found shapes {targets.shape} and {index.shape}; "
            "pass the targets of the same split"
        )
    wanted = [integer(part, f"class:{argument}") for part in argument.split(",")]
    classes = np.unique(targets).tolist()
    absent = [c for c in wanted if c not in classes]
    if absent:
        raise ValueError(
            f"expected classes among {join(classes)}, found {join(absent)}; "
            "choose a class that the training set holds"
        )
    return index[np.isin(targets, wanted)].tolist()


def _beyond(kind: str, argument: str, index: np.ndarray, targets: np.ndarray | None) -> list[int]:
    values = np.zeros(0, np.int64) if targets is None else np.asarray(targets)
    if values.shape != index.shape or not np.issubdtype(values.dtype, np.floating):
        found = "no targets" if targets is None else f"{values.dtype} targets {values.shape}"
        raise ValueError(
            f"expected one number for each example as targets for the selector "
            f"'{kind}:{argument}', found {found}; select by class:, ids: or an attribute instead"
        )
    if not re.fullmatch(r"-?(\d+\.?\d*|\.\d+)", argument):
        raise ValueError(
            f"expected a number at {kind}:{argument}, found {argument[:60]!r}; correct it"
        )
    bound = float(argument)
    return index[values < bound if kind == "below" else values > bound].tolist()


def _with_attribute(name: str, argument: str, index: np.ndarray, values: np.ndarray) -> list[int]:
    """Of these values each must be there; of a range of numbers, `low-high`, at least one."""
    chosen, numeric = np.zeros(len(index), bool), np.issubdtype(values.dtype, np.number)
    for part in map(str.strip, argument.split(",")):
        if numeric and (bounds := re.fullmatch(r"(\d+)-(\d+)", part)):
            found = (values >= int(bounds[1])) & (values <= int(bounds[2]))
        else:
            found = values == (integer(part, f"{name}:{argument}") if numeric else part)
        if not found.any():
            raise ValueError(
                f"expected values of the attribute {name} among "
                f"{join(np.unique(values).tolist())}, found {part!r}; choose one that there is"
            )
        chosen |= found
    return index[chosen].tolist()


def _random(argument: str, index: np.ndarray) -> list[int]:
    match = re.fullmatch(r"([\d.]+)(?::seed=(\d+))?", argument)
    count = _count(match[1] if match else "", len(index))
    if match is None or count is None:
        raise ValueError(
            f"expected random:AMOUNT or random:AMOUNT:seed=N with {_amount(len(index))}, found "
            f"'random:{argument}'; change the amount"
        )
    return permuted(index, int(match[2] or 0))[:count].tolist()


def _count(amount: str, size: int) -> int | None:
    """A count, or a fraction in (0, 1) rounded to one; None if it selects nobody or too many."""
    if not re.fullmatch(r"\d+|\d*\.\d+", amount) or ("." in amount and float(amount) >= 1):
        return None
    count = int(amount) if amount.isdigit() else round(float(amount) * size)
    return count if 1 <= count <= size else None


def _amount(size: int) -> str:
    return (
        f"a fraction in (0, 1) or a count from 1 to {size - 1} that selects at least one of the "
        f"{size} examples"
    )


def permuted(index: np.ndarray, seed: int) -> np.ndarray:
    """The ids in a random order that does not depend on theirs."""
    return np.random.Generator(np.random.PCG64(seed)).permutation(np.sort(index))


def _nearest(argument: str, index: np.ndarray, inputs: np.ndarray | None) -> list[int]:
    match = re.fullmatch(r"([\d.]+):(?:id=(-?\d+)|seed=(\d+))", argument)
    count = _count(match[1] if match else "", len(index))
    if match is None or count is None or inputs is None:
        raise ValueError(
            f"expected nearest:AMOUNT:id=ID or nearest:AMOUNT:seed=N with {_amount(len(index))}, "
            f"and inputs that are arrays, found 'nearest:{argument}'; change the amount, or select "
            "by ids:"
        )
    center = int(match[2]) if match[2] else permuted(index, int(match[3]))[0]
    if center not in index:
        raise ValueError(
            f"expected an id of the training set in 'nearest:{argument}', found {center}; name "
            "another example"
        )
    rows = np.asarray(inputs, np.float64).reshape(len(index), -1)
    distance = np.square(rows - rows[np.flatnonzero(index == center)[0]]).sum(axis=1)
    return index[np.lexsort((index, distance))[:count]].tolist()


def _listed(argument: str, size: int) -> list[int]:
    ids: list[int] = []
    for part in argument.split(","):
        if match := re.fullmatch(r"\s*(\d+)-(\d+)\s*", part):
            first, last = int(match[1]), int(match[2])
            # Checked before the range is built: a typing error could ask for billions of ids.
            if not first <= last < first + size:
                raise ValueError(
                    f"expected a range of ids from low to high with at most the {size} ids of the "
                    f"training set, found {part.strip()!r}; correct the range"
                )
            ids.extend(range(first, last + 1))
        else:
            ids.append(integer(part, f"ids:{argument}"))
    return ids


def integer(text: str, where: str) -> int:
    """A whole number, or a sentence that says where there is none."""
    if not re.fullmatch(r"\s*-?\d{1,19}\s*", text):
        raise ValueError(f"expected an integer at {where}, found {text[:60]!r}; correct it")
    return int(text)


def join(values: Iterable[object], limit: int = 20) -> str:
    """The first values by commas, for a sentence."""
    shown = [str(value) for value in values]
    return ", ".join(shown[:limit]) + (", ..." if len(shown) > limit else "")
