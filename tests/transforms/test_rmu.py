"""RMU: which leaves move, what is computed, and three steps by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, is_one_sentence

import mu_jax as mu
from mu_jax.data.partners import partners, whole
from mu_jax.loops.scan import record
from mu_jax.objectives.steering import control_vector

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)


def hidden(variables, tokens):
    return jnp.tanh(variables.params["hidden"][tokens] + variables.params["bias"])


def is_bias(name):
    return name == "bias"


def test_other_leaves_have_no_gradient_and_no_optimizer_state():
    chosen = setting("tokens")
    decayed = optax.chain(optax.add_decayed_weights(0.5), optax.adam(0.05))
    unlearn = mu.rmu(chosen.model, decayed, layer=hidden, trainable=is_bias)
    after, info = unlearn(KEY, chosen.variables, *chosen.sets())
    before = chosen.variables.params
    for name in ("head", "hidden"):
        np.testing.assert_array_equal(after.params[name], before[name])
    assert not np.array_equal(after.params["bias"], before["bias"])
    assert [x.shape for x in jax.tree.leaves(info.edit.changed_by_leaf)] == [()]


def test_the_program_holds_no_second_model_and_no_layer_above():
    """Of the step: one copy of the head, which no operation reads, and no logits."""
    chosen, words, wide = setting("tokens"), 8, 4000
    params = chosen.variables.params | {"head": jnp.zeros((6, wide))}
    start = mu.Variables(params, chosen.variables.state)
    unlearn = mu.rmu(chosen.model, optax.sgd(0.1), layer=hidden, trainable=is_bias)
    with record() as programs:
        jax.eval_shape(unlearn, KEY, start, *chosen.sets())
    step = programs[-1]
    held = [x.shape for x in jax.tree.leaves(step.arguments)]
    assert held.count((6, wide)) == 1 and held.count((words, 6)) == 1
    text = str(jax.make_jaxpr(step.function)(*step.arguments))
    assert f",{wide}]" in text and f"5,{wide}]" not in text


@pytest.mark.parametrize("retain_term", ["nll", "none"])
def test_steps_are_those_of_both_terms(retain_term):
    chosen = setting("tokens")
    forget, retain = chosen.sets()
    recipe = mu.PairingRecipe(
        retain_term, gamma=0.5, alpha=3.0, retain_rows=2, epochs=2, batch_size=100
    )
    unlearn = mu.rmu(chosen.model, optax.sgd(0.1), layer=hidden, scale=1.5, recipe=recipe)
    found, _ = unlearn(KEY, chosen.variables, forget, retain)
    control, params = control_vector(jax.random.fold_in(KEY, 1), 6, 1.5), chosen.variables.params

    def apart(params, batch, wanted):
        squares = jnp.square(hidden(mu.Variables(params), batch.inputs) - wanted).mean(-1)
        rows = (squares * batch.targets.mask).sum(1) / batch.targets.mask.sum(1)
        return rows.mean()

    rows, alpha = whole(forget), 3.0 if retain_term == "nll" else 0.0

    @jax.jit
    def descended(params, step):
        key = jax.random.fold_in(jax.random.fold_in(KEY, 0), step)
        drawn = partners(jax.random.fold_in(key, 1), rows, whole(retain), 2)
        known = hidden(chosen.variables, drawn.inputs)

        def value(params):
            return 0.5 * apart(params, rows, control) + alpha * apart(params, drawn, known)

        return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(value)(params))

    for step in range(2):
        params = descended(params, step)
    assert_close(found.params, params)


def test_a_name_that_is_no_activation_is_refused_in_one_sentence():
    chosen = setting("tokens")
    with pytest.raises(ValueError, match="an activation among logits, found 'block'") as error:
        mu.rmu(chosen.model, optax.sgd(0.1), layer="block")(KEY, chosen.variables, *chosen.sets())
    assert is_one_sentence(str(error.value))
