"""Models of `flax.nnx`."""

from __future__ import annotations

from typing import Any

import jax

from mu_jax._arguments import several_inputs, spread
from mu_jax.model import Loss, Model, flat_names, is_info


def from_nnx(module: Any, loss: Loss, *, trainable: Any = None) -> Model:
    """Wrap a `flax.nnx` module; variables are its own `nnx.State`, as `nnx.state(module)` gives.

    The module serves as the template of the computation only: its arrays are not kept, and it is
    never changed. Put a result back with `nnx.update(module, variables)`.

    Args:
      module: an `nnx.Module` called as `module(inputs)`.
      loss: `(outputs, targets) -> f32[B]`.
      trainable: an nnx filter; default `nnx.Param`.

    Returns:
      A `Model`. Inference mode is `module.eval()`, training mode `module.train()` with the random
      streams reseeded from the key. Activations are what the module sows as `nnx.Intermediate`.

    Example:
      >>> import jax.numpy as jnp, optax, mu_jax as mu
      >>> from flax import nnx
      >>> net = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
      >>> model = mu.from_nnx(net, optax.softmax_cross_entropy_with_integer_labels)
      >>> model.apply(nnx.state(net), jnp.ones((4, 2))).shape
      (4, 3)
    """
    from flax import nnx

    trainable = nnx.Param if trainable is None else trainable
    graphdef = nnx.graphdef(module)
    nodes = (node for _, node in nnx.iter_graph(module))
    streams = sorted({node.key.tag for node in nodes if isinstance(node, nnx.RngStream)})

    several = several_inputs(module)

    def build(params, state, *, train: bool):
        # Without `copy`, the module shares the caller's Variables and would change them in place.
        try:
            copy = nnx.merge(graphdef, params, state, copy=True)
        except ValueError as error:
            raise ValueError(
                f"expected all arrays of the module, found {_kinds(params, state)} "
                f"({str(error).splitlines()[0]}): pass nnx.state(module), whole"
            ) from error
        copy.train() if train else copy.eval()
        return copy

    def predict(params, state, inputs):
        return build(params, state, train=False)(*spread(inputs, several))

    def capture(copy, inputs):
        outputs, sown = nnx.capture(copy, nnx.Intermediate)(*spread(inputs, several))
        return outputs, flat_names(nnx.to_pure_dict(sown))

    def observe(params, state, inputs):
        return capture(build(params, state, train=False), inputs)

    def observe_train(params, state, inputs, key):
        copy = build(params, state, train=True)
        if key is not None:
            keys = {name: jax.random.fold_in(key, n) for n, name in enumerate(streams)}
            # Blocks that `nnx.vmap` stacked have a key each.
            nnx.reseed(copy, policy="match_shape", **keys)  # type: ignore[arg-type]
        outputs, sown = capture(copy, inputs)
        moved = nnx.split_state(nnx.state(copy), trainable, nnx.RngState, ...)[2]
        return outputs, sown, nnx.merge_state(moved, nnx.split_state(state, nnx.RngState, ...)[0])

    def predict_train(params, state, inputs, key):
        outputs, _, state = observe_train(params, state, inputs, key)
        return outputs, state

    def split(variables):
        if not isinstance(variables, nnx.State):
            raise TypeError(
                "expected the nnx.State of the module, found "
                f"{type(variables).__name__}: pass "
                + (
                    "the state alone, the first of the two that a method returns"
                    if is_info(variables)
                    else "nnx.state(module)"
                )
            )
        own = jax.tree.map(lambda x: x, variables)  # Variables of our own, or results would share
        return nnx.split_state(own, trainable, ...)

    return Model(predict, predict_train, loss, split, nnx.merge_state, observe, observe_train)


def _kinds(*states: Any) -> str:
    """The kinds of variables in the states, such as Param and BatchStat."""
    from flax import nnx

    found = [
        type(leaf).__name__
        for state in states
        for leaf in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, nnx.Variable))
    ]
    return f"{', '.join(sorted(set(found)))} only"
