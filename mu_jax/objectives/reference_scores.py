"""Reference scores kept as data: of which rows they are, and of which variables."""

from __future__ import annotations

import dataclasses
import os
import zlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from mu_jax import _named_arrays as named_arrays
from mu_jax.data.batches import ids_of
from mu_jax.data.forget_retain import Data, with_targets
from mu_jax.data.tokens import Preference, like_parts, parts_of
from mu_jax.loops.predict import all_targets
from mu_jax.statistics.accumulator import fingerprint_of_numbers
from mu_jax.token_losses import check_targets

PyTree = Any
_WHAT = "reference scores"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReferenceScores:
    """What a reference model said of rows of tokens; made by `keep_reference`.

    Attributes:
      nll: f32[n], the summed negative log-likelihood of the scored tokens of each row, or f32[n, S]
        of packed documents; a `Preference` of both for pairs.
      index: i32[n], the ids of the rows.
      content: u32[n], a checksum of the tokens of each row and of what is scored of them.
      fingerprint: u32[2] of the variables, as `mu.statistics.fingerprint` computes it.
    """

    nll: PyTree
    index: np.ndarray
    content: np.ndarray
    fingerprint: np.ndarray

    def __repr__(self) -> str:
        words = "".join(f"{int(word):08x}" for word in self.fingerprint)
        return f"ReferenceScores({len(self.index)} rows, of variables {words})"

    def attach(self, data: Data, variables: PyTree) -> Data:
        """The rows with these scores as `TokenTargets.reference`.

        Args:
          data: all or some of the rows that were scored, in any order.
          variables: those of the reference model.

        Raises:
          ValueError: scores of other variables; a row without a score; a row whose tokens, or what
            is scored of them, have changed. What stands behind the last scored token may differ.

        Cost: a pass over the targets on the host. Call it outside `jit`.
        """
        if not np.array_equal(self.fingerprint, np.asarray(fingerprint_of_numbers(variables))):
            raise ValueError(
                f"expected scores of these variables, found {self!r}: compute them again, or give "
                "the reference model they came from"
            )
        targets = _targets(data)
        index = np.asarray(ids_of(data))
        order = np.argsort(self.index, kind="stable")
        place = np.searchsorted(self.index, index, sorter=order)
        rows = order[np.minimum(place, len(order) - 1)]
        self._check_rows(index, rows, _content(targets))
        parts = zip(parts_of(targets), parts_of(self.nll))
        given = [part._replace(reference=jnp.asarray(nll[rows])) for part, nll in parts]
        return with_targets(data, like_parts(targets, given))

    def _check_rows(self, index: np.ndarray, rows: np.ndarray, content: np.ndarray) -> None:
        missing = index[self.index[rows] != index]
        if missing.size:
            raise ValueError(
                f"expected a score of every row, found none for {missing.size} of {len(index)} "
                f"(id {missing[0]}): compute the scores of this set"
            )
        changed = index[self.content[rows] != content]
        if changed.size:
            raise ValueError(
                f"expected scores of these rows, found others for {changed.size} of {len(index)} "
                f"(id {changed[0]}), whose tokens or scored tokens have changed: compute the "
                "scores again"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an `.npz` file, whole or not at all."""
        names = ("winner", "loser") if isinstance(self.nll, Preference) else ("nll",)
        arrays: dict[str, Any] = dict(zip(names, parts_of(self.nll)))
        arrays |= {"index": self.index, "content": self.content, "fingerprint": self.fingerprint}
        named_arrays.save(path, _WHAT, arrays)


def keep_reference(nll: PyTree, data: Data, variables: PyTree) -> ReferenceScores:
    """Scores of a reference model with the rows and the variables to which they belong.

    A score that is one number for a row or a document stands for the whole reference model in NPO
    and DPO: with the scores kept, the model before unlearning need be neither in memory nor run
    again, for every grid of hyper-parameters and every stopped run.

    Args:
      nll: f32[n], summed losses of the scored tokens of each row of `data`, in its order, or f32[n,
        S] of packed documents; a `Preference` of both for pairs.
      data: `Batches` or a `Stream` of rows of tokens.
      variables: those of the reference model.

    Returns:
      `ReferenceScores`: `save` them, or `attach` them to these rows or some of them.

    Raises:
      TypeError: targets that are no `TokenTargets`.
      ValueError: scores of another shape, or that are not finite.

    Cost: a pass over the targets and one over the variables.

    Example:
      >>> import numpy as np, mu_jax as mu
      >>> from mu_jax.data.tokens import TokenTargets
      >>> tokens = np.array([[0, 1], [2, 3]])
      >>> targets = TokenTargets(tokens, np.array([[0.0, 1.0], [0.0, 1.0]]))
      >>> data = mu.batches(tokens, targets, batch_size=2, index=[7, 9])
      >>> before = mu.Variables(np.zeros((4, 4), np.float32))
      >>> kept = keep_reference(np.full(2, np.log(4)), data, before)
      >>> kept.attach(data.take([1]), before).targets.reference
      Array([1.3862944], dtype=float32)
      >>> kept.attach(data, mu.Variables(np.ones((4, 4), np.float32)))
      Traceback (most recent call last):
          ...
      ValueError: expected scores of these variables, found ReferenceScores(2 rows, of variables ...
    """
    targets, index = _targets(data), np.asarray(ids_of(data))
    scores = [np.asarray(part, np.float32) for part in parts_of(nll)]
    if len(scores) != len(parts_of(targets)) or any(
        part.ndim not in (1, 2) or len(part) != len(index) for part in scores
    ):
        found = ", ".join(str(part.shape) for part in scores)
        raise ValueError(
            f"expected scores f32[{len(index)}] or f32[{len(index)}, S] for each "
            f"{'answer' if isinstance(targets, Preference) else 'row'}, found {found}: give what "
            "the reference model says of these rows"
        )
    for part in scores:
        bad = index[~np.isfinite(part).reshape(len(index), -1).all(axis=1)]
        if bad.size:
            raise ValueError(
                f"expected finite scores, found NaN or infinity for {bad.size} of {len(index)} "
                f"rows (id {bad[0]}): check the tokens and the variables"
            )
    return ReferenceScores(
        like_parts(targets, scores),
        index,
        _content(targets),
        np.asarray(fingerprint_of_numbers(variables)),
    )


def load_reference(path: str | os.PathLike[str]) -> ReferenceScores:
    """The scores in a file that `ReferenceScores.save` wrote.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is another file, or damaged.
    """
    with named_arrays.load(path, _WHAT, "compute the scores again") as arrays:
        own = [arrays.pop(name) for name in ("index", "content", "fingerprint")]
        nll = arrays["nll"] if "nll" in arrays else Preference(arrays["winner"], arrays["loser"])
        return ReferenceScores(nll, *own)


def _targets(data: Data) -> PyTree:
    targets = all_targets(data)
    for part in parts_of(targets):
        check_targets(part)
    return targets


def _content(targets: PyTree) -> np.ndarray:
    """A checksum of each row up to its last scored token, u32[n]."""
    found: list[int] = []
    for part in parts_of(targets):
        tokens, scored = np.asarray(part.tokens, np.int32), np.asarray(part.mask) != 0
        length = scored.shape[1] - np.argmax(scored[:, ::-1], axis=1)
        length = np.where(scored.any(axis=1), length, 0)
        start = found or [0] * len(tokens)
        found = [
            zlib.crc32(line[:n].tobytes(), zlib.crc32(mark[:n].tobytes(), before))
            for line, mark, n, before in zip(tokens, scored, length, start)
        ]
    return np.array(found, np.uint32)
