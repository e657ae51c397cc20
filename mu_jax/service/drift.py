"""How far a lineage has come from the model it began with, and when it has to begin anew."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mu_jax.service.requests import Event
from mu_jax.store.records import Version

# What a root was measured by: of a retrained one, and of one that was trained on everything.
RETAINED = ("retain accuracy", "train accuracy")
UNTRIED = "not tried, "  # how the reason begins of what was put back without a result
OVERTAKEN = "another version began to serve meanwhile"  # which says nothing against the result


class Drift(NamedTuple):
    """Where a lineage stands.

    Attributes:
        root: the version that it began with, trained from scratch.
        steps: versions since then that an approximate method made; errors of these add up.
        forgotten: examples that were forgotten since then.
        examples: training examples of the root.
        before, now: accuracy on what is retained, of the root and of the newest version; None
            where it was not measured.
    """

    root: int
    steps: int
    forgotten: int
    examples: int
    before: float | None = None
    now: float | None = None

    @property
    def share(self) -> float:
        """Of the examples of the root, how many are forgotten since: from 0 to 1."""
        return self.forgotten / self.examples

    @property
    def drop(self) -> float | None:
        """How much accuracy on what is retained was lost since the root; None if unknown."""
        if self.before is None or self.now is None:
            return None
        return self.before - self.now

    def after(
        self, forgotten: int, *, approximate: bool, measured: Mapping[str, Any] | None = None
    ) -> Drift:
        """Where it stands after one more version.

        Args:
            forgotten: how many examples that version forgets.
            approximate: whether its method is.
            measured: of that version; None before it is there.
        """
        return self._replace(
            steps=self.steps + approximate,
            forgotten=self.forgotten + forgotten,
            now=_accuracy(measured or {}),
        )


def of_lineage(lineage: Sequence[Version], examples: int, *, exact: Collection[str] = ()) -> Drift:
    """Where the first version of `store.lineage(version)` stands.

    Args:
        lineage: newest first, down to its root.
        examples: how many training examples there are, forgotten ones included.
        exact: names of methods that leave nothing behind; all others are approximate.

    Raises:
        ValueError: of a version only the digest of its forget set was kept, or nothing is left.

    Example:
        >>> import tempfile, numpy as np, mu_jax as mu
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = mu.store.Store(folder)
        ...     root = store.publish({"w": np.ones(1)}, method="train",
        ...                          metrics={"train accuracy": 0.99})
        ...     child = store.publish({"w": np.ones(1)}, method="ssd", parent=root,
        ...                           forgotten=[3, 5], metrics={"retain accuracy": 0.97})
        ...     drift = of_lineage(store.lineage(child), examples=100)
        >>> drift.steps, drift.share, round(drift.drop, 4)
        (1, 0.02, 0.02)
        >>> Budget(steps=1).spent(drift.after(1, approximate=True))
        'it would be step 2 of an approximate method since version 1, the budget is 1'
    """
    newest, root = lineage[0], lineage[-1]
    if newest.num_forgotten is None or root.num_forgotten is None:
        raise ValueError(
            f"expected to know how many examples version {newest.version} has forgotten, found "
            "only a digest of them; publish with forgotten=ids"
        )
    left = examples - root.num_forgotten
    if left <= 0:
        raise ValueError(
            f"expected more than the {root.num_forgotten} examples that version {root.version} had "
            f"forgotten, found {examples}; give the number of all training examples"
        )
    steps = sum(each.method not in exact for each in lineage[:-1])
    forgotten = newest.num_forgotten - root.num_forgotten
    before, now = _accuracy(root.metrics), _accuracy(newest.metrics)
    return Drift(root.version, steps, forgotten, left, before, now)


@dataclasses.dataclass(frozen=True)
class Budget:
    """How far a lineage may come from its root; None sets no limit.

    Attributes:
        share: of the examples of the root, how many may be forgotten, above 0 up to 1.
        steps: versions that an approximate method may make.
        drop: accuracy on what is retained that may be lost, from 0 to 1.

    Raises:
        ValueError: a limit out of its range.
    """

    share: float | None = None
    steps: int | None = None
    drop: float | None = None

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            most = math.inf if name == "steps" else 1.0
            kinds = (int,) if name == "steps" else (int, float)
            number = isinstance(value, kinds) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value <= most):
                raise ValueError(
                    f"expected a number from 0 to {most:g} for {name} of a budget, found "
                    f"{value!r}; correct it"
                )

    def spent(self, drift: Drift) -> str:
        """Why a lineage may not come as far as `drift`, in words; "" if it may.

        What was not measured yet spends nothing.
        """
        since = f"since version {drift.root}, the budget is"
        if self.steps is not None and drift.steps > self.steps:
            return f"it would be step {drift.steps} of an approximate method {since} {self.steps}"
        if self.share is not None and drift.share > self.share:
            return f"{drift.share:.4g} of the examples would be forgotten {since} {self.share:g}"
        if self.drop is not None and drift.drop is not None and drift.drop > self.drop:
            return f"accuracy on the retain set fell by {drift.drop:.4g} {since} {self.drop:g}"
        return ""


def put_backs(events: Iterable[Event]) -> int:
    """How often a request was put back for its result, since it was last done or refused.

    What was put back untried (`UNTRIED`), or since others swapped (`OVERTAKEN`), does not count.

    Args:
        events: of one request, `ledger.events(number)`.

    Example:
        >>> states = ["accepted", "pending", "accepted", "accepted", "pending", "accepted"]
        >>> put_backs(Event(n, "", 1, state, "") for n, state in enumerate(states))
        2
    """
    count, before = 0, ""
    for event in events:
        if event.state in ("done", "refused"):
            count = 0
        else:
            count += _was_tried(before, event)
        before = event.state
    return count


def why_put_back(events: Iterable[Event]) -> str:
    """The reason of the last of those that `put_backs` counts; "" where there is none."""
    reason, before = "", ""
    for event in events:
        reason = event.reason if _was_tried(before, event) else reason
        before = event.state
    return reason


def _was_tried(before: str, event: Event) -> bool:
    put_back = event.state == "accepted" and before == "pending"
    return put_back and not event.reason.startswith((UNTRIED, OVERTAKEN))


def _accuracy(measured: Mapping[str, Any]) -> float | None:
    return next((measured[name] for name in RETAINED if measured.get(name) is not None), None)
