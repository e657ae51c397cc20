"""Random smoothing: the mean gradient over Gaussian neighbors of the parameters."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mu_jax.data.batches import Batch
from mu_jax.data.checks import check_counts, check_range
from mu_jax.loops.gradients import (
    Gradients,
    Names,
    StepTerms,
    Terms,
    TermsFunction,
    displaced,
    like_params,
    parted,
    plain,
)

PyTree = Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["sigma", "gradients"],
    meta_fields=["samples", "term"],
)
@dataclasses.dataclass(frozen=True)
class random_smoothing:
    """The mean gradient over Gaussian neighbors of the parameters, of all terms or of some.

        G = 1/k sum_j grad l_term(theta + sigma z_j) + grad l_others(theta),    z_j ~ N(0, I)

    which is the gradient of the loss smoothed by a Gaussian, estimated by k draws. Every step draws
    anew, from the key of the fit and the number of the step alone, so that a resumed run, another
    batch size of micro-batches or other devices draw the same. The loss that the fit reports is the
    mean over the neighbors for the smoothed terms, and that at theta for the others.

    Args:
      sigma: standard deviation of each entry, may be traced; 1e-4 published for a model of 7B
        parameters, of which the norm of the step is then 8.
      samples: k; 3 as published.
      term: names of the terms that are smoothed, such as `"forget"` of the language methods
        (`mu.PairingRecipe(gradients=...)`) or a tuple of names; default all terms.
      gradients: how to take each gradient, such as `mu.loops.micro_batches(k)`; default `plain`.

    Returns:
      A gradient seam for `mu.fit` and `gradients=` of the transforms.

    Raises:
      TypeError: terms that are no step of a fit, which has the key.
      ValueError: a name that is no term of the objective.

    Cost: k forward and backward passes of the terms in place of one; memory of a float32 copy of
    the parameters and of one more gradient, whatever k. A model that computes in bfloat16 from
    bfloat16 parameters rounds small steps away, see `mu.loops.sam`.

    Differences from the reference program (`OPTML-Group/Unlearn-Smooth`):
      1. One update a step; there the optimizer is applied twice.
      2. Neighbors are float32; there of the type of the parameters.

    References:
      J. Cohen, E. Rosenfeld, J. Z. Kolter. Certified Adversarial Robustness via Randomized
      Smoothing. ICML 2019.
      C. Fan, J. Jia, Y. Zhang, A. Ramakrishna, M. Hong, S. Liu. Towards LLM Unlearning Resilient to
      Relearning Attacks: A Sharpness-Aware Minimization Perspective and Beyond. ICML 2025.
    """

    sigma: jax.Array | float
    samples: int = 3
    term: Names = None
    _: dataclasses.KW_ONLY
    gradients: Gradients = plain

    def __post_init__(self) -> None:
        if isinstance(self.sigma, int | float):
            check_range(0, sigma=self.sigma)
        check_counts(1, samples=self.samples)

    def __call__(
        self, terms: TermsFunction, params: PyTree, batch: Batch
    ) -> tuple[PyTree, Terms, PyTree]:
        """The mean gradient, the terms, and what `terms` returned beside them."""
        if not isinstance(terms, StepTerms):
            raise TypeError(
                f"expected the terms of a step of mu.fit, which have a key, found "
                f"{type(terms).__name__}: give mu.loops.StepTerms"
            )
        chosen, others = parted(terms, self.term, params, batch)
        wide = jax.eval_shape(lambda p: displaced(p, 0.0, p), params)
        key = jax.random.fold_in(terms.key, _DRAWS)

        def add(total: PyTree, number: jax.Array):
            noise = optax.tree.random_like(jax.random.fold_in(key, number), wide)
            near = displaced(params, self.sigma, noise)
            grads, found, aux = self.gradients(chosen, near, batch)
            return optax.tree.add(total, grads), (found, aux)

        zeros = displaced(params, 0.0, optax.tree.zeros_like(params))
        total, (founds, auxes) = jax.lax.scan(
            add, optax.tree.zeros_like(zeros), jnp.arange(self.samples)
        )
        grads = like_params(optax.tree.scale(1 / self.samples, total), params)
        found = jax.tree.map(lambda x: x.mean(axis=0), founds)
        aux = jax.tree.map(lambda x: x[-1], auxes)
        if others is not None:
            more, rest, aux = self.gradients(others, params, batch)
            grads, found = optax.tree.add(grads, more), found | rest
        return grads, found, aux


_DRAWS = 2  # folded into the key of a step, whose rows and partners are drawn by others
