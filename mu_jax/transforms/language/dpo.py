"""DPO: prefer another answer to the one to forget."""

from __future__ import annotations

from typing import Any

import jax
import optax

from mu_jax.data.checks import check_range
from mu_jax.loops.gradients import Term
from mu_jax.model import Model
from mu_jax.objectives import preference
from mu_jax.objectives.pairing import Rows
from mu_jax.transforms._shared.pairing import Recipe, unlearn_pairs
from mu_jax.transforms._shared.transform import Unlearn, method, suppression

PyTree = Any
_DEFAULT = Recipe()


@method
@suppression
def dpo(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    beta: jax.Array | float = 0.1,
    documents: int = 1,
    recipe: Recipe = _DEFAULT,
) -> Unlearn:
    """Direct preference optimization: another answer (w) in place of the one to forget (l).

    `-(gamma 2/beta) mean_forget log sigmoid(beta [(L_l - L_l,ref) - (L_w - L_w,ref)])
    + alpha l_retain`, with summed losses of scored tokens. Which answer wins is data: "I do not
    know" (IdkDPO), or a plausible other answer (AltPO). The reference is two numbers for each pair:
    `reference` of both targets, or else computed here once, from the given variables.

    It hides rather than removes: the model learns to say something else. It fails where both
    answers are much alike: the winner's likelihood may fall too; and refusals spread to retained
    questions.

    Args:
      model: a language model with logits [B, T, V] and the loss
        `mu.token_losses.TokenCrossEntropy()`.
      optimizer: any optax optimizer, from a fresh state.
      beta: inverse temperature of a sum over tokens, may be traced.
      documents: the most documents in a packed row to forget, whose inputs are then
        `mu.data.Tokens`; 1: each row is one document.
      recipe: the retain term, the weights and the length of the fit, see `mu.PairingRecipe`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles and draws;
      `info.details` is a `FitInfo`.

    The inputs to forget are a `mu.data.Preference` of the rows of both answers, and the targets one
    of their `mu.data.TokenTargets`; the prompts come in both, unscored.

    Raises:
      TypeError: targets that are no `mu.data.TokenTargets`.
      ValueError: rows of two lengths; a recipe with negative weights.

    Cost: one forward pass over both answers for the reference, and `epochs` passes over these, each
    with as many retained rows; memory of one gradient and one optimizer state, and with a
    divergence as the retain term of the parameters once more.

    Differences from the reference program (`locuslab/open-unlearning`):
      1. The reference scores are computed once; there a second model computes them in every step.
      2. Means are over the whole batch, whatever the devices.
      3. A pair of which one answer has no scored tokens is in no mean.

    References:
      R. Rafailov, A. Sharma, E. Mitchell, C. D. Manning, S. Ermon, C. Finn. Direct Preference
      Optimization: Your Language Model is Secretly a Reward Model. NeurIPS 2023.
      A. Mekala and others. Alternate Preference Optimization for Unlearning Factual Knowledge in
      Large Language Models. COLING 2025.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w[x], mu.token_losses.TokenCrossEntropy())
      >>> tokens = jnp.array([[0, 1], [2, 3]])
      >>> targets = mu.data.TokenTargets(tokens, jnp.array([[0.0, 1.0], [0.0, 1.0]]))
      >>> forget, retain = mu.split(mu.batches(tokens, targets, batch_size=1), [0])
      >>> better = forget.targets._replace(tokens=jnp.array([[0, 2]]))
      >>> pair = mu.data.Preference(winner=better.tokens, loser=forget.inputs)
      >>> targets = mu.data.Preference(winner=better, loser=forget.targets)
      >>> forget = forget.replace(inputs=pair, targets=targets)
      >>> start = mu.Variables(3.0 * jnp.eye(4)[jnp.array([1, 0, 3, 2])])
      >>> unlearn = mu.dpo(model, optax.sgd(1.0))
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> found = jax.nn.softmax(unlearned.params)[jnp.array([0, 2]), jnp.array([2, 3])]
      >>> bool(found[0] > 0.8), bool(found[1] > 0.8)
      (True, True)
    """

    check_range(0, beta=beta)
    return unlearn_pairs(
        model, optimizer, recipe, _term, {"beta": beta}, documents=documents, keeps_scores=True
    )


def _term(rows: Rows, numbers: dict[str, jax.Array]) -> Term:
    return preference.dpo(
        rows.logits,
        rows.targets,
        rows.weight,
        beta=numbers["beta"],
        segment=rows.segment,
        documents=rows.documents,
    )
