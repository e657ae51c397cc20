"""S3T: adapters learned layer by layer, slice by slice, so that a removal switches layers off."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh
from numpy.typing import ArrayLike

from mu_jax.data.checks import check_counts, check_range
from mu_jax.ensembles.training import Layout
from mu_jax.exact.orders import prefixes_of, rotations
from mu_jax.exact.s3t_protocol import S3T
from mu_jax.exact.shards import Placement, default_layout, refuse_uneven
from mu_jax.exact.voting import Combine, checked
from mu_jax.loops.gradients import Gradients
from mu_jax.model import Model


def s3t(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    layers: Sequence[str | Sequence[str]],
    head: str | Sequence[str],
    shards: int = 1,
    orders: ArrayLike | None = None,
    epochs: int,
    batch_size: int,
    kernels: Callable[[str], bool] | None = None,
    rank: int = 16,
    alpha: float | None = None,
    factored: bool = False,
    training_mode: bool = False,
    gradients: Gradients | None = None,
    combine: Combine = "probabilities",
    placement: Placement | None = None,
    capacity: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    layout: Layout | None = None,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> S3T:
    """A protocol of fine-tuning in which a removal needs no training: it switches layers off.

    A base that has seen none of the rows is frozen. Each row belongs to one of S shards and in it
    to one of L slices, both drawn by its id. For an order of the slices, stage i trains low-rank
    adapters of the i-th group of layers, from the top of the network down, and the head, on the
    first i + 1 slices of the order; the adapters of the stages before stay as they are, and those
    below do not exist yet. Every stage keeps its own head. Orders with a common beginning share its
    stages.

    A removal takes away every stage that has seen a slice of a removed row: its numbers become 0.
    Each shard answers by the order whose longest beginning is left, with the head of its last
    stage. What comes out is, bit for bit, what `train` with the same key gives on the retain set
    `without` the slices that lost a row: a model never trained past the beginnings that are left.
    The other rows of such a slice are not learned from any more until a new lineage is trained.

    Args:
      model: any model whose chosen kernels are multiplied, as for `mu.adapters.attach`.
      optimizer: starts anew in every stage.
      layers: one entry for each slice, from the top of the network down: a layer's name, such as
        "encoder/block_11", or several. "block_1" is not the beginning of "block_11": names are
        compared part by part.
      head: layers that every stage trains whole.
      shards: S; on a mesh a multiple of its devices.
      orders: int [B, L], of `rotations` or `matched_orders`; default `rotations(L, L)`.
      epochs: of every stage, 15 published for a vision transformer.
      batch_size: examples a step; a beginning with fewer has one batch an epoch.
      kernels: which kernels of the layers are adapted, by name, such as query and value; default:
        all leaves of two or more axes.
      rank: r of the adapters, 16 published. alpha: the adapters add `alpha / sqrt(r) B A`; r
        published, which is the default.
      factored: see `mu.adapters.adapted`.
      training_mode: use dropout; statistics of normalizations stay those of the base.
      gradients: see `mu.fit`.
      combine, placement, capacity, recipe, layout, mesh, axis: see `sisa`; layout: "one_by_one"
        takes less memory.

    Returns:
      An `S3T`: `variables, info = protocol.train(key, base, data)`, then
      `protocol.unlearn(key, variables, forget, retain)`, and `protocol.model` to predict. A removal
      after which no shard could answer raises `mu.exact.Spent`.

    Cost: of training: `plan_s3t(...).passes` over the data. Of a removal: none. How many are
    survived: `plan_s3t`, `deletions_survived`. To predict: S passes.

    Differences from the reference program (`brcsomnath/S3T`):
      1. Names of layers are compared part by part. There "layer.1" also means layers 10 to 19, so
         that later stages train the adapters of earlier slices again, and what is switched off has
         been trained by slices that are deleted.
      2. Nothing is chosen by a test set; there checkpoints are.
      3. Slices are drawn by ids; there they are cut from the order of the file.
      4. What is switched off is set to 0, so that the numbers that saw a removed row are gone.
      5. Its count of requests that SISA survives ends a shard with any request to it, and is
         `m H(m)`; a shard of SISA is lost with its first slice, which is `m L H(m)`.

    References:
      S. Basu Roy Chowdhury, K. Choromanski, A. Sehanobish, A. Dubey, S. Chaturvedi. Towards
      Scalable Exact Machine Unlearning Using Parameter-Efficient Fine-Tuning. ICLR 2025.

    Example:
      >>> import jax, jax.numpy as jnp, mu_jax as mu
      >>> def predict(params, state, x):
      ...     return jnp.tanh(jnp.tanh(x @ params["low"]) @ params["top"]) @ params["head"]
      >>> model = mu.from_function(predict, mu.losses.squared_error)
      >>> ones = jnp.full((2, 2), 0.5)
      >>> base = mu.Variables({"low": ones, "top": ones, "head": jnp.ones(2)})
      >>> data = mu.batches(jnp.eye(8, 2), jnp.arange(8.0), batch_size=4)
      >>> protocol = mu.exact.s3t(
      ...     model, optax.adam(0.1), layers=["top", "low"], head="head", rank=1, epochs=2,
      ...     batch_size=4, combine="outputs")
      >>> variables, info = protocol.train(jax.random.key(0), base, data)
      >>> after, info = protocol.unlearn(None, variables, *mu.split(data, [3]))
      >>> variables.gone.tolist(), after.gone.tolist(), info.details.depth.tolist()
      ([[False, False]], [[True, False]], [1])
    """
    groups = tuple((names,) if isinstance(names, str) else tuple(names) for names in layers)
    check_counts(1, shards=shards, epochs=epochs, batch_size=batch_size, rank=rank)
    check_counts(1, capacity=capacity)
    check_range(1e-12, alpha=alpha)
    flat = [name for group in groups for name in group]
    if not flat or len(set(flat)) != len(flat):
        raise ValueError(
            f"expected groups of different layers, found {', '.join(flat) or 'none'}: name each "
            "layer once, from the top down"
        )
    orders = rotations(len(groups), len(groups)) if orders is None else np.asarray(orders)
    prefixes_of(orders)
    if orders.shape[1] != len(groups):
        raise ValueError(
            f"expected orders of {len(groups)} slices, one for each group of layers, found "
            f"{orders.shape[1]}: make the orders of as many"
        )
    refuse_uneven(shards, mesh, axis)
    return S3T(
        model,
        optimizer,
        groups,
        (head,) if isinstance(head, str) else tuple(head),
        kernels,
        shards,
        tuple(tuple(map(int, row)) for row in orders),
        epochs,
        batch_size,
        rank,
        float(rank if alpha is None else alpha) / rank**0.5,
        factored,
        training_mode,
        gradients,
        checked(combine),
        placement,
        capacity,
        json.dumps(dict(recipe or {}), sort_keys=True),
        layout or default_layout(),
        mesh,
        axis,
    )
