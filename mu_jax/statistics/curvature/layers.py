"""Which parameters of a model have Kronecker factors, and which only a diagonal."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from mu_jax.data.batches import Batches
from mu_jax.data.checks import check_counts, check_params, check_repeatable
from mu_jax.loops.labels import counted
from mu_jax.mesh.shards import bare
from mu_jax.model import Model, path_name
from mu_jax.statistics._engine.chunks import prepare
from mu_jax.statistics._engine.kronecker import Layer, find_layers
from mu_jax.statistics._engine.products import Program
from mu_jax.statistics.curvature.draws import Labels, keys_of, losses

PyTree = Any


@dataclasses.dataclass(frozen=True)
class KroneckerLayers:
    """The blocks into which the parameters of a model are divided; it can be hashed.

    Attributes:
      layers: dense layers and convolutions, each with its bias if it has one.
      names: of all leaves, such as `Dense_0/kernel`.
      shapes: of all leaves.
      max_width: the most inputs or outputs of a layer with factors.
    """

    layers: tuple[Layer, ...]
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    max_width: int

    @property
    def diagonal(self) -> tuple[int, ...]:
        """The numbers of the leaves that have a diagonal only."""
        inside = {leaf for layer in self.layers for leaf in (layer.kernel, layer.bias)}
        return tuple(leaf for leaf in range(len(self.names)) if leaf not in inside)

    @property
    def blocks(self) -> dict[str, str]:
        """What stands for each leaf: `kronecker`, `with <kernel>` or `diagonal`, by its name."""
        words = dict.fromkeys(self.names, "diagonal")
        for layer in self.layers:
            words[self.names[layer.kernel]] = "kronecker"
            if layer.bias is not None:
                words[self.names[layer.bias]] = f"with {self.names[layer.kernel]}"
        return words

    def checked(self, params: PyTree) -> PyTree:
        """The parameters, if they are those of the layers; see `check`."""
        self.check(params)
        return params

    def check(self, params: PyTree) -> None:
        """Refuse parameters of another model.

        Raises:
          ValueError: other names or shapes.
        """
        names, shapes = _names_and_shapes(params)
        if (names, shapes) != (self.names, self.shapes):
            raise ValueError(
                f"expected the parameters that the layers were found in, {_some(self.names)}, "
                f"found {_some(names)}, or other shapes: find the layers of this model"
            )


def kronecker_layers(
    model: Model, variables: PyTree, data: Any, *, max_width: int = 8192
) -> KroneckerLayers:
    """Find the layers whose curvature has Kronecker factors.

    They are the kernels of dense layers and convolutions, groups, layers in a scan and kernels that
    are used several times included. A bias that is added to all outputs of such a kernel and used
    nowhere else is one more input of it, always 1. Tables of embeddings, norm scales, biases of
    another kind and kernels that are changed before use get a diagonal.

    Args:
      model, variables: the model.
      data: `Batches`, a `Stream`, or a list of `Batch`; shapes of its first batch are read.
      max_width: kernels with more inputs or outputs get a diagonal: a factor has their square.

    Returns:
      A `KroneckerLayers`; its `blocks` say what stands for each leaf.

    Raises:
      ValueError: a model without any dense or convolution layer of this width; an iterator, which
        can be walked through once only.

    Cost: one trace of the loss of one example.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, mu_jax as mu
      >>> module, data = nn.Dense(3), mu.batches(jnp.ones((4, 2)), jnp.arange(4) % 3, batch_size=4)
      >>> model = mu.from_linen(module, mu.losses.cross_entropy)
      >>> variables = module.init(jax.random.key(0), data.inputs)
      >>> kronecker_layers(model, variables, data).blocks
      {'bias': 'with kernel', 'kernel': 'kronecker'}
    """
    check_counts(1, max_width=max_width)
    check_repeatable(data)
    params = model.params(variables)
    check_params(params)
    found: list[tuple[Layer, ...]] = []

    def trace(variables, batch):
        program, leaves, _ = traced(model, "model", variables, counted(model, batch), 0)
        found.append(find_layers(program, leaves, max_width))

    first = jax.eval_shape(data.at, 0) if isinstance(data, Batches) else next(iter(data))
    jax.eval_shape(trace, *bare((variables, first)))
    names, shapes = _names_and_shapes(params)
    if not found[0]:
        raise ValueError(
            f"expected a model with a dense or convolution layer of at most {max_width} inputs and "
            f"outputs, found none among {_some(names)}: use mu.solvers.conjugate_gradients, which "
            "needs no layers"
        )
    return KroneckerLayers(found[0], names, shapes, max_width)


def traced(
    model: Model,
    labels: Labels,
    variables: PyTree,
    batch: Any,
    seed: int,
    number: Any = 0,
    again: bool = False,
) -> tuple[Program, list[jax.Array], Any]:
    """The program of one row's loss, the leaves, and the rows: of `draws.losses`."""
    params, state = model.split(variables)

    def one(params, rows):
        return losses(model, labels, params, state, rows, number)

    return prepare(one, params, (batch, keys_of(batch, seed, again)))


def _names_and_shapes(params: PyTree) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    leaves = jax.tree.leaves_with_path(params)
    return tuple(path_name(path) for path, _ in leaves), tuple(leaf.shape for _, leaf in leaves)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
