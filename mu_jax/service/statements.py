"""What an operator states of one swap: asked, done, measured, and with which arrays and code."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax.data import ids
from mu_jax.service import fingerprints, guarantees
from mu_jax.service.guarantees import APPROXIMATE, Guarantee
from mu_jax.service.requests import Request
from mu_jax.store import commits

PyTree = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Statement:
    """What a certificate says of one swap.

    Attributes:
      asked: the requests, `work.requests`. Their words are in the certificate: where people must
        not be named there, let requests name them by pseudonyms.
      forgotten: training ids that the model has forgotten and its parent has not, `work.forget`.
        Their number and their digest are in the certificate, and they are not.
      method: by name, such as `"ssd"`.
      aim: `transform.aim`, removal or suppression.
      parameters: of the method, with its seed.
      parent, version: of the store.
      guarantee: what the method promises. Default: `APPROXIMATE`, nothing.
      measured: finite numbers, truth values and words by name; a measure that failed is left out
        here, and named in `notes`.
      thresholds: what was asked of the measures, by the same names.
      inputs, outputs: trees of arrays by name, such as `{"variables": ..., "retain": ...}`; the
        digest of each array is in the certificate.
      code: further code that decides the result by name, such as the commit of your own.
      notes: further sentences on what is not claimed.
    """

    asked: Sequence[Request]
    forgotten: Iterable[int] | np.ndarray
    method: str
    aim: str
    parameters: Mapping[str, Any]
    parent: int | None
    version: int
    guarantee: Guarantee = APPROXIMATE
    measured: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    thresholds: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, PyTree] = dataclasses.field(default_factory=dict)
    outputs: Mapping[str, PyTree] = dataclasses.field(default_factory=dict)
    code: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    def record(self) -> dict[str, Any]:
        """The statement as JSON holds it, with digests in place of arrays.

        Raises:
          ValueError: JSON cannot hold it, or the method cannot give the guarantee.

        Cost: one pass over all arrays for their digests.
        """
        guarantees.require_consistent(self.aim, self.guarantee)
        found = {
            "asked": [_of_request(request) for request in self.asked],
            "done": self._done(),
            "code": {**self.code, **fingerprints.of_code()},
            "measured": dict(self.measured),
            "thresholds": dict(self.thresholds),
            "inputs": _digests(self.inputs),
            "outputs": _digests(self.outputs),
            "not_claimed": [*guarantees.not_claimed(self.aim, self.guarantee), *self.notes],
        }
        return commits.as_json(found, "a certificate")

    def _done(self) -> dict[str, Any]:
        forgotten = ids.sorted_unique(self.forgotten)
        promised = {name: value for name, value in self.guarantee._asdict().items() if value}
        return {
            "method": self.method,
            "aim": self.aim,
            "guarantee": promised,
            "parameters": dict(self.parameters),
            "parent": self.parent,
            "version": self.version,
            "forgotten": {"examples": len(forgotten), "ids": ids.digest(forgotten)},
        }


def _digests(trees: Mapping[str, PyTree]) -> dict[str, Any]:
    return {name: fingerprints.of_arrays(tree) for name, tree in trees.items()}


def _of_request(request: Request) -> dict[str, Any]:
    return {
        "request": request.number,
        "asked": request.asked,
        "accepted": request.accepted,
        "examples": request.examples,
        "ids": request.ids_digest,
    }
