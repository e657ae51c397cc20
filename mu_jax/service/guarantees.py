"""What a result may claim, and what every certificate says that it does not claim."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

Kind = Literal["approximate", "certified", "exact"]


class Guarantee(NamedTuple):
    """How the result of a method relates to training without the forgotten examples.

    Attributes:
        kind: `approximate` promises nothing; `certified` promises that nobody can tell the two
            apart by more than `epsilon` and `delta` allow; `exact` promises equality to what
            `protocol` gives when it is trained without them.
        protocol: of an exact method, what the result equals, such as `"SISA, 4 shards, 3 slices"`;
            of a certified one, what the promise rests on.
        epsilon, delta: of a certified method.
    """

    kind: Kind
    protocol: str = ""
    epsilon: float | None = None
    delta: float | None = None


APPROXIMATE = Guarantee("approximate")
"""The guarantee of every transform of `mu_jax.transforms` but retraining: none."""

# A certificate of form 1 says these sentences. Other words need another form.
_ALWAYS = (
    "The signature says who issued this certificate, and that nobody has changed it since. It does "
    "not prove that the operator did what the certificate says.",
    "Nothing is said of copies of the data or of earlier models outside of the store of these "
    "versions: backups, caches, logs, and models that were made from them.",
)
_APPROXIMATE = (
    "There is no guarantee: the method is approximate, and the model may still hold what it has "
    "learned from the forgotten examples. What was measured is evidence for the measures that are "
    "named, and for no others."
)
_CERTIFIED = (
    "The guarantee holds under the assumptions that are named, and for the part of the model that "
    "the method changes; it is a bound on what can be told apart, not equality."
)
_EXACT = (
    "Equality is by the protocol that is named, run by the code that is named: faults of the code, "
    "and what others do with the model later, are not covered. A model trained at once on the "
    "retained examples may be another one."
)
_SUPPRESSION = (
    "Nothing was removed: the method hides knowledge, which comes back when what hides it is taken "
    "away."
)


def not_claimed(aim: str, guarantee: Guarantee) -> tuple[str, ...]:
    """The sentences on what a certificate does not claim."""
    by_kind = {"approximate": _APPROXIMATE, "certified": _CERTIFIED, "exact": _EXACT}
    hidden = (_SUPPRESSION,) if aim == "suppression" else ()
    return (*hidden, by_kind[guarantee.kind], *_ALWAYS)


def claimed(guarantee: Guarantee) -> str:
    """What is claimed, in one sentence."""
    if guarantee.kind == "exact":
        return (
            f"The model equals what this protocol gives without the examples: {guarantee.protocol}."
        )
    if guarantee.kind == "certified":
        return (
            f"The model cannot be told from one trained without the examples beyond epsilon "
            f"{guarantee.epsilon:g} and delta {guarantee.delta:g}: {guarantee.protocol}."
        )
    return "No guarantee; the method was run, and what is below was measured."


def require_consistent(aim: str, guarantee: Guarantee) -> None:
    """Refuse a claim that is none, or that the method cannot make.

    Raises:
        ValueError: an unknown kind or aim; an exact or certified claim of what only hides; a claim
            without its protocol or numbers; an approximate one with them.
    """
    kind, protocol, epsilon, delta = guarantee
    if aim not in ("removal", "suppression"):
        raise ValueError(f"expected removal or suppression for aim, found {aim!r}; use one")
    if kind not in ("approximate", "certified", "exact"):
        raise ValueError(f"expected approximate, certified or exact, found {kind!r}; use one")
    if kind != "approximate" and aim == "suppression":
        raise ValueError(
            f"expected an approximate guarantee of a method that suppresses, found {kind!r}; what "
            "is hidden is still there"
        )
    if (kind != "approximate") != bool(protocol.strip()):
        what = "no protocol for an approximate" if protocol else f"a protocol for the {kind}"
        raise ValueError(f"expected {what} guarantee, found {protocol!r}; correct it")
    numbers = kind == "certified" and _is_positive(epsilon) and _is_positive(delta)
    if not numbers and (kind == "certified" or epsilon is not None or delta is not None):
        raise ValueError(
            "expected epsilon and delta above 0 for a certified guarantee, and for no other, found "
            f"{epsilon!r} and {delta!r} for {kind!r}; correct them"
        )


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
