"""Concept noise (Needle): noise on the vectors in which single concepts are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax.data.checks import check_range
from mu_jax.mesh.shards import on_automatic_axes
from mu_jax.model import Model, path_name
from mu_jax.transforms._shared.transform import Unlearn, method, report

PyTree = Any


@method
def concept_noise(
    model: Model,
    *,
    concepts: Mapping[str, Sequence[int]],
    noise: jax.Array | float = 0.1,
) -> Unlearn:
    """Add `noise * N(0, 1)` to chosen vectors of chosen matrices, and to nothing else.

    A concept is one vector that an MLP writes to the residual stream, a row `W[j]` of its output
    matrix `[d_ff, d]`. Where these are known, noise there is a bound for other methods: it erases
    the trace of the concept in the weights. It fails as a method for a request: nobody says which
    vectors a set of examples is stored in, and knowledge that is stored elsewhere stays.

    Args:
      model: the model, of any kind.
      concepts: numbers of the vectors, along the first axis, by the name of the leaf, such as
        `{"layers/3/down": [17, 204]}`.
      noise: standard deviation, may be traced; 0.1 as published.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key draws the noise. No
      set is read.

    Raises:
      ValueError: no name of a trained leaf; a number that is no vector of its leaf.

    Cost: one draw for each number of a vector; memory of the leaves with a concept once more.

    Differences from the reference program (`yihuaihong/ConceptVectors`):
      1. Any leaf of any model; there the matrices of two decoders.

    References:
      Y. Hong, L. Yu, H. Yang, S. Ravfogel, M. Geva. Intrinsic Evaluation of Unlearning Using
      Parametric Knowledge Traces. 2024.

    Example:
      >>> import jax, jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(lambda p, state, x: x @ p["down"], mu.losses.squared_error)
      >>> forget, retain = mu.split(mu.batches(jnp.eye(3), jnp.eye(3), batch_size=3), [1])
      >>> unlearn = mu.concept_noise(model, concepts={"down": [1]})
      >>> start = mu.Variables({"down": jnp.eye(3)})
      >>> unlearned, _ = unlearn(jax.random.key(0), start, forget, retain)
      >>> (unlearned.params["down"] != start.params["down"]).any(axis=1).tolist()
      [False, True, False]
    """
    check_range(0, noise=noise)
    names = sorted(concepts)

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        found = []

        def leaf(path: Any, value: jax.Array) -> jax.Array:
            name = path_name(path)
            if name not in concepts:
                return value
            found.append(name)
            rows = _checked(name, concepts[name], value)
            own = jax.random.fold_in(key, names.index(name))
            drawn = jax.random.normal(own, (len(rows), *value.shape[1:]), value.dtype)
            return value.at[rows].add(jnp.asarray(noise, value.dtype) * drawn)

        def edit(params: PyTree) -> PyTree:
            return jax.tree_util.tree_map_with_path(leaf, params)

        params = model.params(variables)
        params = on_automatic_axes(edit, params, like=params)
        if not found:
            leaves = jax.tree_util.tree_leaves_with_path(model.params(variables))
            raise ValueError(
                f"expected names of trained leaves such as {path_name(leaves[0][0])!r}, found "
                f"{', '.join(map(repr, names)) or 'none'}: name the matrices that hold the concepts"
            )
        after = model.with_params(variables, params)
        return report(model, variables, after, (forget, retain), steps=0, example_passes=0)

    return unlearn


def _checked(name: str, rows: Sequence[int], value: jax.Array) -> np.ndarray:
    """The numbers of the vectors, each once."""
    chosen = np.unique(np.asarray(rows, int))
    size = value.shape[0] if value.ndim else 0
    if chosen.size == 0 or chosen[0] < 0 or chosen[-1] >= size:
        raise ValueError(
            f"expected numbers from 0 to {size - 1} of vectors of {name!r}, found "
            f"{chosen.tolist()}: give positions along its first axis"
        )
    return chosen
