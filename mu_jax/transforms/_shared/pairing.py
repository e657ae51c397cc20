"""What the methods share that fit rows to forget beside drawn retained rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from mu_jax.data.batches import in_memory
from mu_jax.data.checks import check_range
from mu_jax.data.forget_retain import Data, readable, with_targets
from mu_jax.data.partners import whole
from mu_jax.data.tokens import like_parts, parts_of
from mu_jax.loops.fit import fit, num_steps, with_batch_size
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.labels import check_labels
from mu_jax.loops.phases import Phase, fit_phases
from mu_jax.loops.predict import all_targets
from mu_jax.loops.stopping import Until
from mu_jax.model import Model
from mu_jax.objectives.pairing import RETAIN_TERMS, ForgetTerm, RetainTerm, pairing
from mu_jax.objectives.references import reference_nll
from mu_jax.transforms._shared.transform import (
    Info,
    Unlearn,
    number,
    passes,
    report,
    report_fit,
)

PyTree = Any


class Recipe(NamedTuple):
    """How rows to forget are fitted beside retained rows; defaults as in open-unlearning.

    The forget set defines the epoch. Beside each of its rows, in each epoch, `retain_rows` rows of
    the retain set are drawn from the key.

    Attributes:
      retain_term: `nll`: the mean loss of retained tokens. `kl`: their mean divergence from the
        model before unlearning, whose parameters then stay in memory. `kl_all`: that over every
        position, prompt and padding included, as in open-unlearning. `none`: nothing is drawn.
      gamma, alpha: weights of the forget and the retain term, may be traced.
      retain_rows: drawn rows for each row to forget.
      epochs: passes over the forget set. steps: number of steps instead.
      batch_size: rows to forget in a step; default that of the set.
      training_mode: dropout; default inference mode.
      gradients: how to take the gradient, see `mu.fit`; `per_term` sees `forget` and `retain`.
      until: a rule by which the fit ends before its last step, such as at the level of texts never
        seen; its cycles are steps, see `mu.loops.Until`. `info.details` is then a `mu.PhasesInfo`,
        which has the `FitInfo` and what the rule knew. `mu.pdu` and `mu.rmu` take none.
    """

    retain_term: RetainTerm = "nll"
    gamma: jax.Array | float = 1.0
    alpha: jax.Array | float = 1.0
    retain_rows: int = 1
    epochs: int = 10
    steps: int | None = None
    batch_size: int | None = None
    training_mode: bool = False
    gradients: Gradients | None = None
    until: Until | None = None


def check_recipe(recipe: Recipe, *, stops: bool = False) -> None:
    """Refuse a retain term that does not exist, negative weights, and a rule that is not followed.

    Args:
      recipe: the recipe. stops: whether the method follows `until`.
    """
    if recipe.retain_term not in RETAIN_TERMS:
        raise ValueError(
            f"expected a retain term among {', '.join(RETAIN_TERMS)}, found "
            f"{recipe.retain_term!r}: choose one"
        )
    check_range(0, gamma=recipe.gamma, alpha=recipe.alpha)
    if recipe.until is not None and not (stops and isinstance(recipe.until, Until)):
        wanted = "a mu.loops.Until" if stops else "None, since this method takes all its steps,"
        raise ValueError(
            f"expected {wanted} as until of the recipe, found {type(recipe.until).__name__}: "
            "correct the recipe"
        )


def unlearn_pairs(
    model: Model,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    term: ForgetTerm,
    numbers: dict[str, Any],
    *,
    documents: int = 1,
    keeps_scores: bool = False,
    reads_reference: bool = False,
) -> Unlearn:
    """What fits a forget term beside the retain term of the recipe, and reports.

    Args:
      term: of the forget rows. numbers: that it reads.
      documents: the most documents in a packed row to forget.
      keeps_scores: whether the term reads `reference` of the targets, which is computed here, from
        the given variables, where the targets have none.
      reads_reference: whether it reads logits of the model before unlearning.
    """
    check_recipe(recipe, stops=True)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        sets = forget, retain
        forget, retain = readable(*sets)
        check_labels(model, variables, forget=forget, **read_for(recipe, retain))
        if keeps_scores:
            forget = with_reference(model, variables, forget, documents)
        all_numbers = numbers | {"gamma": recipe.gamma, "alpha": recipe.alpha}
        frozen: dict[str, Any] = {"numbers": numbers_of(**all_numbers)}
        if recipe.retain_term != "none":
            frozen["retain"] = whole(in_memory(retain))
        if reads_reference or recipe.retain_term.startswith("kl"):
            frozen["reference"] = model.params(variables)
        objective = pairing(
            model,
            term,
            retain=recipe.retain_term,
            retain_rows=recipe.retain_rows,
            documents=documents,
            reads_reference=reads_reference,
            training_mode=recipe.training_mode,
        )
        how: dict[str, Any] = {
            "gradients": recipe.gradients,
            "batch_size": recipe.batch_size,
            "frozen": frozen,
        }
        if recipe.until is not None:
            phase = Phase(objective, optimizer, forget, steps=1, **how)
            return _until(model, phase, recipe, key, variables, sets)
        how |= {"epochs": recipe.epochs, "steps": recipe.steps}
        result = fit(model, objective, optimizer, variables, forget, key=key, **how)
        return report_fit(model, variables, result, sets)

    return unlearn


def _until(
    model: Model, phase: Phase, recipe: Recipe, key: jax.Array, variables: PyTree, sets: tuple
) -> tuple[PyTree, Info]:
    """The steps up to the one behind which the rule of the recipe holds."""
    sized = with_batch_size(phase.batches, recipe.batch_size)
    steps = num_steps(sized, recipe.epochs) if recipe.steps is None else recipe.steps
    state, info = fit_phases(model, [phase], variables, key=key, cycles=steps, until=recipe.until)
    return report(
        model,
        variables,
        state.variables,
        sets,
        steps=state.steps[0],
        example_passes=passes(info.fits[0].examples),
        details=info,
    )


def read_for(recipe: Recipe, retain: Data) -> dict[str, Data]:
    """The retain set by its name, where its scored tokens are read."""
    return {"retain": retain} if recipe.retain_term in ("nll", "kl") else {}


def numbers_of(**numbers: Any) -> dict[str, jax.Array]:
    """Weights and other numbers, as arrays that an objective reads."""
    wide = jax.dtypes.canonicalize_dtype(float)
    return {name: number(x, wide) for name, x in numbers.items()}


def with_reference(model: Model, variables: PyTree, forget: Data, documents: int) -> Data:
    """The rows to forget with what the model says of them, computed where it is not given."""
    targets = all_targets(forget)
    parts = parts_of(targets)
    if all(hasattr(getattr(part, "reference", None), "shape") for part in parts):
        return forget
    scores = parts_of(reference_nll(model, variables, forget, documents=documents))
    scored = [part._replace(reference=nll) for part, nll in zip(parts, scores)]
    return with_targets(forget, like_parts(targets, scored))
