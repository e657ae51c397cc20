"""RMU: hidden states of text to forget steered to a random vector, others kept where they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mu_jax._callables import hashable
from mu_jax.data.batches import Batch, ids_of, in_memory
from mu_jax.data.checks import check_range
from mu_jax.data.forget_retain import readable
from mu_jax.data.partners import partners, whole
from mu_jax.freezing import restrict
from mu_jax.loops.fit import fit
from mu_jax.loops.gradients import Term, Terms
from mu_jax.loops.labels import check_labels
from mu_jax.mesh.shards import bare
from mu_jax.model import Model
from mu_jax.objectives.pairing import dealt, joined
from mu_jax.objectives.steering import Positions, control_vector, steering, topics_of
from mu_jax.transforms._shared.pairing import Recipe, check_recipe, numbers_of
from mu_jax.transforms._shared.transform import Unlearn, method, report_fit

PyTree = Any
Hidden = Callable[[PyTree, PyTree], jax.Array]
_DEFAULT = Recipe()


@method
def rmu(
    model: Model,
    optimizer: optax.GradientTransformation,
    *,
    layer: str | Hidden,
    trainable: Callable[[str], bool] | PyTree | None = None,
    scale: jax.Array | float = 2.0,
    positions: Positions = "scored",
    topics: Sequence[Any] | None = None,
    recipe: Recipe = _DEFAULT,
) -> Unlearn:
    """Representation misdirection: hidden states of one layer go to a random vector.

    `gamma mean_forget (h_t - u)^2 + alpha mean_retain (h_t - h_t,ref)^2`, with `u = c r / |r|`, r
    uniform in [0, 1), and the states h of one layer. Few matrices are trained, so that the backward
    pass ends there; layers above are not computed. Forget sets of several topics are unlearned in
    one run, each towards a vector of its own: `mu.concatenate` them, and name their ids by
    `topics`.

    | published setting | trained | c | alpha | optimizer |
    |---|---|---|---|---|
    | WMDP (Zephyr) | MLP output of blocks 5, 6, 7; layer 7 | 20 (6.5) | 100 (1200) | AdamW 5e-5 |
    | open-unlearning | everything; layer 7 | 2 | 1 | AdamW 1e-5 |

    It fails where c does not fit the layer: measure the norm of its states first. With too small an
    alpha other knowledge goes too. The model writes gibberish on what it forgot, which is easily
    seen, and a few steps on it bring it back.

    Args:
      model: a language model.
      optimizer: any optax optimizer, from a fresh state.
      layer: name of the layer among the activations of `model.observe`, [B, T, d], or a function
        `(variables, inputs) -> [B, T, d]` that computes no more than it needs.
      trainable: which leaves are trained, `name -> bool` or a tree of bools as for `mu.restrict`;
        default all that the model trains. The others have no gradient and no optimizer state.
      scale: c, length of the control vector, may be traced; one number, or one for each topic.
      positions: `scored`: the positions of scored tokens, a mean over each row and then over rows.
        `all`: a plain mean over all positions, padding included, as in the program of WMDP.
      topics: the example ids of each topic, such as `[bio.index, cyber.index]`; default one topic.
      recipe: the weights and the length of the fit, see `mu.PairingRecipe`. Its retain term is the
        one above, or `none`.

    Returns:
      `unlearn(key, variables, forget, retain) -> (variables, info)`; the key shuffles, draws and
      makes the control vector; `info.details` is a `FitInfo`; `info.edit` is about the trained
      leaves.

    Raises:
      ValueError: a name that is no activation; rows of two lengths; a row to forget in no topic or
        in two.

    Cost: `epochs` passes over the forget set and as many retained rows, up to the layer, and one
    more forward pass of the retained rows. Of the model before unlearning only the trained leaves
    stay in memory.

    Differences from the reference program (`centerforaisafety/wmdp`):
      1. Rows of all topics are shuffled together, and a mean over rows weighs topics by their rows;
         there the steps are for one topic after the other.
      2. The mean over a row is over its own scored tokens; open-unlearning divides every row by the
         mean of the inverse lengths of all.

    References:
      N. Li and others. The WMDP Benchmark: Measuring and Reducing Malicious Use With Unlearning.
      ICML 2024.

    Example:
      >>> import jax, jax.numpy as jnp, optax, mu_jax as mu
      >>> hidden = lambda variables, tokens: variables.params["E"][tokens] @ variables.params["A"]
      >>> model = mu.from_function(
      ...     lambda p, state, tokens: p["E"][tokens] @ p["A"] @ p["E"].T,
      ...     mu.token_losses.TokenCrossEntropy())
      >>> tokens = jnp.array([[0, 1], [2, 3]])
      >>> targets = mu.data.TokenTargets(tokens, jnp.array([[0.0, 1.0], [0.0, 1.0]]))
      >>> forget, retain = mu.split(mu.batches(tokens, targets, batch_size=1), [0])
      >>> start = mu.Variables({"A": jnp.eye(4), "E": jnp.eye(4)})
      >>> recipe = mu.PairingRecipe(epochs=50)
      >>> unlearn = mu.rmu(model, optax.sgd(1.0), layer=hidden, trainable=lambda name: name == "A",
      ...     recipe=recipe)
      >>> unlearned, _ = jax.jit(unlearn)(jax.random.key(0), start, forget, retain)
      >>> jnp.linalg.norm(hidden(unlearned, tokens), axis=-1)[:, 1].round(1).tolist()
      [2.0, 1.0]
    """
    check_recipe(recipe)
    check_range(0, scale=scale)
    number = 1 if topics is None else len(topics)
    if number < 1 or jnp.shape(scale) not in ((), *([] if topics is None else [(number,)])):
        raise ValueError(
            f"expected one scale, or one for each topic, found a scale of shape "
            f"{jnp.shape(scale)} for {number} topics: give a number"
        )

    def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):
        trained = model if trainable is None else restrict(model, trainable)
        forget_set, retain_set = readable(forget, retain)
        if positions == "scored":
            read = {} if recipe.retain_term == "none" else {"retain": retain_set}
            check_labels(model, variables, forget=forget_set, **read)
        row = bare((variables, in_memory(forget_set.take(np.arange(1))).inputs))
        hidden = _hidden(trained, layer, row)
        width = jax.eval_shape(hidden, *row).shape[-1]
        frozen: dict[str, Any] = {"numbers": numbers_of(gamma=recipe.gamma, alpha=recipe.alpha)}
        frozen |= _controls(jax.random.fold_in(key, 1), width, scale, topics, ids_of(forget_set))
        if recipe.retain_term != "none":
            frozen["retain"] = whole(in_memory(retain_set))
            frozen["reference"] = trained.params(variables)
        result = fit(
            trained,
            _Steering(trained, hidden, recipe.retain_rows, positions),
            optimizer,
            variables,
            forget_set,
            key=jax.random.fold_in(key, 0),
            epochs=recipe.epochs,
            steps=recipe.steps,
            batch_size=recipe.batch_size,
            gradients=recipe.gradients,
            frozen=frozen,
        )
        return report_fit(trained, variables, result, (forget, retain))

    return unlearn


def _controls(
    key: jax.Array, width: int, scale: jax.Array | float, topics: Sequence | None, index: Any
) -> dict[str, Any]:
    """The control vector, [d]; or one for each topic, [K, d], and the topics of the rows."""
    if topics is None:
        return {"control": control_vector(key, width, scale)}
    known, number = topics_of(topics, index), len(topics)
    keys = jax.vmap(lambda topic: jax.random.fold_in(key, topic))(jnp.arange(number))
    scales = jnp.broadcast_to(jnp.asarray(scale, jnp.float32), (number,))
    drawn = jax.vmap(lambda key, scale: control_vector(key, width, scale))(keys, scales)
    return {"control": drawn, "topics": known}


@dataclasses.dataclass(frozen=True)
class _Observed:
    """The activation of a layer by its name."""

    model: Model
    layer: str

    def __call__(self, variables: PyTree, inputs: PyTree) -> jax.Array:
        assert self.model.observe is not None
        return self.model.observe(*self.model.split(variables), inputs)[1][self.layer]


def _hidden(model: Model, layer: str | Hidden, row: tuple[PyTree, PyTree]) -> Hidden:
    """What computes the states of the layer; refuses a name that is no activation."""
    if callable(layer):
        return hashable(layer)
    observe, names = model.observe, []
    if observe is not None:
        names = list(jax.eval_shape(lambda v, x: observe(*model.split(v), x)[1], *row))
    if layer not in names:
        raise ValueError(
            f"expected the name of an activation among {', '.join(names) or 'none'}, found "
            f"{layer!r}: name one that the model observes, or give a function of variables and "
            "inputs"
        )
    return _Observed(model, layer)


@dataclasses.dataclass(frozen=True)
class _Steering:
    """Both terms, of the states that `hidden` computes in inference mode."""

    model: Model
    hidden: Hidden
    retain_rows: int
    positions: Positions
    names: tuple[str, ...] = ("forget", "retain")
    rows_are_independent = True  # in inference mode a row sees no other

    def only(self, names: tuple[str, ...]) -> _Steering:
        """The objective of the named terms, which reads their rows alone."""
        return dataclasses.replace(self, names=names)

    def __call__(
        self, variables: PyTree, batch: Batch, frozen: dict[str, PyTree], key: jax.Array
    ) -> tuple[Terms, PyTree]:
        numbers, count, positions = frozen["numbers"], self.retain_rows, self.positions
        kept = "retain" in frozen and "retain" in self.names
        parts = [batch.inputs] if "forget" in self.names else []
        if kept:
            drawn = partners(jax.random.fold_in(key, 1), batch, frozen["retain"], count)
            parts += dealt(drawn.inputs, count)
        states = dealt(self.hidden(variables, joined(parts)), len(parts))
        terms: dict[str, Term] = {}
        if "forget" in self.names:
            control = frozen["control"]
            if "topics" in frozen:
                control = control[frozen["topics"].of(batch.index)][:, None]
            away = steering(states[0], control, batch.targets, batch.weight, positions=positions)
            terms["forget"] = away._replace(scale=numbers["gamma"])
        if kept:
            before = self.model.with_params(variables, frozen["reference"])
            wanted = self.hidden(before, drawn.inputs)
            stay = steering(
                joined(states[-count:]), wanted, drawn.targets, drawn.weight, positions=positions
            )
            terms["retain"] = stay._replace(scale=numbers["alpha"])
        return terms, variables
