"""K-FAC and EK-FAC: a curvature of Kronecker blocks, inverted exactly."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax._at_once import as_array
from mu_jax.data.checks import check_counts, check_range
from mu_jax.solvers._iterating import wide
from mu_jax.solvers.problem import Problem, Solution
from mu_jax.statistics.curvature.draws import Labels
from mu_jax.statistics.curvature.factors import KroneckerFactors, kronecker_factors
from mu_jax.statistics.curvature.inverse import KroneckerInverse
from mu_jax.statistics.curvature.kronecker import Real, check_labels_kind
from mu_jax.statistics.curvature.layers import KroneckerLayers

PyTree = Any


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Blocks:
    """What stands for each leaf of the parameters, as words; a pytree without arrays.

    Attributes:
      words: pairs of a leaf's name and `kronecker`, `with <kernel>` or `diagonal`.
    """

    words: tuple[tuple[str, str], ...]

    def of(self, word: str) -> list[str]:
        """The names of the leaves with this word."""
        return [name for name, own in self.words if own == word]


class KroneckerInfo(NamedTuple):
    """What K-FAC and EK-FAC say of themselves.

    Attributes:
      products: passes over the data, i32[]: 1 for K-FAC, 2 for EK-FAC, 0 with given factors.
      damping: of each layer, then of each leaf with a diagonal, f[].
      share: of the parameters that are in layers with Kronecker factors, f[].
      blocks: what stands for each leaf.
    """

    products: jax.Array
    damping: jax.Array
    share: jax.Array
    blocks: Blocks

    def messages(self) -> list[str]:
        """A sentence where most parameters have a diagonal only."""
        share, names = np.min(self.share), self.blocks.of("diagonal")
        if share < 0.5:
            return [
                f"Only {100 * share:.0f} % of the parameters have Kronecker factors, the others a "
                f"diagonal ({', '.join(names[:3])}{', ...' if names[3:] else ''}): use "
                "mu.solvers.conjugate_gradients where they matter."
            ]
        return []


@dataclasses.dataclass(frozen=True)
class _Kronecker:
    """A curvature of Kronecker blocks; see `kfac` and `ekfac`."""

    _: dataclasses.KW_ONLY
    damping: jax.Array | float | None = None
    labels: Labels = "model"
    seed: int = 0
    factors: KroneckerFactors | None = None
    real: Real | None = None
    max_width: int = 8192

    eigenvalues: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_range(0, damping=self.damping)
        check_counts(1, max_width=self.max_width)
        check_labels_kind(self.labels)

    def __call__(self, problem: Problem, vector: PyTree) -> Solution:
        """Solve for `vector`."""
        problem.check(vector)
        inverse = self.prepare(problem)
        return Solution(inverse(wide(vector)), self._info(inverse))

    def prepare(self, problem: Problem) -> KroneckerInverse:
        """The inverse at these variables, to be applied to any vector."""
        damping = problem.damping if self.damping is None else self.damping
        return self._collected(problem).inverse(damping)

    def _collected(self, problem: Problem) -> KroneckerFactors:
        if self.factors is None:
            return kronecker_factors(
                problem.model,
                problem.variables,
                problem.data,
                eigenvalues=self.eigenvalues,
                labels=self.labels,
                seed=self.seed,
                real=self.real,
                max_width=self.max_width,
            )
        self.factors.check(problem.params)
        if not self.eigenvalues:
            return dataclasses.replace(self.factors, eigenvalues=None)
        if self.factors.eigenvalues is None:
            raise ValueError(
                "expected factors with the eigenvalues of EK-FAC, found those of K-FAC: collect "
                "them with eigenvalues=True, or use mu.solvers.kfac"
            )
        return self.factors

    def _info(self, inverse: KroneckerInverse) -> KroneckerInfo:
        passes = 0 if self.factors is not None else 1 + self.eigenvalues
        layers = inverse.layers
        return KroneckerInfo(
            products=as_array(passes, np.int32),
            damping=jnp.stack([x.astype(jnp.result_type(float)) for x in inverse.damping]),
            share=as_array(_share(layers), np.float32),
            blocks=Blocks(tuple(layers.blocks.items())),
        )


def _share(layers: KroneckerLayers) -> float:
    """The share of the parameters that are in layers."""
    inside = sum(int(np.prod(layer.matrices)) for layer in layers.layers)
    return inside / sum(int(np.prod(shape)) for shape in layers.shapes)


@dataclasses.dataclass(frozen=True)
class kfac(_Kronecker):
    """K-FAC: `v -> (A x S + damping I)^-1 v`, layer by layer.

    The Gauss-Newton matrix (of cross-entropy: the true Fisher) is taken for block-diagonal over
    layers, and the block of a layer for the Kronecker product of A, the second moment of its inputs
    (with a 1 for the bias), and S, that of the gradients of its outputs. With the eigenvectors of
    both, the damped inverse is exact:

        V -> Q_A ((Q_A^T V Q_S) / (k d_A d_S^T + damping)) Q_S^T

    where k is the number of positions of an example, 1 for a dense layer: gradients at different
    positions of a convolution or of tokens are taken for uncorrelated. Other leaves, such as norm
    scales and embeddings, have the diagonal of the Fisher; `details.blocks` says which.

    The factors are exact where a layer is the only one and has one example, or inputs that are all
    the same, or is linear with squared errors. They stand in for the curvature of the problem,
    whose `curvature` is not read. As the preconditioner of conjugate gradients,
    `conjugate_gradients(preconditioner=kfac())`, they cost no accuracy.

    Args:
      damping: in place of the problem's, absolute; may be traced. Default None: the problem's, and
        where that is 0 a tenth of the mean eigenvalue of each block, the usual choice.
      labels: of the gradients: "model" (default) draws them from the model, "expected" takes all of
        them, "data" those of the data, the empirical Fisher; see `mu.statistics.curvature.kfac`.
      seed: of the drawn labels.
      factors: from `mu.statistics.curvature.kronecker_factors`, collected at the same variables;
        default None collects them over the data of the problem.
      real: which positions are no padding, see `mu.statistics.curvature.kfac`.
      max_width: kernels with more inputs or outputs get a diagonal.

    Returns:
      `solver(problem, vector) -> Solution`; its `details` are a `KroneckerInfo`.

    Raises:
      ValueError: factors or a vector of other variables, a model without any dense or convolution
        layer, a negative damping, unknown labels.

    Cost: one pass over the data and one eigendecomposition of each factor, `O(i^3 + o^3)`; then
    `2 i o (i + o)` multiplications for each layer and vector. Memory: `i^2 + o^2` for each layer.

    Fails where layers have correlations that matter, where examples are few and one dominates, and
    for sampled labels of few examples, which are noisy.

    Differences from `pomonam/kronfluence`:
      1. The block of a layer with several positions carries their number; there A and S are both
         means over positions, so the block of a convolution is too small by that factor.
      2. Damping unset is a tenth of the mean eigenvalue; there 1e-8 by default.
      3. Convolutions over any number of axes, with groups; kernels that are used several times.

    References:
      J. Martens, R. Grosse. Optimizing Neural Networks with Kronecker-factored Approximate
      Curvature. ICML 2015. R. Grosse, J. Martens. A Kronecker-factored Approximate Fisher Matrix
      for Convolution Layers. ICML 2016.

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> data = mu.batches(jnp.array([[1.0], [1.0]]), jnp.zeros((2, 1)), batch_size=2)
      >>> problem = mu.solvers.Problem(model, mu.Variables(jnp.ones((1, 1))), data, damping=2.0)
      >>> value, info = kfac()(problem, jnp.array([[8.0]]))  # the curvature is 2
      >>> value.round(4).tolist(), info.blocks.words
      ([[2.0]], (('', 'kronecker'),))
    """


@dataclasses.dataclass(frozen=True)
class ekfac(_Kronecker):
    """EK-FAC: K-FAC with eigenvalues that are fitted again, in the eigenvectors of its factors.

        V -> Q_A ((Q_A^T V Q_S) / (Lambda + damping)) Q_S^T,   Lambda = E[(Q_A^T G_i Q_S)^2]

    with G_i the gradient of example i, summed over its positions. In the Frobenius norm no other
    eigenvalues in this basis are nearer to the Fisher matrix; the scale of layers with several
    positions is right, whatever the correlation between them.

    Args:
      damping, labels, seed, factors, real, max_width: as of `kfac`; factors that are given have
        been collected with `eigenvalues=True`.

    Returns:
      `solver(problem, vector) -> Solution`; its `details` are a `KroneckerInfo`.

    Raises:
      ValueError: what `kfac` refuses; factors without eigenvalues.

    Cost: two passes over the data, else that of `kfac`; memory of the parameters beside.

    References:
      T. George, C. Laurent, X. Bouthillier, N. Ballas, P. Vincent. Fast Approximate Natural
      Gradient Descent in a Kronecker-factored Eigenbasis. NeurIPS 2018. R. Grosse et al. Studying
      Large Language Model Generalization with Influence Functions. 2023 (arXiv 2308.03296).

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> data = mu.batches(jnp.array([[1.0], [3.0]]), jnp.zeros((2, 1)), batch_size=2)
      >>> problem = mu.solvers.Problem(model, mu.Variables(jnp.ones((1, 1))), data, damping=2.0)
      >>> ekfac()(problem, jnp.array([[6.0]])).value.round(4).tolist()  # the curvature is 10
      [[0.5]]
    """

    eigenvalues: ClassVar[bool] = True
