"""PDU: logits to forget are flattened, and retained loss is a constraint with a dual variable."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mu_jax._tracing import cached
from mu_jax.data.batches import Batch, in_memory
from mu_jax.data.checks import check_range
from mu_jax.data.forget_retain import readable
from mu_jax.data.partners import whole
from mu_jax.loops.fit import FitInfo, fit, num_steps, with_batch_size
from mu_jax.loops.gradients import Term, Terms
from mu_jax.loops.labels import check_labels
from mu_jax.model import Model
from mu_jax.objectives import weighted
from mu_jax.objectives.modes import InEitherMode
from mu_jax.objectives.pairing import Rows, pairing
from mu_jax.transforms._shared.pairing import Recipe, check_recipe, numbers_of
from mu_jax.transforms._shared.transform import Unlearn, method, number, passes, report

PyTree = Any
_DEFAULT = Recipe()


class PDUInfo(NamedTuple):
    """What PDU did.

    Attributes:
      fit: the fit, whose loss holds the constraint.
      dual: the dual variable at the end, f32[]: how hard the constraint presses.
    """

    fit: FitInfo
    dual: jax.Array

    def messages(self) -> list[str]:
        """A sentence if the fit diverged."""
        return self.fit.messages()


@method
def pdu(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    tolerance: jax.Array | float,
    dual_rate: jax.Array | float = 1.0,
    dual_step: Literal["step", "epoch"] = "step",
    warmup_epochs: int = 5,
    recipe: Recipe = _DEFAULT,
) -> Unlearn:
    """Primal-dual unlearning: flat logits on text to forget, subject to a loss on retained text.

    A step minimizes `gamma mean_forget (max_v z_v - mean_v z_v)^2 + lambda (CE(retain) - eps)` and
    moves `lambda <- max(0, lambda + eta (CE(retain) - eps))`, from lambda = alpha on. The
    constraint presses for as long as retained text is worse than eps, and lets go when it is not.
    By epoch, lambda moves once behind each epoch, by the mean of CE(retain) - eps over its steps:
    it follows the noise of single batches less, and needs a larger eta or more epochs.

    It fails where eps is below what the model can reach: lambda then grows without end, and nothing
    is forgotten. Flat logits on the rows to forget are unlike those of a model that never saw them,
    which tells them apart.

    Args:
      model: a language model with logits [B, T, V] and the loss
        `mu.token_losses.TokenCrossEntropy()`.
      optimizer: of the parameters, from a fresh state.
      tolerance: eps, the mean loss of retained tokens that is good enough, in nats, may be traced;
        such as a few percent above that of the model before unlearning.
      dual_rate: eta, step of the dual variable, may be traced.
      dual_step: `step`: the dual variable moves in every step; `epoch`: behind every epoch.
      warmup_epochs: passes over the forget set before the dual variable moves; by epoch the first
        move is that behind the last of them.
      recipe: the weights and the length of the fit, see `mu.PairingRecipe`; its retain term is the
        loss above.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles and draws;
      `info.details` is a `PDUInfo`.

    Raises:
      TypeError: targets that are no `mu.data.TokenTargets`.
      ValueError: rows of two lengths; a retain term that is not `nll`; a word for `dual_step` that
        is none.

    Cost: `epochs` passes over the forget set, each with as many retained rows; memory of one
    gradient and one optimizer state.

    Differences from the reference program (`locuslab/open-unlearning`):
      1. The forget term is at the positions that predict scored tokens; there the mask is not
         shifted, so that it is one position late.
      2. By epoch, the losses are those of the epoch's steps; there those of one more pass behind
         the epoch, of rows that are drawn anew.

    References:
      T. Entesari, A. Hatami, R. Khaziev, A. Ramakrishna, M. Fazlyab. Constrained Entropic
      Unlearning: A Primal-Dual Framework for Large Language Models. 2025.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w[x], mu.token_losses.TokenCrossEntropy())
      >>> tokens = jnp.array([[0, 1], [2, 3]])
      >>> targets = mu.data.TokenTargets(tokens, jnp.array([[0.0, 1.0], [0.0, 1.0]]))
      >>> forget, retain = mu.split(mu.batches(tokens, targets, batch_size=1), [0])
      >>> start = mu.Variables(3.0 * jnp.eye(4)[jnp.array([1, 0, 3, 2])])
      >>> unlearn = mu.pdu(model, optax.sgd(0.2), tolerance=0.2)
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> found = jax.nn.softmax(unlearned.params)
      >>> bool(found[0, 1] < 0.3), bool(found[2, 3] > 0.8)
      (True, True)
    """
    check_recipe(recipe)
    check_range(0, tolerance=tolerance, dual_rate=dual_rate, warmup_epochs=warmup_epochs)
    if recipe.retain_term != "nll":
        raise ValueError(
            f"expected the retain term 'nll', which the constraint is about, found "
            f"{recipe.retain_term!r}: leave it as it is"
        )
    if dual_step not in ("step", "epoch"):
        raise ValueError(
            f"expected dual_step as 'step' or 'epoch', found {dual_step!r}: choose one"
        )

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        forget_set, retain_set = readable(forget, retain)
        check_labels(model, variables, forget=forget_set, retain=retain_set)
        sized = with_batch_size(forget_set, recipe.batch_size)
        pairs = pairing(
            model,
            _term,
            retain_rows=recipe.retain_rows,
            training_mode=recipe.training_mode,
        )
        weights = numbers_of(gamma=recipe.gamma, alpha=recipe.alpha, tolerance=tolerance)
        every = num_steps(sized, 1) if dual_step == "epoch" else 1
        state, info = fit(
            _with_dual(model),
            _Constrained(pairs, recipe.training_mode),
            _primal_dual(optimizer, dual_rate, num_steps(sized, warmup_epochs), every),
            (variables, number(recipe.alpha, jnp.float32)),
            sized,
            key=key,
            epochs=recipe.epochs,
            steps=recipe.steps,
            gradients=recipe.gradients,
            frozen={"numbers": weights, "retain": whole(in_memory(retain_set))},
        )
        after, dual = state.variables
        return report(
            model,
            variables,
            after,
            (forget, retain),
            steps=state.step,
            example_passes=passes(info.examples),
            details=PDUInfo(info, dual),
        )

    return unlearn


def _term(rows: Rows, numbers: dict[str, jax.Array]) -> Term:
    del numbers
    return weighted.flatness(rows.logits, rows.targets, rows.weight)


@dataclasses.dataclass(frozen=True)
class _Constrained(InEitherMode):
    """`gamma l_forget + lambda (l_retain - eps)`; its gradient in lambda is the violation."""

    pairs: pairing
    training_mode: bool

    def only(self, names: tuple[str, ...]) -> _Constrained:
        """The objective of the named terms; both terms of the constraint read retained rows."""
        rows = names + ("retain",) * ("tolerance" in names)
        return dataclasses.replace(self, pairs=self.pairs.only(rows))

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        (variables, dual), numbers = variables, frozen["numbers"]
        frozen = {**frozen, "numbers": {**numbers, "alpha": dual}}
        terms, variables = self.pairs(variables, batch, frozen, key)
        if "retain" in terms:
            weight = terms["retain"].weight
            terms["tolerance"] = Term(-numbers["tolerance"] * weight, weight, dual)
        return terms, (variables, dual)


@cached(maxsize=64)
def _with_dual(model: Model) -> Model:
    """The model with variables `(variables, dual)`, of which the dual variable is trained too."""

    def split(variables):
        params, state = model.split(variables[0])
        return {"params": params, "dual": variables[1]}, state

    def join(params, state):
        return model.join(params["params"], state), params["dual"]

    return dataclasses.replace(model, split=split, join=join)


def _primal_dual(
    optimizer: optax.GradientTransformation, rate: jax.Array | float, warmup: int, every: int = 1
) -> optax.GradientTransformationExtraArgs:
    """The optimizer for the parameters, and projected ascent for the dual variable.

    Args:
      optimizer: of the parameters. rate: step of the dual variable.
      warmup: steps in which it stays. every: steps whose mean violation makes a move.
    """

    def init(params):
        return jnp.zeros((), jnp.int32), optax.tree.zeros_like(params)

    def update(grads, state, params, **extra):
        del extra
        count, sums = state[0] + 1, optax.tree.add(state[1], grads)
        ends = count % every == 0
        moves = ends & (count + every - 1 > warmup)

        def step(violation, dual):
            moved = jnp.maximum(0, dual + rate * violation / every)
            return jnp.where(moves, moved - dual, 0).astype(dual.dtype)

        kept = jax.tree.map(lambda x: jnp.where(ends, 0, x), sums)
        return jax.tree.map(step, sums, params), (count, kept)

    ascent = optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]
    parts = {"params": optimizer, "dual": ascent}
    return optax.partition(parts, {name: name for name in parts})
