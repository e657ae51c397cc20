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
from mu_jax.loops.fit import fit
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.labels import check_labels
from mu_jax.loops.predict import all_targets
from mu_jax.model import Model
from mu_jax.objectives.pairing import RETAIN_TERMS, ForgetTerm, RetainTerm, pairing
from mu_jax.objectives.references import reference_nll
from mu_jax.transforms._shared.transform import Unlearn, number, report_fit

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


def check_recipe(recipe: Recipe) -> None:
    """Refuse a retain term that does not exist, and negative weights."""
    if recipe.retain_term not in RETAIN_TERMS:
        raise ValueError(
            f"expected a retain term among {', '.join(RETAIN_TERMS)}, found "
            f"{recipe.retain_term!r}: choose one"
        )
    check_range(0, gamma=recipe.gamma, alpha=recipe.alpha)


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
    check_recipe(recipe)

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
        result = fit(
            model,
            objective,
            optimizer,
            variables,
            forget,
            key=key,
            epochs=recipe.epochs,
            steps=recipe.steps,
            batch_size=recipe.batch_size,
            gradients=recipe.gradients,
            frozen=frozen,
        )
        return report_fit(model, variables, result, sets)

    return unlearn


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
