"""Kronecker factors of a model's curvature: collected, merged, and a part taken out."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax._at_once import is_known, on_host, to_host
from mu_jax.data.checks import check_range, check_repeatable
from mu_jax.model import Model
from mu_jax.statistics.accumulator import Accumulator, check_fingerprint, fingerprint
from mu_jax.statistics.collecting import collect
from mu_jax.statistics.curvature.draws import Labels
from mu_jax.statistics.curvature.inverse import KroneckerInverse
from mu_jax.statistics.curvature.kronecker import Real, ekfac, kfac
from mu_jax.statistics.curvature.layers import KroneckerLayers, kronecker_layers

PyTree = Any


class Eigenbasis(NamedTuple):
    """Eigenvectors and eigenvalues of the two factors of a layer.

    Attributes:
      inputs: Q_A [n, i, i]. outputs: Q_S [n, o, o].
      input_values: of A / N, [n, i]. output_values: of S / N, [n, o].
    """

    inputs: jax.Array
    outputs: jax.Array
    input_values: jax.Array
    output_values: jax.Array

    @property
    def vectors(self) -> tuple[jax.Array, jax.Array]:
        """Q_A and Q_S."""
        return self.inputs, self.outputs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KroneckerFactors:
    """The curvature of the mean loss by K-FAC, or by EK-FAC where eigenvalues are there.

    It holds sums: two of them can be merged, and a part can be taken out.

    Attributes:
      layers: which parameters are in which block.
      factors: the sums of `kfac`.
      bases: an `Eigenbasis` for each layer.
      eigenvalues: the sums of `ekfac` in these bases; None for K-FAC.
    """

    layers: KroneckerLayers = dataclasses.field(metadata={"static": True})
    factors: Accumulator
    bases: tuple[Eigenbasis, ...]
    eigenvalues: Accumulator | None = None

    def merge(self, other: KroneckerFactors) -> KroneckerFactors:
        """The factors over both sets of examples, exact; EK-FAC's bases stay as they are.

        Raises:
          ValueError: other layers, labels or variables; eigenvalues in other bases (collect the
            second set with `like` the first); K-FAC with EK-FAC.
        """
        if self.layers != other.layers or (self.eigenvalues is None) != (other.eigenvalues is None):
            raise ValueError(
                "expected two factors of the same layers, both with eigenvalues or both without, "
                "found others: collect the second with like= the first"
            )
        factors = self.factors.merge(other.factors)
        if self.eigenvalues is None or other.eigenvalues is None:
            return dataclasses.replace(
                self, factors=factors, bases=eigenbases(self.layers, factors)
            )
        own, others = self.eigenvalues.fingerprint, other.eigenvalues.fingerprint
        if is_known((own, others)) and not np.array_equal(own, others):
            raise ValueError(
                "expected eigenvalues in the same bases, found two bases: collect the second "
                "factors with like= the first"
            )
        merged = self.eigenvalues.merge(other.eigenvalues)
        return dataclasses.replace(self, factors=factors, eigenvalues=merged)

    def without(self, part: KroneckerFactors) -> KroneckerFactors:
        """The factors over the remaining examples, from sums and without a further pass.

        The sums are exact; EK-FAC keeps its bases, those of all examples, and is exact in them.
        Collect the part with `like` the whole.
        """
        if self.eigenvalues is None or part.eigenvalues is None:
            negative = None
        else:
            negative = part.eigenvalues.negative
        part = dataclasses.replace(part, factors=part.factors.negative, eigenvalues=negative)
        return self.merge(part)

    @property
    def spectrum(self) -> tuple[jax.Array, ...]:
        """The eigenvalues of each layer's block, [n, i, o], in its bases."""
        found = []
        for layer, basis in zip(self.layers.layers, self.bases):
            name = self.layers.names[layer.kernel]
            if self.eigenvalues is not None:
                total = self.eigenvalues.sum[name]
                found.append(total / self.eigenvalues.weight.astype(total.dtype))
                continue
            positions = self.factors.sum["layers"][name].positions
            positions = positions / self.factors.weight.astype(positions.dtype)
            outer = basis.input_values[:, :, None] * basis.output_values[:, None]
            found.append(positions * jnp.maximum(outer, 0))
        return tuple(found)

    def check(self, params: PyTree) -> None:
        """Refuse parameters other than those of the factors, where they can be seen.

        Raises:
          ValueError: other names, shapes or values.
        """
        self.layers.check(params)
        check_fingerprint(self.factors, fingerprint(params))

    def inverse(self, damping: jax.Array | float | None = None) -> KroneckerInverse:
        """`(C + damping I)^-1` as a linear function of a tree.

        Args:
          damping: f[], may be traced; None, the default, takes a tenth of the mean eigenvalue of
            each block, and so does 0 (which would divide by eigenvalues that are 0).

        Raises:
          ValueError: a negative damping.

        Cost: one eigendecomposition of each factor has been paid already; nothing here.
        """
        check_range(0, damping=damping)
        damping = 0.0 if damping is None else damping
        return _inverse(self, damping)


_RELATIVE = 0.1  # of the mean eigenvalue of a block, the usual damping of EK-FAC


@jax.jit
def _inverse(factors: KroneckerFactors, damping: jax.Array | float) -> KroneckerInverse:
    layers, spectrum = factors.layers, factors.spectrum
    means = factors.factors.sum["diagonal"]
    diagonal = tuple(
        means[layers.names[leaf]] / factors.factors.weight.astype(means[layers.names[leaf]].dtype)
        for leaf in layers.diagonal
    )
    blocks = (*spectrum, *diagonal)
    given = jnp.asarray(damping)
    dampings = tuple(
        jnp.where(given > 0, given.astype(x.dtype), _RELATIVE * x.mean()) for x in blocks
    )
    vectors = tuple(basis.vectors for basis in factors.bases)
    return KroneckerInverse(layers, vectors, spectrum, diagonal, dampings)


@jax.jit
def _eigenbases(sums: PyTree) -> tuple[Eigenbasis, ...]:
    def decompose(total: jax.Array, positions: jax.Array) -> list[jax.Array]:
        wide = jnp.promote_types(total.dtype, jnp.result_type(float))  # float64 where that is on
        mean = (total / positions).astype(wide)
        mean = (mean + mean.swapaxes(1, 2)) / 2
        return [x.astype(total.dtype) for x in jnp.linalg.eigh(mean, symmetrize_input=False)]

    found = []
    for inputs, outputs, positions in sums:
        (d_a, q_a), (d_s, q_s) = decompose(inputs, positions), decompose(outputs, positions)
        found.append(Eigenbasis(q_a, q_s, d_a, d_s))
    return tuple(found)


def eigenbases(layers: KroneckerLayers, factors: Accumulator) -> tuple[Eigenbasis, ...]:
    """Eigenvectors and eigenvalues of the factors of each layer.

    Decomposed in float32, or in float64 where that is on, after symmetrization.

    Args:
      layers: of the factors.
      factors: the sums of `kfac`.

    Raises:
      ValueError: gradients of outputs that are all 0, so that there is no curvature.

    Cost: `O(i^3 + o^3)` for a layer of i inputs and o outputs.
    """
    sums = [factors.sum["layers"][layers.names[layer.kernel]] for layer in layers.layers]
    outputs = [own.outputs for own in sums]
    if on_host(outputs) and not any(np.any(x) for x in to_host(outputs)):
        raise ValueError(
            "expected a loss with curvature in the outputs, found none, so that all factors are 0: "
            "take labels='data', or another loss"
        )
    return _eigenbases(sums)


def kronecker_factors(
    model: Model,
    variables: PyTree,
    data: Any,
    *,
    eigenvalues: bool = True,
    labels: Labels = "model",
    seed: int = 0,
    real: Real | None = None,
    max_width: int = 8192,
    like: KroneckerFactors | None = None,
) -> KroneckerFactors:
    """Collect the curvature of the mean loss over `data` by K-FAC or EK-FAC.

    Args:
      model, variables: the model.
      data: `Batches`, a `Stream` or an iterable of `Batch` that can be walked through twice.
      eigenvalues: EK-FAC, by a second pass; False is K-FAC.
      labels, seed, real: see `kfac`.
      max_width: see `kronecker_layers`.
      like: factors whose layers and bases to take, so that the two can be merged, or the new ones
        be taken out of them; with the same labels and seed.

    Returns:
      A `KroneckerFactors`; `.inverse(damping)` applies the damped inverse, `.layers.blocks` say
      which parameters have a diagonal only.

    Raises:
      ValueError: a model without layers, labels that are not known, a sum that is not finite, an
        iterator.

    Cost: one or two passes over the data (`kfac`, `ekfac`), one eigendecomposition of each factor.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, mu_jax as mu
      >>> module, data = nn.Dense(3), mu.batches(jnp.eye(4), jnp.arange(4) % 3, batch_size=4)
      >>> model = mu.from_linen(module, mu.losses.cross_entropy)
      >>> variables = module.init(jax.random.key(0), data.inputs)
      >>> factors = kronecker_factors(model, variables, data, labels="expected")
      >>> inverse = factors.inverse(damping=0.1)
      >>> jax.tree.map(jnp.shape, inverse(variables["params"]))
      {'bias': (3,), 'kernel': (4, 3)}
    """
    check_repeatable(data)
    layers = like.layers if like else None
    if layers is None:
        layers = kronecker_layers(model, variables, data, max_width=max_width)
    options: dict[str, Any] = {"labels": labels, "seed": seed, "real": real}
    factors = collect(kfac(model, layers, **options), variables, data)
    bases = like.bases if like else eigenbases(layers, factors)
    if not eigenvalues:
        return KroneckerFactors(layers, factors, bases)
    given = variables, tuple(basis.vectors for basis in bases)
    second = collect(ekfac(model, layers, **options), given, data)
    return KroneckerFactors(layers, factors, bases, second)
