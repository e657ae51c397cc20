"""What every protocol of exact unlearning shares: the interface of a request.

A protocol is used like an approximate method. `protocol.unlearn` is a `mu.Transform`: it is called
as `unlearn(key, variables, forget, retain) -> (variables, info)`, and `protocol.model` computes
with the variables. Whatever a later request needs (checkpoints, who is left) is in the variables,
so that a `mu.store.Store` keeps a lineage whole or not at all, and one serving loop does for all.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, Literal

import jax.numpy as jnp

from mu_jax import edits
from mu_jax.model import Model
from mu_jax.transforms._shared.transform import Info, Transform, Unlearn, UnlearningWarning, number

PyTree = Any


class Spent(ValueError):
    """A lineage that cannot answer without the rows of a request: train a new one on the rest."""


class ExactInfo(Info):
    """What an exact removal did, a `mu.Info`; its `details` are those of the protocol.

    Nothing may have changed: what a removed row had reached may be gone already.
    """

    def messages(self) -> list[str]:
        """Sentences on what went wrong; empty if all is well."""
        own = getattr(self.details, "messages", None)
        return own() if own else []


@dataclasses.dataclass(frozen=True)
class Method:
    """A protocol as the method of a transform: it has `model`, `words` and `answer`."""

    protocol: Any
    aim: Literal["removal"] = "removal"
    kept: None = None

    @property
    def words(self) -> str:
        """The protocol and its numbers as a call."""
        return self.protocol.words

    def __call__(self, model: Model) -> Unlearn:
        """The transform's function; the model has to be that of the protocol."""
        if model != self.protocol.model:
            raise ValueError(
                "expected the whole model of the protocol, found a part of it: a masked or "
                "restricted removal would not be exact, use protocol.unlearn as it is"
            )
        return self.protocol.answer


def transform_of(protocol: Any) -> Transform:
    """The protocol as a transform; `mu.watched` lets it measure its effect."""
    return Transform(protocol.model, Method(protocol), watch=False)


def exact_report(
    model: Model,
    before: PyTree,
    after: PyTree,
    *,
    steps: int,
    example_passes: float,
    details: Any,
) -> tuple[PyTree, ExactInfo]:
    """The end of an exact removal: `(variables, info)`, with warnings."""
    info = ExactInfo(
        edit=edits.summarize(model.params(before), model.params(after)),
        steps=number(steps, jnp.int32),
        example_passes=number(example_passes, jnp.float32),
        overlap=number(0, jnp.int32),
        details=details,
    )
    for message in info.messages():
        warnings.warn(message, UnlearningWarning, stacklevel=3)
    return after, info
