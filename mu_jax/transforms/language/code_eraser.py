"""CodeEraser: the secrets of a text are forgotten, their context and other texts are kept."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import optax

from mu_jax.data.batches import Batch
from mu_jax.data.checks import check_range
from mu_jax.data.forget_retain import readable
from mu_jax.loops.fit import FitInfo, with_batch_size
from mu_jax.loops.gradients import Gradients, Terms
from mu_jax.loops.labels import check_labels
from mu_jax.loops.phases import Phase, fit_phases
from mu_jax.model import Model
from mu_jax.objectives.modes import InEitherMode
from mu_jax.objectives.segments import check_secrets, erase, keep
from mu_jax.transforms._shared.pairing import numbers_of
from mu_jax.transforms._shared.stopping import Stop, check_stop, until_forgotten
from mu_jax.transforms._shared.transform import Unlearn, method, report_phases

PyTree = Any


class CodeEraserInfo(NamedTuple):
    """What CodeEraser did.

    Attributes:
      forget: the fit of the forget steps. retain: that of the retain steps. Of steps behind the
        epoch in which the rule stopped, every entry is 0.
      stopped: a `Stopped` with what the rule has seen; `()` without a rule.
    """

    forget: FitInfo
    retain: FitInfo
    stopped: Any = ()

    def messages(self) -> list[str]:
        """Sentences on steps that diverged, and on a rule that never stopped them."""
        rule = self.stopped.messages() if self.stopped else []
        return self.forget.messages() + self.retain.messages() + rule


@method
def code_eraser(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    gamma: jax.Array | float = 0.1,
    strength: jax.Array | float = 0.1,
    alpha: jax.Array | float = 1.0,
    epochs: int = 100,
    stop: Stop | None = None,
    batch_size: int | None = None,
    retain_batch_size: int | None = None,
    training_mode: bool = False,
    gradients: Gradients | None = None,
    retain_gradients: Gradients | None = None,
) -> Unlearn:
    """Forget the secrets inside texts: segments up, their context down, other texts as they were.

    In turn, with one optimizer state:

    1. a forget step minimizes `-l_S + gamma l_C - lambda K_S`, with the mean losses of the tokens
       of secrets S and of their context C, and the mean divergence `K_S = KL(before || now)` on S;
    2. a retain step minimizes `lambda alpha K_r`, the mean divergence on retained texts.

    `-l_S` has no bound, so the length of the fit decides. With `stop`, as published, it ends behind
    the epoch in which memorization and extraction of the secrets fall below the level of texts
    never seen. It fails where the fit is too long: secrets become less likely than for a model
    that never saw them, and templates that retained texts share with the secrets suffer. A few
    steps on some secrets bring others back.

    Args:
      model: a language model with logits [B, T, V] and the loss
        `mu.token_losses.TokenCrossEntropy()`.
      optimizer: from a fresh state; Adam 3e-6 with beta2 0.98 as published.
      gamma: weight of the context, may be traced. strength: lambda, may be traced.
      alpha: weight of the retain step beside the forget step, may be traced.
      epochs: passes over the forget set; a retain step follows each of its batches.
      stop: a `mu.CodeEraserStop`, by which the fit ends before the last epoch; default: it does
        not.
      batch_size, retain_batch_size: rows of a step; default those of the two sets.
      training_mode: dropout; default inference mode.
      gradients: how to take the gradient of the forget steps, see `mu.fit`, such as
        `mu.loops.sam(rho)`. retain_gradients: that of the retain steps. Both plain by default.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles;
      `info.details` is a `CodeEraserInfo`.

    Raises:
      TypeError: targets that are no `mu.data.TokenTargets`.
      ValueError: targets to forget that mark no secrets, or none among the scored tokens; a
        stopping rule that cannot be.

    Cost: a forward and backward pass of every batch and one more forward pass of the model before
    unlearning, whose trained parameters stay in memory. With `stop`, one forward pass over the
    forget set for each epoch, and the measure.

    Differences from the reference program (`CGCL-codes/naturalcc`):
      1. The context's mean is over its tokens; there padding counts in the divisor.
      2. The retain step is a mean over scored tokens; there a sum over all positions, padding
         included, divided by the rows.
      3. Divergences are those of the probabilities; there 1e-10 is added to each.
      4. The result is the model at which the rule stops; there the epoch of the least memorization
         so far.
      5. Extraction is measured from the epoch on that comes near; there from the next one on.

    References:
      Z. Chu, Y. Wan, Z. Zhang, D. Wang, Z. Yang, H. Zhang, P. Zhou, X. Shi, H. Jin, D. Lo. Scrub It
      Out! Erasing Sensitive Memorization in Code Language Models via Machine Unlearning. ICSE 2026.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: w[x], mu.token_losses.TokenCrossEntropy())
      >>> tokens, mask = jnp.array([[0, 1, 2], [2, 3, 0]]), jnp.array([[0.0, 1, 1], [0, 1, 1]])
      >>> targets = mu.data.TokenTargets(tokens, mask, secret=jnp.array([[0.0, 0, 1], [0, 0, 0]]))
      >>> forget, retain = mu.split(mu.batches(tokens, targets, batch_size=1), [0])
      >>> start = mu.Variables(3.0 * jnp.eye(4)[jnp.array([1, 2, 3, 0])])
      >>> unlearned, _ = mu.code_eraser(model, optax.sgd(1.0), epochs=10)(
      ...     jax.random.key(0), start, forget, retain)
      >>> found = jax.nn.softmax(unlearned.params)
      >>> bool(found[1, 2] < 0.1), bool(found[0, 1] > 0.8), bool(found[2, 3] > 0.8)
      (True, True, True)
    """
    check_range(0, gamma=gamma, strength=strength, alpha=alpha)
    check_stop(stop)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        sets = readable(forget, retain)
        check_labels(model, variables, forget=sets[0], retain=sets[1])
        check_secrets(sets[0])
        sizes = batch_size, retain_batch_size
        batches = [with_batch_size(x, size) for x, size in zip(sets, sizes)]
        weights = {"gamma": gamma, "strength": strength, "alpha": alpha}
        frozen = {"numbers": numbers_of(**weights), "reference": model.params(variables)}
        phases = [
            Phase(
                _Step(model, secrets, training_mode),
                optimizer,
                examples,
                steps=1,
                optimizer_state="shared",
                frozen=frozen,
                gradients=seam,
            )
            for examples, secrets, seam in zip(
                batches, (True, False), (gradients, retain_gradients)
            )
        ]
        cycles = epochs * batches[0].num_batches
        until = None
        if stop is not None:
            until = until_forgotten(stop, model, sets[0], epochs, batches[0].num_batches)
        found = fit_phases(model, phases, variables, key=key, cycles=cycles, until=until)
        forgetting, keeping = found[1].fits
        details = CodeEraserInfo(forgetting, keeping, found[1].known)
        return report_phases(model, variables, found, (forget, retain), details)

    return unlearn


@dataclasses.dataclass(frozen=True)
class _Step(InEitherMode):
    """The forget step, for rows with secrets, or the retain step."""

    model: Model
    secrets: bool
    training_mode: bool

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        numbers, model = frozen["numbers"], self.model
        before = model.with_params(variables, frozen["reference"])
        known = model.for_loss(*model.split(before), batch.inputs)
        logits, variables = model.forward(
            variables, batch.inputs, training=self.training_mode, key=key, for_loss=True
        )
        rows, strength = (logits, known, batch.targets, batch.weight), numbers["strength"]
        if self.secrets:
            return erase(*rows, gamma=numbers["gamma"], strength=strength), variables
        return keep(*rows, strength=strength * numbers["alpha"]), variables
