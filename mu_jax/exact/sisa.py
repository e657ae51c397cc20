"""SISA: shards trained apart, in slices, so that a removal retrains one shard from one slice on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from mu_jax.data.checks import check_counts
from mu_jax.ensembles.training import Layout
from mu_jax.exact.planning import stage_epochs
from mu_jax.exact.shards import Placement, default_layout, refuse_uneven
from mu_jax.exact.sisa_protocol import SISA
from mu_jax.exact.voting import Combine, checked
from mu_jax.loops.gradients import Gradients
from mu_jax.model import Model

PyTree = Any


def sisa(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    init: Callable[[jax.Array], PyTree],
    shards: int,
    slices: int = 1,
    epochs: int,
    batch_size: int,
    training_mode: bool = True,
    gradients: Gradients | None = None,
    combine: Combine = "probabilities",
    by_rows: bool = False,
    placement: Placement | None = None,
    capacity: int | None = None,
    recipe: Mapping[str, Any] | None = None,
    layout: Layout | None = None,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> SISA:
    """A protocol of training in which a removal is exact: sharded, isolated, sliced, aggregated.

    Each row belongs to one of S shards and in it to one of R slices, both drawn by its id. Shard s
    starts at `init` and is trained in R stages, stage r on the union of its slices 0 to r, with
    `floor((r + 1) e) - floor(r e)` epochs, `e = 2 epochs / (R + 1)`: together as much work as
    `epochs` passes. The state after every stage is a checkpoint: parameters, batch statistics,
    optimizer. The answer is that of all shards together.

    A removal takes in every touched shard the checkpoint before the first slice that held a
    removed row, and trains from there without the rows. What comes out is, bit for bit, what
    `train` with the same key gives on the retain set: every place, order and random number is a
    function of the key, the shard, the stage and the ids that are left. (Bits are those of one
    machine, version of JAX, mesh, layout and capacity; with others the numbers differ in their
    last places, and the removal is exact all the same.)

    Args:
      model, optimizer: one recipe for all shards.
      init: `key -> variables`.
      shards: S; on a mesh a multiple of its devices. slices: R.
      epochs: E, see above.
      batch_size: examples a step; a shard with fewer has one batch an epoch.
      training_mode: move batch statistics and use dropout.
      gradients: see `mu.fit`.
      combine: how shards answer together, see `mu.exact.combined`; "votes" is published.
      by_rows: weigh shards by the number of their rows. A shard without rows never answers.
      placement: `ids -> (shard, slice)`, int arrays; default: drawn by the key. It may use what is
        known before training (whose rows they are, how likely each is to be deleted). A row stays
        in its place when others go; only if the place of an id depends on no other id does `train`
        on the retain set put it there as well.
      capacity: room in every shard, in rows; default the power of two that holds the largest one.
      recipe: what JSON can hold and tells this training from another of the same shapes, such as
        the learning rate; it is part of every digest.
      layout: see `mu.ensembles.map_models`. "together" trains all shards side by side, and a
        removal then takes as long as one shard and costs as much as all; "one_by_one" costs what is
        touched. Default: "one_by_one" on a CPU, else "together".
      mesh: divide the shards over this mesh's `axis`.

    Returns:
      A `SISA`: `variables, info = protocol.train(key, data)`, then
      `protocol.unlearn(key, variables, forget, retain)`, and `protocol.model` to predict.

    Cost: of training: `epochs` passes. Of one removal in expectation: see
    `mu.exact.sisa_cost`. Memory: S models and optimizers on the devices, S R on the host.

    Differences from the reference program (`cleverhans-lab/machine-unlearning`):
      1. The optimizer's state is part of a checkpoint; there weights alone, which is exact for
         plain SGD and wrong for momentum and Adam.
      2. Rows are shuffled within a stage by the key; there they are read in the order of the file.
      3. A row's place is drawn by its id, so that shards differ in size by chance, and a training
         on the retain set needs to know nothing of who was removed.
      4. Ties of votes go to the class of the larger mean probability.

    References:
      L. Bourtoule, V. Chandrasekaran, C. A. Choquette-Choo, H. Jia, A. Travers, B. Zhang, D. Lie,
      N. Papernot. Machine Unlearning. IEEE Symposium on Security and Privacy 2021.

    Example:
      >>> import mu_jax as mu, jax.numpy as jnp
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
      >>> inputs = jnp.linspace(-1, 1, 16).reshape(8, 2)
      >>> data = mu.batches(inputs, jnp.arange(8.0), batch_size=4)
      >>> protocol = mu.exact.sisa(
      ...     model, optax.adam(0.1), init=lambda key: mu.Variables(jnp.zeros(2)), shards=2,
      ...     slices=2, epochs=2, batch_size=4, combine="outputs")
      >>> variables, _ = protocol.train(jax.random.key(0), data)
      >>> forget, retain = mu.split(data, [3])
      >>> after, info = protocol.unlearn(None, variables, forget, retain)
      >>> again, _ = protocol.train(jax.random.key(0), retain)
      >>> bool((after.last.variables.params == again.last.variables.params).all())
      True
    """
    check_counts(1, shards=shards, slices=slices, epochs=epochs, batch_size=batch_size)
    check_counts(1, capacity=capacity)
    refuse_uneven(shards, mesh, axis)
    return SISA(
        model,
        optimizer,
        init,
        shards,
        slices,
        stage_epochs(epochs, slices),
        batch_size,
        training_mode,
        gradients,
        checked(combine),
        by_rows,
        placement,
        capacity,
        json.dumps(dict(recipe or {}), sort_keys=True),
        layout or default_layout(),
        mesh,
        axis,
    )
