"""K-FAC factors and the eigenvalues of EK-FAC, as sums over examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp

from mu_jax._tracing import cached
from mu_jax.data.batches import Batch
from mu_jax.data.tokens import Tokens
from mu_jax.loops.labels import counted
from mu_jax.losses import total_weight
from mu_jax.mesh.shards import vary, varying_axes
from mu_jax.model import Model
from mu_jax.statistics._engine.chunks import sum_in_chunks
from mu_jax.statistics._engine.kronecker import Chunk, FactorSums, find_layers
from mu_jax.statistics._engine.taps import gradients
from mu_jax.statistics.accumulator import Statistic, SumOf, sum_dtype
from mu_jax.statistics.curvature.draws import Labels, count_draws
from mu_jax.statistics.curvature.layers import KroneckerLayers, traced

PyTree = Any
Real = Callable[[Batch], jax.Array | None]
OfChunk = Callable[[Chunk], PyTree]
Zero = Callable[[KroneckerLayers, list], PyTree]


@cached(maxsize=64)
def kfac(
    model: Model,
    layers: KroneckerLayers,
    *,
    labels: Labels = "model",
    seed: int = 0,
    real: Real | None = None,
) -> Statistic:
    """Kronecker factors of the Fisher matrix, K-FAC, and the diagonal of all other leaves.

    For a layer with input a (and a 1 for the bias) and gradient s of its output, at the positions t
    of example i, the sums over examples and positions are

        A = sum_it w_i a_it a_it^T,    S = sum_it w_i s_it s_it^T,    N = sum_it w_i,

    and the block of the Fisher matrix is taken for `(N / sum_i w_i) (A / N) x (S / N)`: as if
    inputs and gradients were independent, and positions uncorrelated. Other leaves have
    `sum_i w_i g_i^2`.

    | labels | s is the gradient for | mean of the outputs' products | passes |
    |---|---|---|---|
    | `model` | a label drawn from the model, or signs times a root of H | H, on average | 1 |
    | `expected` | every label, weighted by its probability; the columns of a root | H | outputs |
    | `data` | the label of the data: the empirical Fisher, no curvature | - | 1 |

    H is the Hessian of the loss in the outputs, so that the matrix approximated is that of
    `curvature="gauss_newton"`. The label of example i is drawn from `fold_in(key(seed), index_i)`,
    the same in any batch and on any mesh: sums of two sets can be merged, and the sums of a part
    subtracted exactly (`Accumulator.without`).

    Args:
      model: the model; inference mode. Cross-entropy is known; of any other loss the Hessian in the
        outputs of an example, at most 256, is formed, and the positive part of it taken.
      layers: from `kronecker_layers`.
      labels: see the table.
      seed: of the drawn labels.
      real: `batch -> f[B, T]`, 0 where a position is padding, which is then in no sum and no count
        of layers with T positions; default the segments of `mu.data.Tokens`, else none is.

    Returns:
      A `Statistic`; its sums are `{"layers": {name: (inputs, outputs, positions)}, "diagonal":
      {name: squares}}`, with A, S and N of each layer by the name of its kernel.

    Raises:
      ValueError: unknown labels; layers of another model; a loss whose Hessian is too large.

    Cost: one forward and one backward pass, in which the products that give gradients of kernels
    are replaced by those of a and of s with themselves. Memory: the factors, `i^2 + o^2` numbers
    for a layer of i inputs and o outputs.

    References:
      J. Martens, R. Grosse. Optimizing Neural Networks with Kronecker-factored Approximate
      Curvature. ICML 2015. R. Grosse, J. Martens. A Kronecker-factored Approximate Fisher Matrix
      for Convolution Layers. ICML 2016.

    Example:
      >>> import jax.numpy as jnp, mu_jax as mu
      >>> from mu_jax.statistics import curvature
      >>> data = mu.batches(2 * jnp.eye(2), jnp.ones((2, 1)), batch_size=2)
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> variables = mu.Variables(jnp.zeros((2, 1)))
      >>> layers = curvature.kronecker_layers(model, variables, data)
      >>> sums = mu.collect(curvature.kfac(model, layers), variables, data).sum["layers"]
      >>> [factor.round(4).tolist() for factor in sums[""]]
      [[[[4.0, 0.0], [0.0, 4.0]]], [[[4.0]]], 2.0]
    """
    check_labels_kind(labels)

    names, drawing = layers.names, _Drawing(model, layers, labels, seed, real or _real)

    def of_chunk(chunk):
        sums = {names[layer.kernel]: chunk.sums(layer) for layer in layers.layers}
        squares = {names[leaf]: chunk.squares(leaf) for leaf in layers.diagonal}
        return {"layers": sums, "diagonal": squares}

    def terms(variables, batch):
        return drawing.sum(variables, batch, of_chunk, _no_factors)

    def params(variables):
        return layers.checked(model.params(variables))

    def like(variables):
        return _no_factors(layers, _types(model.params(variables)))

    return SumOf(terms, params, drawing.name("K-FAC factors"), like=like)


@cached(maxsize=64)
def ekfac(
    model: Model,
    layers: KroneckerLayers,
    *,
    labels: Labels = "model",
    seed: int = 0,
    real: Real | None = None,
) -> Statistic:
    """The eigenvalues of EK-FAC, in the eigenvectors of K-FAC's factors.

    `sum_i w_i (Q_A^T G_i Q_S)^2` for each layer, with `G_i = sum_t a_it s_it^T` the gradient of
    example i: the diagonal of the Fisher matrix in that basis, which no other diagonal brings
    nearer to the matrix. Its mean replaces the products of the factors' eigenvalues.

    Labels of the model are drawn anew, from `fold_in(split(key(seed))[0], index_i)`: with those
    that the bases were fitted to, large eigenvalues would come out too large and small ones too
    small.

    Args:
      model, layers, labels, seed, real: as of `kfac`.

    Returns:
      A `Statistic` of pairs `(variables, bases)`, with `bases` a tuple of (Q_A, Q_S) for each
      layer, from `eigenbases`; its sums are `{name: f[n, i, o]}`.

    Cost: one forward and one backward pass, and the rotation of a and s. For layers with one
    position no gradient is formed, `(aQ)^2^T (sQ)^2`; else those of a few examples at a time.

    References:
      T. George, C. Laurent, X. Bouthillier, N. Ballas, P. Vincent. Fast Approximate Natural
      Gradient Descent in a Kronecker-factored Eigenbasis. NeurIPS 2018.
    """
    check_labels_kind(labels)

    drawing = _Drawing(model, layers, labels, seed, real or _real, again=True)

    def terms(given, batch):
        variables, bases = given

        def of_chunk(chunk):
            return {
                layers.names[layer.kernel]: chunk.rotated_squares(layer, basis)
                for layer, basis in zip(layers.layers, bases, strict=True)
            }

        return drawing.sum(variables, batch, of_chunk, _no_eigenvalues)

    def params(given):
        # Sums in other bases are sums of something else.
        return layers.checked(model.params(given[0])), given[1]

    def like(given):
        return _no_eigenvalues(layers, _types(model.params(given[0])))

    return SumOf(terms, params, drawing.name("EK-FAC eigenvalues"), like=like)


def _types(params: PyTree) -> list:
    """The types of the sums of each leaf."""
    return [sum_dtype(leaf.dtype) for leaf in jax.tree.leaves(params)]


def _no_factors(layers: KroneckerLayers, dtypes: list) -> PyTree:
    found = {}
    for layer in layers.layers:
        (n, i, o), dtype = layer.matrices, dtypes[layer.kernel]
        zeros = jnp.zeros((n, i, i), dtype), jnp.zeros((n, o, o), dtype), jnp.zeros((), dtype)
        found[layers.names[layer.kernel]] = FactorSums(*zeros)
    squares = {
        layers.names[leaf]: jnp.zeros(layers.shapes[leaf], dtypes[leaf]) for leaf in layers.diagonal
    }
    return {"layers": found, "diagonal": squares}


def _no_eigenvalues(layers: KroneckerLayers, dtypes: list) -> PyTree:
    return {
        layers.names[layer.kernel]: jnp.zeros(layer.matrices, dtypes[layer.kernel])
        for layer in layers.layers
    }


class _Drawing(NamedTuple):
    """Whose gradients are summed, of which labels; `again` are labels drawn a second time."""

    model: Model
    layers: KroneckerLayers
    labels: Labels
    seed: int
    real: Real
    again: bool = False

    def name(self, what: str) -> str:
        """The definition of a statistic; the labels of the data have no seed."""
        drawn = "" if self.labels != "model" else f", seed {self.seed}"
        return f"{what}: labels {self.labels}{drawn}"

    def sum(
        self, variables: PyTree, batch: Batch, of_chunk: OfChunk, zero: Zero
    ) -> tuple[PyTree, jax.Array]:
        """What one batch adds: sums over chunks of its rows, and over the draws of labels."""
        given, batch = batch.weight, counted(self.model, batch)
        params, state = self.model.split(variables)
        outputs = jax.eval_shape(self.model.predict, params, state, batch.inputs)
        draws, weight = count_draws(self.model, self.labels, outputs), batch.weight
        batch = batch._replace(weight=jnp.where(weight != 0, given, 0))
        start = zero(self.layers, _types(params))

        def add(number: Any, total: PyTree) -> PyTree:
            found = self._draw(variables, batch, weight, number, of_chunk, start)
            return jax.tree.map(jnp.add, total, found)

        start = vary(start, varying_axes((params, batch)))
        total = add(0, start) if draws == 1 else jax.lax.fori_loop(0, draws, add, start)
        return total, total_weight(weight)

    def _draw(
        self,
        variables: PyTree,
        batch: Batch,
        weight: jax.Array,
        number: Any,
        of_chunk: OfChunk,
        zero: PyTree,
    ) -> PyTree:
        program, leaves, rows = traced(
            self.model, self.labels, variables, batch, self.seed, number, self.again
        )
        found = find_layers(program, leaves, self.layers.max_width)
        if found != self.layers.layers:
            raise ValueError(
                "expected data of which the layers are those that are given, found other layers: "
                "find them again with this data"
            )
        biases = {layer.bias for layer in found}
        program = program._replace(copied=[leaf for leaf in program.copied if leaf not in biases])

        def terms(rows: PyTree, weight: jax.Array) -> PyTree:
            once = (weight != 0) & (jnp.asarray(number) == 0)  # inputs are those of every draw
            own = jnp.where(once, rows[0].weight, 0)
            given = gradients(program, leaves, rows)
            return of_chunk(Chunk(program, leaves, *given, weight, own, self.real(rows[0])))

        return sum_in_chunks(program, leaves, rows, weight, terms, zero)


def _real(batch: Batch) -> jax.Array | None:
    """Which positions are no padding, of tokens."""
    inputs = batch.inputs
    return (inputs.segment != 0).astype(jnp.float32) if isinstance(inputs, Tokens) else None


def check_labels_kind(labels: str) -> None:
    """Refuse unknown labels."""
    known = get_args(Labels)
    if labels not in known:
        raise ValueError(f"expected labels among {', '.join(known)}, found {labels!r}: choose one")
