"""N models trained, unlearned and scored as one program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

from mu_jax import _at_once as at_once
from mu_jax import _target as target
from mu_jax._tracing import holds_tracer
from mu_jax.data.axes import constrain, is_explicit
from mu_jax.data.batches import Batches
from mu_jax.data.blocks import at_least
from mu_jax.data.counted import counted
from mu_jax.freezing import settled
from mu_jax.loops import lifting
from mu_jax.loops.averaging import with_average
from mu_jax.loops.fit import FitState, advance, lifted_update, no_info, num_steps, with_batch_size
from mu_jax.loops.gradients import Gradients
from mu_jax.loops.predict import outputs
from mu_jax.loops.recording import is_recording
from mu_jax.model import Model
from mu_jax.objectives.supervised import supervised

PyTree = Any
Layout = Literal["together", "one_by_one"]


def map_models(
    function: Callable[..., PyTree],
    *members: PyTree,
    layout: Layout | None = None,
    mesh: Mesh | None = None,
    axis: str = "data",
) -> PyTree:
    """`function` for every model of an ensemble, as one program.

    Args:
      function: of the arrays of one model (keys, variables, row weights, ...).
      *members: pytrees whose leaves have a leading axis of N models.
      layout: "together" is one batched computation (`vmap`), best on accelerators and for small
        dense models; "one_by_one" is a loop over models inside the program (`lax.map`), best for
        convolutions on a CPU, where a batch of kernels is several times slower. Default: by
        backend, and on a CPU by whether any leaf looks like a convolution kernel.
      mesh: divide the models over this mesh's `axis`; N must be a multiple of its size.

    Returns:
      The results, stacked.
    """
    layout = layout or choose_layout(members)

    def local(*members):
        if layout == "together":
            return jax.vmap(function)(*members)
        return jax.lax.map(lambda one: function(*one), members)

    if mesh is None:
        return local(*members)
    size = jax.tree.leaves(members)[0].shape[0]
    if size % mesh.shape[axis]:
        raise ValueError(
            f"expected a number of models that divides over {mesh.shape[axis]} devices, found "
            f"{size}: train a multiple"
        )
    if is_explicit(mesh):
        members = constrain(members, mesh, axis)
    # No model reads another's arrays: nothing crosses devices, so there is nothing to check.
    return jax.shard_map(
        local,
        mesh=mesh,
        in_specs=PartitionSpec(axis),
        out_specs=PartitionSpec(axis),
        check_vma=False,
    )(*members)


def choose_layout(members: PyTree) -> Layout:
    """The faster layout for arrays with a leading axis of models: see `map_models`."""
    if target.platform() != "cpu":
        return "together"
    kernels = [leaf.ndim >= 5 for leaf in jax.tree.leaves(members)]
    return "one_by_one" if any(kernels) else "together"


def train(
    model: Model,
    optimizer: optax.GradientTransformation,
    batches: Batches,
    keys: jax.Array,
    weights: jax.Array | None = None,
    *,
    init: Callable[[jax.Array], PyTree],
    epochs: int,
    batch_size: int | None = None,
    gradients: Gradients | None = None,
    layout: Layout | None = None,
    mesh: Mesh | None = None,
) -> PyTree:
    """Train N models from scratch: the full model, oracles, subsets are the same code.

    Model j starts from `init(fold_in(keys[j], 0))` and visits the examples in its own order; row i
    counts with weight `weights[j, i]`, so 0 means that model j never saw it.

    Args:
      model, optimizer: one recipe for all.
      batches: the examples.
      keys: N keys.
      weights: f32[N, n]; default those of the batches for all.
      init: `key -> variables`.
      epochs, batch_size, gradients: see `mu.fit`.
      layout, mesh: see `map_models`.

    Returns:
      Variables with a leading axis of N.

    Cost: N times one training; memory of N models and optimizer states when trained together.
    Outside `jit` other keys, weights and numbers compile nothing, nor do other numbers of examples
    up to the same power of two, which takes a copy of the data; on a mesh, for sets smaller than a
    batch, more than 65,536 examples or more than 1 GiB of them another number compiles again.
    """
    shape = jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype)
    fresh = jax.eval_shape(init, shape)
    model = settled(model, fresh)
    params = model.params(fresh)
    pieces = (
        lifting.lift(init, shape, owners=(init,)),
        lifting.lift(optimizer.init, params, owners=(optimizer.init,)),
        lifted_update(optimizer, params, jax.eval_shape(optimizer.init, params)),
    )
    stacked = jax.eval_shape(jax.vmap(init), keys)
    recipe = _Recipe(
        model,
        init=pieces[0].computation,
        optimizer_init=pieces[1].computation,
        optimizer_update=pieces[2].computation,
        gradients=gradients,
        epochs=epochs,
        batch_size=batch_size,
        layout=layout or choose_layout(stacked),
        mesh=mesh,
    )
    values = [piece.values for piece in pieces]
    if not at_once.is_known((keys, weights, batches)):
        return _train(recipe, values, batches, keys, weights)
    if mesh is None and not is_recording():
        batches = counted(with_batch_size(batches, batch_size), keys)
        weights = _with_room(weights, batches.weight.shape[0])
    return _compiled_train(recipe, values, batches, keys, weights)


def _with_room(weights: Any, rows: int) -> Any:
    """The weights of the models with so many columns, the further ones 0."""
    if weights is None:
        return None
    further = (0, 0), (0, rows - weights.shape[1])
    if not at_once.on_host(weights) or at_once.is_divided(weights):
        return jnp.pad(weights, further)
    return at_once.as_array(np.pad(np.asarray(weights), further))


class _Recipe(NamedTuple):
    """All that decides the program of a training, as something that can be hashed."""

    model: Model
    init: lifting.Computation
    optimizer_init: lifting.Computation
    optimizer_update: lifting.Computation
    gradients: Gradients | None
    epochs: int
    batch_size: int | None
    layout: Layout
    mesh: Mesh | None


def _train(
    recipe: _Recipe, values: Sequence[tuple], batches: Batches, keys: jax.Array, weights: Any
) -> PyTree:
    objective = supervised(recipe.model, training_mode=True)
    optimizer = optax.GradientTransformationExtraArgs(
        lambda params: recipe.optimizer_init(values[1], params),
        lambda grads, state, params, *, value: recipe.optimizer_update(
            values[2], grads, state, params, value
        ),
    )

    def one(key, weight=None):
        own = batches if weight is None else batches.replace(weight=weight.astype(jnp.float32))
        own = with_batch_size(own, recipe.batch_size)
        variables = recipe.init(values[0], jax.random.fold_in(key, 0))
        opt_state = optimizer.init(recipe.model.params(variables))
        start = jnp.zeros((), jnp.int32)
        state = FitState(start, variables, opt_state, jax.random.fold_in(key, 1))
        most = -(-own.weight.shape[0] // own.batch_size) * recipe.epochs
        last, _ = advance(
            recipe.model,
            objective,
            optimizer,
            (state, no_info(most)),
            own,
            start=0,
            stop=num_steps(own, recipe.epochs),
            gradients=recipe.gradients,
        )
        return with_average(recipe.model, last).variables

    members = (keys,) if weights is None else (keys, weights)
    return map_models(one, *members, layout=recipe.layout, mesh=recipe.mesh)


_compiled_train = jax.jit(_train, static_argnums=0)


def unlearn(
    transform: Callable[..., Any],
    keys: jax.Array,
    ensemble: PyTree,
    forget: Batches,
    retain: Batches,
    *,
    layout: Layout | None = None,
    mesh: Mesh | None = None,
) -> tuple[PyTree, Any]:
    """Unlearn the same forget set from N models.

    Args:
      transform: any transform, `(key, variables, forget, retain) -> (variables, info)`.
      keys: N keys. ensemble: variables with a leading axis of N.
      forget, retain: array-backed sets.
      layout, mesh: see `map_models`.

    Returns:
      `(variables, info)` with a leading axis of N; under `jit` ask `info.messages()` afterwards.

    Cost: N times that of the transform; what does not depend on the model (the importance of
    given statistics, the directions of an attribution) is computed once when laid out together.
    Outside `jit` the transform is traced at every call, and compiled where it computes something
    else than before: another number of examples does, other keys, numbers and optimizers of a kind
    do not.
    """

    def one(key, variables):
        return transform(key, variables, forget, retain)

    if not at_once.is_known((keys, ensemble, forget, retain)) or holds_tracer(transform):
        return map_models(one, keys, ensemble, layout=layout, mesh=mesh)
    # Traced first: two calls that compute alike are one program, whatever objects they are given.
    members = keys, ensemble
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), members)
    lifted = lifting.lift(one, *shapes, differentiable=False)
    place = layout or choose_layout(members), mesh
    return _mapped((lifted.computation, *place), lifted.values, members)


@functools.partial(jax.jit, static_argnums=0)
def _mapped(program: tuple, values: tuple, members: tuple) -> PyTree:
    computation, layout, mesh = program
    run = functools.partial(computation, values)
    return map_models(run, *members, layout=layout, mesh=mesh)


def ensemble_outputs(
    model: Model,
    ensemble: PyTree,
    batches: Batches,
    *,
    layout: Layout | None = None,
    mesh: Mesh | None = None,
) -> jax.Array:
    """Outputs of every model for every example, `[N, n, ...]`, in inference mode."""

    place = layout or choose_layout(ensemble), mesh
    if not at_once.is_known((ensemble, batches)):
        return _outputs((model, *place), ensemble, batches)
    rows, n = np.arange(at_least(_FEW_ROWS, batches.num_examples)), batches.num_examples
    filled = batches if batches.mesh is not None else batches.take(rows % n)
    found = _compiled_outputs((model, *place), ensemble, filled)
    return at_once.indexed(found, (slice(None), slice(n)))


_FEW_ROWS = 256


def _outputs(program: tuple, ensemble: PyTree, batches: Batches) -> PyTree:
    model, layout, mesh = program

    def one(variables):
        return outputs(model, variables, batches)

    return map_models(one, ensemble, layout=layout, mesh=mesh)


_compiled_outputs = jax.jit(_outputs, static_argnums=0)
