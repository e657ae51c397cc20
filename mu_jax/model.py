"""How a model computes: adapters from linen, nnx and raw functions to one small interface."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mu_jax._arguments import by_position, check_not_fixed, mode_arguments, several_inputs, spread
from mu_jax._callables import hashable
from mu_jax._words import short
from mu_jax.data.batches import Batch, describe
from mu_jax.losses import guarded

PyTree = Any
Loss = Callable[[PyTree, PyTree], jax.Array]


class Variables(NamedTuple):
    """The arrays of a raw-function model: what is trained, and what is not (batch statistics)."""

    params: PyTree
    state: PyTree = ()


@dataclasses.dataclass(frozen=True)
class Model:
    """How to compute, as pure functions; the arrays stay with the caller.

    `variables` are the model's arrays in its framework's own form: linen's dict, nnx's `State`, or
    `Variables(params, state)`. They go in and come out of everything as one value, so a chain of
    edits never works with stale batch statistics.

    Attributes:
      predict: `(params, state, inputs) -> outputs` in inference mode: running statistics, no
        dropout; the state never moves.
      predict_train: `(params, state, inputs, key) -> (outputs, state)` in training mode.
      loss: `(outputs, targets) -> f32[B]`, one value per example, not reduced.
      split: `variables -> (params, state)`; `params` is what is differentiated and edited.
      join: `(params, state) -> variables`, the inverse of `split`.
      observe: `(params, state, inputs) -> (outputs, {name: activation})` in inference mode, the
        leading axis of an activation being the example; None if the model names none.
      observe_train: `(params, state, inputs, key) -> (outputs, {name: activation}, state)` in
        training mode, or None.
      refresh: `(variables, fresh) -> variables`: fresh variables, but for what `restrict` froze.
      project: `(params, state, inputs) -> Projected`: logits as hidden states and a head that is
        still to be applied, for losses with `takes_projected`; None if the model has no such form,
        or computes otherwise in training mode.
    """

    predict: Callable[[PyTree, PyTree, PyTree], PyTree]
    predict_train: Callable[[PyTree, PyTree, PyTree, jax.Array | None], tuple[PyTree, PyTree]]
    loss: Loss
    split: Callable[[PyTree], tuple[PyTree, PyTree]]
    join: Callable[[PyTree, PyTree], PyTree]
    observe: Callable[[PyTree, PyTree, PyTree], tuple[PyTree, dict]] | None = None
    observe_train: Callable[..., tuple[PyTree, dict, PyTree]] | None = None
    refresh: Callable[[PyTree, PyTree], PyTree] = lambda variables, fresh: fresh
    project: Callable[[PyTree, PyTree, PyTree], PyTree] | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # a model is a key of every cache
            object.__setattr__(self, field.name, hashable(getattr(self, field.name)))

    def __repr__(self) -> str:
        made = getattr(self.predict, "__qualname__", "Model").partition(".")[0]
        return f"Model({made.strip('_<>')}, loss={short(self.loss)})"

    def apply(self, variables: PyTree, inputs: PyTree) -> PyTree:
        """Outputs in inference mode."""
        return self.predict(*self.split(variables), inputs)

    def apply_train(
        self, variables: PyTree, inputs: PyTree, key: jax.Array | None = None
    ) -> tuple[PyTree, PyTree]:
        """Outputs in training mode, and the variables with their statistics moved."""
        params, state = self.split(variables)
        outputs, state = self.predict_train(params, state, inputs, key)
        return outputs, self.join(params, state)

    def forward(
        self,
        variables: PyTree,
        inputs: PyTree,
        *,
        training: bool,
        key: jax.Array | None = None,
        for_loss: bool = False,
    ) -> tuple[PyTree, PyTree]:
        """Outputs in the chosen mode, and the variables; only training mode moves statistics.

        Args:
          variables: the model's arrays.
          inputs: inputs of a batch.
          training: True for training mode, where the key drives dropout; False for inference mode,
            where the variables come back as they are.
          key: a PRNG key; inference mode does not use it.
          for_loss: outputs as the loss takes them, see `for_loss`.

        Returns:
          `(outputs, variables)`.

        Example:
          >>> import jax.numpy as jnp, mu_jax as mu
          >>> count = lambda w, state, x, key: (x * w, state + 1)
          >>> model = mu.from_function(
          ...     lambda w, state, x: x * w, mu.losses.squared_error, predict_train=count)
          >>> variables = mu.Variables(jnp.array(2.0), jnp.array(0))
          >>> outputs, moved = model.forward(variables, jnp.ones(1), training=True)
          >>> outputs.tolist(), int(moved.state)
          ([2.0], 1)
        """
        if for_loss and self._projects:
            return self.for_loss(*self.split(variables), inputs), variables
        if training:
            return self.apply_train(variables, inputs, key)
        return self.apply(variables, inputs), variables

    def for_loss(self, params: PyTree, state: PyTree, inputs: PyTree) -> PyTree:
        """Outputs in inference mode as the loss takes them, in the form that costs least.

        They are `Projected` where the model has such and the loss takes them, so that logits of
        whole rows are never there; else what `predict` gives.
        """
        project = self.project if self._projects else None
        return (project or self.predict)(params, state, inputs)

    @property
    def _projects(self) -> bool:
        return self.project is not None and getattr(self.loss, "takes_projected", False)

    def losses(self, variables: PyTree, batch: Batch) -> jax.Array:
        """Per-example losses f32[B] in inference mode."""
        return self.per_example(self.for_loss(*self.split(variables), batch.inputs), batch)

    def per_example(self, outputs: PyTree, batch: Batch) -> jax.Array:
        """Apply `loss` to outputs, checking that it gives one number per example, in float32."""
        try:
            losses = guarded(self.loss)(outputs, batch.targets)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(
                "expected the loss to accept the model's outputs and the targets, found outputs "
                f"{describe(outputs)} and targets {describe(batch.targets)} ({_first(error)}): "
                "check the shapes of both, and the dtype of the labels"
            ) from error
        if losses.shape != batch.weight.shape:
            raise ValueError(
                f"expected one loss per example, shape {batch.weight.shape}, found shape "
                f"{losses.shape}: give a loss that does not reduce over the batch and reduces "
                "over everything else"
            )
        return losses.astype(jnp.promote_types(losses.dtype, jnp.float32))

    def params(self, variables: PyTree) -> PyTree:
        """The part of the variables that is trained and edited."""
        return self.split(variables)[0]

    def with_params(self, variables: PyTree, params: PyTree) -> PyTree:
        """The same variables with other parameters; statistics are untouched."""
        return self.join(params, self.split(variables)[1])


def from_function(
    predict: Callable[[PyTree, PyTree, PyTree], PyTree],
    loss: Loss,
    *,
    predict_train: Callable[..., tuple[PyTree, PyTree]] | None = None,
    observe: Callable[..., tuple[PyTree, dict]] | None = None,
    project: Callable[[PyTree, PyTree, PyTree], PyTree] | None = None,
) -> Model:
    """Wrap raw functions of pytrees (haiku- or equinox-style models as well).

    Args:
      predict: `(params, state, inputs) -> outputs`, inference mode.
      loss: `(outputs, targets) -> f32[B]`.
      predict_train: `(params, state, inputs, key) -> (outputs, state)`; default: `predict`, with
        the state unchanged.
      observe: `(params, state, inputs) -> (outputs, {name: activation})`, for methods that compare
        activations; where training mode differs, set `observe_train` of the model as well.
      project: `(params, state, inputs) -> Projected`, of a language model that is the same in
        training mode: logits as hidden states and a head, see `Model`.

    Returns:
      A `Model` whose variables are `Variables(params, state)`.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
      >>> model.apply(mu.Variables(jnp.ones(3)), jnp.ones((2, 3)))
      Array([3., 3.], dtype=float32)
    """

    def unchanged(params, state, inputs, key):
        return predict(params, state, inputs), state

    def observe_train(params, state, inputs, key):
        return *observe(params, state, inputs), state  # type: ignore[misc]

    same = observe_train if observe and not predict_train else None
    return Model(
        predict,
        predict_train or unchanged,
        loss,
        _split_raw,
        Variables,
        observe,
        same,
        project=project,
    )


def _split_raw(variables: Variables) -> tuple[PyTree, PyTree]:
    if not isinstance(variables, Variables):
        raise TypeError(
            "expected mu.Variables(params, state) for a model made by from_function, found "
            f"{type(variables).__name__}: wrap the parameters as mu.Variables(params)"
        )
    return variables.params, variables.state


def from_linen(
    module: Any,
    loss: Loss,
    *,
    train_arguments: dict[str, Any] | None = None,
    inference_arguments: dict[str, Any] | None = None,
) -> Model:
    """Wrap a `flax.linen` module; variables are its own dict of collections.

    Args:
      module: the module; `module.apply({'params': ..., **state}, inputs)` gives the outputs. Of a
        module with several inputs by position, `inputs` is the tuple of these.
      loss: `(outputs, targets) -> f32[B]`.
      train_arguments: arguments of `__call__` in training mode, by name; they are passed by
        position where they can be, since `nn.jit` and `nn.remat` trace what is passed by name.
        Default: `train=True`, `training=True`, `is_training=True`, `deterministic=False` or
        `use_running_average=False`, whichever the module's `__call__` names; none otherwise.
      inference_arguments: the same for inference mode, with the opposite values.

    Returns:
      A `Model`. Training mode moves every collection but `params` and gives the key to the
      `dropout` stream; inference mode moves nothing. Activations are what the module sows into
      `intermediates`.

    Example:
      >>> import jax, jax.numpy as jnp, optax, flax.linen as nn, mu_jax as mu
      >>> module = nn.Dense(3)
      >>> model = mu.from_linen(module, optax.softmax_cross_entropy_with_integer_labels)
      >>> variables = module.init(jax.random.key(0), jnp.ones((1, 2)))
      >>> model.apply(variables, jnp.ones((4, 2))).shape
      (4, 3)
    """
    training, inference = mode_arguments(module)
    training = training if train_arguments is None else train_arguments
    inference = inference if inference_arguments is None else inference_arguments
    several = several_inputs(module, (*training, *inference))
    (train_places, training), (places, inference) = (
        by_position(module, arguments, several) for arguments in (training, inference)
    )

    def predict(params, state, inputs):
        return module.apply(
            {"params": params, **state}, *spread(inputs, several), *places, **inference
        )

    def apply_train(params, state, inputs, key, *sown):
        if not (train_places or training):
            check_not_fixed(module)
        rngs = None if key is None else {"dropout": key}
        arguments = ({"params": params, **state}, *spread(inputs, several), *train_places)
        return module.apply(*arguments, **training, rngs=rngs, mutable=[*state, *sown])

    def predict_train(params, state, inputs, key):
        outputs, moved = apply_train(params, state, inputs, key)
        return outputs, {**state, **moved}

    def observe(params, state, inputs):
        arguments = ({"params": params, **state}, *spread(inputs, several), *places)
        outputs, sown = module.apply(*arguments, **inference, mutable=["intermediates"])
        return outputs, flat_names(sown.get("intermediates", {}))

    def observe_train(params, state, inputs, key):
        outputs, moved = apply_train(params, state, inputs, key, "intermediates")
        sown = flat_names(moved.get("intermediates", {}))
        return outputs, sown, {name: moved.get(name, old) for name, old in state.items()}

    return Model(predict, predict_train, loss, _split_linen, _join_linen, observe, observe_train)


def is_info(found: Any) -> bool:
    """Whether this is what a method returns beside the variables, and not variables."""
    return hasattr(found, "messages") and hasattr(found, "example_passes")


_NOT_VARIABLES = ("intermediates", "perturbations", "losses")


def _split_linen(variables: PyTree) -> tuple[PyTree, PyTree]:
    if not isinstance(variables, Mapping):
        hint = "what module.init returned"
        if hasattr(variables, "params"):
            hint = "{'params': state.params}, with its batch_stats"
        elif is_info(variables):
            hint = "the variables alone, the first of the two that a method returns"
        raise TypeError(
            "expected linen variables, a dict with a 'params' collection, found "
            f"{type(variables).__name__}: pass {hint}"
        )
    if "params" not in variables:
        raise TypeError(
            "expected linen variables with a 'params' collection, found collections "
            f"{sorted(variables)}: pass what module.init returned"
        )
    state = {k: v for k, v in variables.items() if k != "params" and k not in _NOT_VARIABLES}
    return variables["params"], state


def _join_linen(params: PyTree, state: PyTree) -> PyTree:
    return {"params": params, **state}


def path_name(path: Sequence[Any]) -> str:
    """A parameter's name, `Dense_0/kernel`, the same for linen and nnx trees."""
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and path[-1].name == "value":
        path = path[:-1]
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def lies_in(name: str, layer: str) -> bool:
    """Whether a parameter's name is that of a layer, or of a leaf inside it.

    Example:
      >>> [lies_in(name, "head") for name in ("head/kernel", "net/head", "head.bias", "heads/bias")]
      [True, True, True, False]
    """
    return f"/{layer}/".replace(".", "/") in f"/{name}/".replace(".", "/")


def flat_names(tree: PyTree) -> dict[str, jax.Array]:
    """Flatten sown activations to `{path: array}`; a tuple of one call loses its index."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path).removesuffix("/0"): leaf for path, leaf in leaves}


def _first(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
