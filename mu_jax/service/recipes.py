"""What a loop that serves requests is given: how a version is made, and what of it is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from mu_jax.service.guarantees import APPROXIMATE, Guarantee
from mu_jax.service.runs import Work

PyTree = Any


class Job(NamedTuple):
    """What a version is made of.

    Attributes:
        work: the requests. before: the variables of `work.parent`.
        forget, retain: the sets of the run, see `Work.split`.
        identity: digest of everything that decides the result, for the state of a stopped run.
    """

    work: Work
    before: PyTree
    forget: Any
    retain: Any
    identity: str


class Made(NamedTuple):
    """A version that was made.

    Attributes:
        variables: to publish; None where they are not finite and cannot be.
        measured: finite numbers by name, such as `"retain accuracy"`; what failed is left out.
        withheld: why it must not serve, such as that it collapsed or forgot nothing; "" if it may.
    """

    variables: PyTree | None
    measured: Mapping[str, float] = {}
    withheld: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Recipe:
    """One way to make a version: to unlearn, or to train anew on what is retained.

    Attributes:
        method: by name, such as `"ssd"`.
        make: `Job -> Made`; raises `mu_jax.exact.Spent` where its lineage cannot answer any more.
        parameters: of the method, with its seed, as JSON holds them.
        decides: what else decides the result, such as digests of the data, as JSON holds it.
        aim: `transform.aim`. guarantee: what the method promises.
        whole: whether a retain set must hold every row that the lineage has not forgotten, as for
            the protocols of `mu_jax.exact`: all requests that wait are then answered at once, since
            none of them may be retained.
    """

    method: str
    make: Callable[[Job], Made]
    parameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    decides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    aim: Literal["removal", "suppression"] = "removal"
    guarantee: Guarantee = APPROXIMATE
    whole: bool = False

    @property
    def approximate(self) -> bool:
        """Whether errors of the method add up along a lineage."""
        return self.guarantee.kind != "exact"
