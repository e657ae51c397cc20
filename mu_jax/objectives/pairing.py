"""The objective that most language methods share: rows to forget beside drawn retained rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax.data.batches import Batch
from mu_jax.data.partners import partners
from mu_jax.data.tokens import like_parts, parts_of
from mu_jax.loops.gradients import Term, Terms
from mu_jax.model import Model
from mu_jax.objectives.distillation import reference_kl
from mu_jax.objectives.modes import InEitherMode
from mu_jax.objectives.token_terms import token_cross_entropy
from mu_jax.projected import over_rows
from mu_jax.token_losses import segments

PyTree = Any
RetainTerm = Literal["none", "nll", "kl", "kl_all"]
RETAIN_TERMS = ("none", "nll", "kl", "kl_all")


class Rows(NamedTuple):
    """What a forget term reads.

    Attributes:
      logits: [B, T, V], or `Projected`; or a `Preference` of both.
      targets: `TokenTargets`, or a `Preference` of both.
      weight: f32[B].
      reference: logits of the reference model, None where the term needs none.
      segment: i32[B, T] of packed rows, or a `Preference` of both; None where a row is a document.
      documents: the most documents in a row.
    """

    logits: PyTree
    targets: PyTree
    weight: jax.Array
    reference: PyTree = None
    segment: PyTree = None
    documents: int = 1


ForgetTerm = Callable[[Rows, dict[str, jax.Array]], Term]


@dataclasses.dataclass(frozen=True)
class pairing(InEitherMode):
    """`gamma l_forget + alpha l_retain`, a batch of rows to forget beside drawn retained rows.

    Args:
      model: the model, with logits [B, T, V].
      forget: `(rows, numbers) -> Term`, a function of a module or a frozen dataclass.
      retain: `none`; `nll`: the mean loss of the scored tokens; `kl`: the mean divergence from the
        reference model over these tokens; `kl_all`: over every position, padding included.
      retain_rows: drawn rows for each row to forget.
      documents: the most documents in a packed row to forget; 1: each row is one document.
      reads_reference: whether the forget term reads logits of the reference model.
      training_mode: dropout.
      forgets: whether the term `forget` is there; False for that of the retained rows alone.

    Returns:
      An `Objective` with the terms `forget` and `retain`. It reads `frozen["numbers"]`, with
      `gamma`, `alpha` and those of the forget term; `frozen["retain"]`, all retained rows as one
      `Batch`; `frozen["reference"]`, the parameters of the reference model where one is read.

    Cost: one forward and backward pass of both kinds of rows, which are one batch.
    """

    model: Model
    forget: ForgetTerm
    _: dataclasses.KW_ONLY
    retain: RetainTerm = "nll"
    retain_rows: int = 1
    documents: int = 1
    reads_reference: bool = False
    training_mode: bool = False
    forgets: bool = True

    def only(self, names: tuple[str, ...]) -> pairing:
        """The objective of the named terms, which reads their rows alone, but in training mode."""
        if self.training_mode:
            return self
        retain: RetainTerm = self.retain if "retain" in names else "none"
        return dataclasses.replace(self, retain=retain, forgets="forget" in names)

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        """The terms, and the variables."""
        numbers, model = frozen["numbers"], self.model
        parts, drawn = self._own(batch), None
        if self.retain != "none":
            drawn = partners(jax.random.fold_in(key, 1), batch, frozen["retain"], self.retain_rows)
            parts += dealt(drawn.inputs, self.retain_rows)
        outputs, variables = model.forward(
            variables, joined(parts), training=self.training_mode, key=key, for_loss=True
        )
        known = self._known(variables, batch, parts, frozen)
        logits = dealt(outputs, len(parts))
        terms = {}
        if self.forgets:
            terms["forget"] = self._forget_term(batch, logits, known, numbers)
        if drawn is not None:
            terms["retain"] = self._retain_term(drawn, logits, known, numbers["alpha"])
        return terms, variables

    def _own(self, batch: Batch) -> list:
        """The rows to forget, where they are read."""
        return parts_of(batch.inputs) if self.forgets else []

    def _known(
        self, variables: PyTree, batch: Batch, parts: list, frozen: dict[str, PyTree]
    ) -> list | None:
        """The logits of the reference model of the parts of which they are read."""
        own = len(self._own(batch))
        first = 0 if self.reads_reference else own
        last = len(parts) if self.retain.startswith("kl") else own
        if first == last:
            return None
        before = self.model.with_params(variables, frozen["reference"])
        inputs = joined(parts[first:last])
        found = dealt(self.model.for_loss(*self.model.split(before), inputs), last - first)
        return [None] * first + found

    def _forget_term(
        self, batch: Batch, logits: list, known: list | None, numbers: dict[str, jax.Array]
    ) -> Term:
        inputs, own = batch.inputs, parts_of(batch.inputs)
        segment = like_parts(inputs, [segments(part, self.documents) for part in own])
        segment = segment if self.documents > 1 else None
        reference = (
            like_parts(inputs, known[: len(own)])
            if self.reads_reference and known is not None
            else None
        )
        rows = (
            like_parts(inputs, logits[: len(own)]),
            batch.targets,
            batch.weight,
            reference,
            segment,
            self.documents,
        )
        term = self.forget(Rows(*rows), numbers)
        return term._replace(scale=numbers["gamma"] * term.scale)

    def _retain_term(
        self, drawn: Batch, logits: list, known: list | None, alpha: jax.Array
    ) -> Term:
        found = joined(logits[-self.retain_rows :])
        if self.retain == "nll":
            return token_cross_entropy(found, drawn.targets, drawn.weight, alpha)
        assert known is not None
        return reference_kl(
            found,
            joined(known[-self.retain_rows :]),
            drawn.targets,
            drawn.weight,
            positions="all" if self.retain == "kl_all" else "scored",
            scale=alpha,
        )


def joined(parts: list[PyTree]) -> PyTree:
    """Trees of [B, ...] as one of [B * parts, ...], the parts of a row behind one another.

    Rows that are divided over devices stay where they are.

    Raises:
      ValueError: rows of different shapes.
    """
    if len(parts) == 1:
        return parts[0]

    def join(*leaves):
        shapes = {leaf.shape[1:] for leaf in leaves}
        if len(shapes) > 1:
            raise ValueError(
                f"expected rows of one length in the forget and the retain set, found "
                f"{' and '.join(map(str, sorted(shapes)))}: pad the shorter rows"
            )
        return jnp.stack(leaves, axis=1).reshape(-1, *leaves[0].shape[1:])

    return over_rows(join, *parts)


def dealt(tree: PyTree, number: int) -> list[PyTree]:
    """The inverse of `joined`: every part of `[B * number, ...]` as a tree of [B, ...]."""

    def part(place):
        return over_rows(lambda x: x.reshape(-1, number, *x.shape[1:])[:, place], tree)

    return [part(place) for place in range(number)]
