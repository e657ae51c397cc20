"""Examples for the eye: small images, texts and rows of tables, as many as fit a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from mu_jax.reporting.arrays import Shown

BYTES = 1_500_000  # of images, or of the letters of texts
SIDE = 64  # pixels, the longest side of an image that is shown
LETTERS = 600  # of a text
COLUMNS = 12  # of the row of a table


def chosen(ids: Mapping[str, np.ndarray], most: int, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Which examples are shown: all to forget if half of the room is enough, else a sample.

    Args:
        ids: i32[n] by set, "forget" first. most: the room, in examples. seed: of the samples, which
            are drawn without replacement.

    Returns:
        Positions by set, in ascending order; an id that an earlier set has is in no later one.

    Example:
        >>> found = chosen({"forget": np.arange(3), "retain": np.arange(2, 90)}, 8)
        >>> found["forget"].tolist(), found["retain"].size, 0 in found["retain"]
        ([0, 1, 2], 5, False)
    """
    random, taken = np.random.default_rng(seed), np.zeros(0, np.int32)
    found = {}
    for place, (name, each) in enumerate(ids.items()):
        free = np.flatnonzero(~np.isin(each, taken))
        last = place == len(ids) - 1
        room = most if last else most // 2
        found[name] = np.sort(random.permutation(free)[:room])
        most -= found[name].size
        taken = np.concatenate([taken, each])
    return found


def shown_inputs(sets: Mapping[str, tuple[np.ndarray, np.ndarray]], *, seed: int = 0) -> Shown:
    """Inputs of examples as images where they are some, else as rows of numbers.

    Images are [n, H, W, C] of 1, 3 or 4 channels (of 4, the first 3 are shown). They are reduced to
    64 pixels a side by leaving out pixels, and 0 to 255 are the smallest and the largest number of
    all that are shown.

    Args:
        sets: ids and inputs [n, ...] by set, "forget" first. seed: of the samples.

    Example:
        >>> images = np.linspace(0, 1, 3 * 100 * 80).reshape(3, 100, 80, 1)
        >>> found = shown_inputs({"forget": (np.array([4, 7, 9]), images)})
        >>> found.kind, found.content.shape, found.content.dtype, found.ids.tolist()
        ('image', (3, 50, 40, 1), dtype('uint8'), [4, 7, 9])
        >>> shown_inputs({"forget": (np.array([4]), np.array([[0.5, 2.0]]))}).content.tolist()
        ['0.5, 2']
    """
    shape = next(iter(sets.values()))[1].shape[1:]
    is_image = len(shape) == 3 and shape[-1] in (1, 3, 4)
    step = -(-max(shape[:2]) // SIDE) if is_image else 1
    each = int(np.prod([-(-x // step) for x in shape[:2]])) * 3 if is_image else 16 * COLUMNS
    ids, parts = _taken(sets, BYTES // each, seed)
    if is_image:
        thumbs = np.concatenate([part[:, ::step, ::step, :3] for part in parts])
        return Shown(ids, "image", _bytes(thumbs))
    rows = [_row(values) for part in parts for values in part]
    return Shown(ids, "row", np.array(rows, str))


def shown_texts(
    sets: Mapping[str, tuple[np.ndarray, Sequence[str]]], *, seed: int = 0
) -> Shown | None:
    """Texts, of each the first 600 letters; None where there are none.

    Args:
        sets: ids and texts by set, "forget" first. seed: of the samples.
    """
    sets = {name: each for name, each in sets.items() if len(each[1])}
    if not sets:
        return None
    arrays = {name: (ids, np.array(texts, object)) for name, (ids, texts) in sets.items()}
    ids, parts = _taken(arrays, BYTES // (4 * LETTERS), seed)
    return Shown(ids, "text", np.array([text[:LETTERS] for part in parts for text in part], str))


def _taken(
    sets: Mapping[str, tuple[np.ndarray, np.ndarray]], most: int, seed: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    where = chosen({name: ids for name, (ids, _) in sets.items()}, most, seed=seed)
    ids = np.concatenate([ids[where[name]] for name, (ids, _) in sets.items()])
    return ids.astype(np.int32), [values[where[name]] for name, (_, values) in sets.items()]


def _bytes(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    low, high = np.nanmin(images), np.nanmax(images)
    scaled = (images - low) / (high - low if high > low else 1)
    return np.round(255 * np.nan_to_num(scaled)).astype(np.uint8)


def _row(values: np.ndarray) -> str:
    """The first numbers of an example."""
    flat = np.ravel(values)
    text = ", ".join(f"{value:.4g}" for value in flat[:COLUMNS].tolist())
    return text + (f", ... ({flat.size} numbers)" if flat.size > COLUMNS else "")
