"""The dense layers and convolutions of any model: their kernels, and what enters them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import partial_eval

from mu_jax._tracing import cached
from mu_jax.data.batches import Batches
from mu_jax.data.rows import shapes_of_rows
from mu_jax.mesh.shards import bare, vary, varying_axes
from mu_jax.model import Model, lies_in, path_name
from mu_jax.statistics._engine.matrices import Convolution, Steps, replay
from mu_jax.statistics._engine.products import trace
from mu_jax.statistics._engine.taps import recorded

PyTree = Any
Array = jax.Array


class Layer(NamedTuple):
    """A leaf that is a kernel, `y[n, t] = a[n, t] @ kernel[n]`, at positions t of every example.

    Attributes:
      name: of the leaf among all variables, such as `params/Dense_0/kernel`.
      leaf: its number among the leaves of the variables.
      shape: n, i, o: kernels side by side, inputs and outputs of each.
      channels: the channel of each input; those of a convolution are there for every tap.
      products: numbers of the places where it is used.
      back: the way from [n, i, o] to the layout of the leaf.
      positions: t of one example. dense: whether it is no convolution; a leaf of four axes is one,
        [height, width, channels, outputs] where it multiplies patches.
    """

    name: str
    leaf: int
    shape: tuple[int, int, int]
    channels: tuple[int, ...]
    products: tuple[int, ...]
    back: Steps
    positions: int
    dense: bool

    def to_leaf(self, kernel: Array) -> Array:
        """An array [n, i, o] in the layout of the leaf."""
        return replay(self.back, kernel)

    def from_leaf(self, leaf: Array) -> Array:
        """The leaf as an array [n, i, o]; its entries are only moved."""
        there = jax.linear_transpose(self.to_leaf, jax.ShapeDtypeStruct(self.shape, leaf.dtype))
        return there(leaf)[0]


def find_layers(model: Model, variables: PyTree, inputs: PyTree) -> tuple[Layer, ...]:
    """The dense layers and convolutions of a model in inference mode, in the order of their use.

    A leaf that is looked up, shared with its transpose, or used in other ways as well is none.

    Args:
      model, variables: the model; shapes are read alone. inputs: of any examples.

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(
      ...     lambda p, state, x: x @ p["w"].T + p["b"], mu.losses.squared_error)
      >>> start = mu.Variables({"w": jnp.ones((3, 2)), "b": jnp.ones(3)})
      >>> [(x.name, x.shape) for x in find_layers(model, start, jnp.ones((1, 2)))]
      [('params/w', (1, 2, 3))]
    """
    return _found(model, *_hashed((bare(variables), shapes_of_rows(inputs, 1))))


@cached(maxsize=64)
def _found(model: Model, structure: Any, shapes: tuple) -> tuple[Layer, ...]:
    variables, inputs = jax.tree.unflatten(structure, shapes)
    program = trace(model.apply, variables, inputs)
    paths = jax.tree_util.tree_leaves_with_path(variables)
    found = []
    for leaf, uses in program.uses.items():
        if uses.lookups or any(use.flipped for use in uses.products):
            continue
        numbers = tuple(use.number for use in uses.products)
        name, size = path_name(paths[leaf][0]), shapes[leaf].ndim
        layer = Layer(name, leaf, uses.shape, (), numbers, uses.back, uses.positions, size < 4)
        channels = _channels(layer, uses.products[0].form, shapes[leaf].shape)
        found.append(layer._replace(channels=channels))
    return tuple(sorted(found, key=lambda layer: layer.products))


def _channels(layer: Layer, form: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    if isinstance(form, Convolution):
        size = form.kernel[-2]
        return tuple(range(size)) * (layer.shape[1] // size)
    if layer.dense:
        return tuple(range(layer.shape[1]))
    with jax.ensure_compile_time_eval():  # a convolution as a product of patches
        places = jnp.broadcast_to(jnp.arange(float(shape[-2]))[:, None], shape)
        return tuple(np.asarray(layer.from_leaf(places)[0, :, 0]).astype(int).tolist())


def with_inputs(
    function: Callable[..., PyTree], layers: Sequence[Layer], variables: PyTree, *args: PyTree
) -> tuple[PyTree, list[Array]]:
    """`function(variables, *args)`, and what enters the layers there, a[n, T, i] of each.

    Args:
      function: of the model, such as `model.apply` or `model.apply_train`; T are the positions of
        all rows, those of a row behind one another.
      layers: see `find_layers`.

    Cost: that of the function.
    """
    leaves, rest = jax.tree.leaves(variables), jax.tree.leaves(args)
    varying = varying_axes((leaves, rest))
    leaves, rest = ([_varied(x, varying) for x in part] for part in (leaves, rest))
    variables = jax.tree.unflatten(jax.tree.structure(variables), leaves)
    args = jax.tree.unflatten(jax.tree.structure(args), rest)
    program = trace(lambda variables, args: function(variables, *args), variables, args)
    products = program.plan.all_products()  # also of leaves that come out as they are
    numbers = [[p.number for p in products if p.origin.leaf == layer.leaf] for layer in layers]
    outputs, records = recorded(program, [*leaves, *rest], list(itertools.chain(*numbers)))
    entering = [jnp.concatenate([records[number] for number in each], 1) for each in numbers]
    shapes = jax.eval_shape(function, variables, *args)
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs), entering


def _varied(x: Any, axes: Any) -> Array:
    return vary(jnp.asarray(x), axes) if axes else jnp.asarray(x)


def last_layer(model: Model, variables: PyTree, inputs: PyTree) -> Layer:
    """The dense layer in whose kernel the outputs are affine, used last and once for each example.

    Raises:
      ValueError: a model that ends otherwise.
    """
    found = find_layers(model, variables, inputs)
    if not found:
        raise ValueError(
            "expected a model that ends with a dense layer, found none in it: name the embedding"
        )
    check_last(model, variables, inputs, found[-1])
    return found[-1]


def check_last(model: Model, variables: PyTree, inputs: PyTree, layer: Layer) -> None:
    """Refuse what is no dense layer, used once a row, in whose kernel the outputs are affine."""
    if not layer.dense or layer.shape[0] * layer.positions * len(layer.products) != 1:
        raise ValueError(
            f"expected a model that ends with a dense layer, one product a row, found "
            f"{layer.name!r} with {layer.positions} positions: name another layer or the embedding"
        )
    given = bare(variables), shapes_of_rows(inputs, 1)
    if layer.leaf in _read_by_derivative(model, *_hashed(given), layer.leaf):
        raise ValueError(
            f"expected outputs that are linear in {layer.name!r}, found that something is computed "
            "of its outputs: give a model that ends with this layer, or name another"
        )


def _hashed(tree: PyTree) -> tuple[Any, tuple]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple(leaves)


def named_layer(layers: Sequence[Layer], name: str) -> Layer:
    """The layer whose leaf has a name, or the one whose leaf lies in the layer of this name.

    A name may stand without that of its collection, `Dense_0/kernel` for `params/Dense_0/kernel`.

    Raises:
      ValueError: no such layer, or several.
    """
    exact = [x for x in layers if x.name == name or x.name.endswith("/" + name)]
    found = exact or [x for x in layers if lies_in(x.name, name)]
    if len(found) != 1:
        known = ", ".join(layer.name for layer in layers) or "none"
        raise ValueError(
            f"expected the name of one kernel of a dense layer or convolution among {known}, "
            f"found {name!r}: name one of these"
        )
    return found[0]


class Head(NamedTuple):
    """The last layer of a classifier. layer: its kernel. biased: whether a bias is added."""

    layer: Layer
    biased: bool


def find_head(
    model: Model, variables: PyTree, data: Any, names: str | Sequence[str] | None = None
) -> Head:
    """The dense layer whose outputs are the logits of a classifier.

    Args:
      model, variables: the classifier. data: examples, of which shapes are read.
      names: one of the layer, whose bias is the leaf in it that is added to its outputs, or two, of
        the kernel and the bias; default: the layer that is used last, and whatever leaf of one
        number a class is added to its outputs.

    Raises:
      ValueError: a model that ends otherwise, logits of another number, and logits that are not
        linear in the kernel, such as log-probabilities.
    """
    inputs = example_inputs(data)
    given = bare(variables), shapes_of_rows(inputs, 1)
    if names is None:
        layer = last_layer(model, variables, inputs)
    else:
        layers = find_layers(model, variables, inputs)
        layer = named_layer(layers, names if isinstance(names, str) else names[0])
        check_last(model, variables, inputs, layer)
    shape: tuple[int, ...] = getattr(jax.eval_shape(model.apply, *given), "shape", ())
    if len(shape) != 2 or shape[1] != layer.shape[2] or shape[1] < 2:
        raise ValueError(
            f"expected a dense layer whose outputs are the logits, found {layer.name!r} with "
            f"{layer.shape[2]} outputs and outputs of shape {shape}: name the kernel and the bias "
            "of the last layer of a classifier"
        )
    if not (names is None or isinstance(names, str)):
        return Head(layer, len(names) > 1)
    leaves = enumerate(jax.tree_util.tree_leaves_with_path(given[0]))
    small = [
        n
        for n, (path, x) in leaves
        if math.prod(x.shape) == shape[1] and n != layer.leaf
        if names is None or lies_in(path_name(path), names)
    ]
    added = (n for n in small if not _read_by_derivative(model, *_hashed(given), n))
    return Head(layer, any(True for _ in added))


def example_inputs(data: Any) -> PyTree:
    """Inputs of some examples, to read their shapes."""
    return data.inputs if isinstance(data, Batches) else next(iter(data)).inputs


@cached(maxsize=256)
def _read_by_derivative(model: Model, structure: Any, shapes: tuple, leaf: int) -> frozenset[int]:
    """Which leaves of the variables and the inputs the derivative in one leaf depends on."""

    def derivative(direction: Array, leaves: tuple) -> Array:
        def outputs(value: Array) -> Array:
            own = [*leaves[:leaf], value, *leaves[leaf + 1 :]]
            return model.apply(*jax.tree.unflatten(structure, own))

        return jax.jvp(outputs, (leaves[leaf],), (direction,))[1]

    closed = jax.make_jaxpr(derivative)(shapes[leaf], shapes)
    used = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))[1]
    if not used[0]:  # the outputs do not depend on the leaf at all
        return frozenset(range(len(shapes)))
    return frozenset(number for number, read in enumerate(used[1:]) if read)
