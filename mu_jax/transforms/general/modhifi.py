"""ModHiFi: input channels that carry what is forgotten, and little else, are taken out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax._at_once import elementwise
from mu_jax._tracing import cached
from mu_jax.data.batches import is_concrete
from mu_jax.data.checks import check_counts, check_range
from mu_jax.mesh.shards import summary
from mu_jax.model import Model, path_name
from mu_jax.statistics import collect
from mu_jax.statistics.fidelity import (
    channel_gram,
    compensation,
    entering_moments,
    from_channels,
    singleton_fidelity,
)
from mu_jax.statistics.layers import Layer, example_inputs, find_layers, named_layer
from mu_jax.transforms._shared.transform import Unlearn, method, number, passes, report

PyTree = Any
Array = jax.Array


class ModHiFiInfo(NamedTuple):
    """What ModHiFi scored and took out, by the name of each layer.

    Attributes:
      forget, retain: mean fidelity of every input channel on either set, f32[n, channels].
      removed: the channels that were scaled by `factor`, bool[n, channels].
    """

    forget: dict[str, Array]
    retain: dict[str, Array]
    removed: dict[str, Array]

    def messages(self) -> list[str]:
        """A sentence where no channel was taken out."""
        if any(np.any(np.asarray(x)) for x in self.removed.values()):
            return []
        return ["ModHiFi took out no channel: raise share, or give channels."]


@method
def modhifi(
    model: Model,
    *,
    share: jax.Array | float = 0.1,
    channels: int | None = None,
    layers: Sequence[str] | None = None,
    factor: jax.Array | float = 0.0,
    compensate: bool = False,
) -> Unlearn:
    """Model-agnostic class unlearning by fidelity of components. Experimental, see below.

    The output of a dense layer or convolution is a sum over its input channels, `y = sum_i a_i`
    (without the bias). With `G_ij = E<a_i, a_j>` for each output channel, over examples and
    positions,

    1. the fidelity of a channel alone is `FS(i) = (sum_j G_ij)^2 / (G_ii sum_ij G_ij)`, 0 where
       nothing enters; its score on a set is the mean over the output channels;
    2. in every layer the channels with the largest `FS_forget - FS_retain` are multiplied by
       `factor`, so that what they say of the forget set is not heard;
    3. with `compensate`, the weights of each output channel from the kept channels S are multiplied
       by the delta closest to 1 with `G_SS delta = (G 1)_S` on the retain set, the least squares
       fit to the whole output.

    No label, loss or gradient is used. The program of the paper is not public, and its text does
    not fix steps 2 and 3: the rule is a reconstruction, which may change.

    It fails as erasure where the output alone forgets: probe the layer before. The fit of step 3
    rebuilds the whole output, and where few channels are removed it brings back most of what was
    forgotten.

    Args:
      model: any model with dense layers or convolutions.
      share: share of the channels of each layer to take out, rounded down; may be traced.
      channels: their number instead.
      layers: names of the layers or of their kernels, such as `("Dense_1",)`. Default: all trained
        kernels but the first, whose channels are those of the inputs.
      factor: what removed channels are multiplied by, 0 by default; may be traced.
      compensate: whether the kept channels make up for the removed ones.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key is not used, and
      `info.details` is a `ModHiFiInfo`.

    Raises:
      ValueError: a share outside [0, 1]; more channels than a layer has; names of no
        kernel; a model without a layer to edit.

    Cost: one forward pass over both sets; memory of the squared number of inputs of every kernel
    (of a convolution taps times channels). With `compensate` one eigenvalue problem of this size
    for each output channel.

    Differences from the reference program: none that are known, as it is not public.

    References:
      Kashyap and others. ModHiFi: Identifying High Fidelity Predictive Components for Model
      Modification. NeurIPS 2025 (arXiv 2511.19566).

    Example:
      >>> import mu_jax as mu
      >>> model = mu.from_function(
      ...     lambda p, state, x: jax.nn.relu(x @ p["hidden"]) @ p["head"], mu.losses.cross_entropy)
      >>> data = mu.batches(jnp.eye(4), jnp.arange(4), batch_size=4)
      >>> start = mu.Variables({"hidden": jnp.eye(4), "head": 4 * jnp.eye(4)})
      >>> unlearn = mu.modhifi(model, channels=1)
      >>> unlearned, info = unlearn(jax.random.key(0), start, *mu.split(data, [2]))
      >>> unlearned.params["head"].diagonal().tolist()
      [4.0, 4.0, 0.0, 4.0]
    """
    check_range(0, 1, share=share)
    check_range(-np.inf, factor=factor)
    check_counts(0, channels=channels)

    def unlearn(key: Array, variables: PyTree, forget: Any, retain: Any):
        del key
        chosen = _chosen(model, variables, forget, layers)
        _check_number(chosen, channels)
        statistic = entering_moments(model, chosen)
        part, rest = (collect(statistic, variables, data) for data in (forget, retain))
        leaves, structure = jax.tree.flatten(variables)
        kernels = {layer.name: leaves[layer.leaf] for layer in chosen}
        counts = {layer.name: _count(layer, channels, share) for layer in chosen}
        details, factors = _program(chosen, compensate)(
            kernels, part.value, rest.value, counts, number(factor, float)
        )
        changed = _scaled(kernels, factors)
        for layer in chosen:
            leaves[layer.leaf] = changed[layer.name]
        return report(
            model,
            variables,
            jax.tree.unflatten(structure, leaves),
            (forget, retain),
            steps=0,
            example_passes=passes(part.weight, rest.weight),
            details=details,
        )

    return unlearn


@cached(maxsize=64)
def _program(layers: tuple[Layer, ...], compensate: bool) -> Callable:
    """Scores, what is removed, and the factors of all weights in the layout of their leaves."""

    def compute(kernels, forget, retain, counts, factor):
        scores: list[dict[str, Array]] = [{}, {}, {}]
        factors = {}
        for layer in layers:
            name, kernel = layer.name, layer.from_leaf(kernels[layer.name])
            on_forget, on_retain = (
                singleton_fidelity(layer, kernel, x[name]).mean(1) for x in (forget, retain)
            )
            removed = _largest(on_forget - on_retain, counts[name])
            for tree, value in zip(scores, (on_forget, on_retain, removed)):
                tree[name] = value
            scale = jnp.where(removed, factor, 1)[:, None]
            if compensate:
                gram = channel_gram(layer, kernel, retain[name])
                scale = jnp.where(removed[:, None], scale, compensation(gram, ~removed))
            whole = jnp.broadcast_to(scale, (*scale.shape[:1], layer.shape[2], *scale.shape[2:]))
            inputs = from_channels(layer, whole.swapaxes(1, 2))
            factors[name] = layer.to_leaf(inputs)
        return ModHiFiInfo(*scores), factors

    return summary(compute)


def _largest(scores: Array, count: Array) -> Array:
    """The `count` largest of scores f[n, channels] in every row; of equal ones the first."""
    return jnp.argsort(jnp.argsort(-scores, axis=1, stable=True), axis=1) < count


def _count(layer: Layer, channels: int | None, share: jax.Array | float) -> Array:
    there = max(layer.channels) + 1
    if channels is not None:
        return number(channels, jnp.int32)
    part = share * there
    return (
        number(int(part), jnp.int32)
        if is_concrete(part) and np.ndim(part) == 0
        else (jnp.floor(part).astype(jnp.int32))
    )


@elementwise
def _scaled(xp: Any, kernels: dict[str, Array], factors: dict[str, Array]) -> dict[str, Array]:
    return jax.tree.map(lambda k, f: (k * f.astype(k.dtype)).astype(k.dtype), kernels, factors)


def _chosen(
    model: Model, variables: PyTree, data: Any, names: Sequence[str] | None
) -> tuple[Layer, ...]:
    """The layers to edit; of a restricted model those that may change alone."""
    structure: Any = jax.tree.structure(variables)
    numbers = model.params(jax.tree.unflatten(structure, range(structure.num_leaves)))
    trained = {leaf: path_name(path) for path, leaf in jax.tree_util.tree_leaves_with_path(numbers)}
    every = find_layers(model, variables, example_inputs(data))
    if names is None:
        found = [layer for layer in every[1:] if layer.leaf in trained]
    else:
        free = [layer for layer in every if layer.leaf in trained]
        found = [named_layer(free, name) for name in names]
    if not found:
        raise ValueError(
            "expected a trained dense layer or convolution behind the first, found none among "
            f"{', '.join(layer.name for layer in every) or 'no layers'}: name one by layers="
        )
    return tuple(found)


def _check_number(layers: Sequence[Layer], channels: int | None) -> None:
    for layer in layers:
        there = max(layer.channels) + 1
        if channels is not None and channels > there:
            raise ValueError(
                f"expected at most {there} channels to remove, those that enter {layer.name!r}, "
                f"found {channels}: remove fewer, or name other layers"
            )
