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
from mu_jax.data.batches import random_order
from mu_jax.data.partners import partners, whole
from mu_jax.loops.recording import record
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


@pytest.mark.quick("none")
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


@pytest.mark.quick("100-scale1")
@pytest.mark.parametrize("scale", [1.5, jnp.array([1.5, 0.4])])
@pytest.mark.parametrize("batch_size", [2, 100])
def test_each_topic_goes_to_a_vector_of_its_own(scale, batch_size):
    """One step from whole batches by hand; small ones keep rows and topics together as well."""
    chosen = setting("tokens")
    forget, retain = chosen.sets()
    ids = np.asarray(forget.index)
    topics = [ids[1::2][::-1], ids[::2]]
    recipe = mu.PairingRecipe("none", epochs=1, batch_size=batch_size)
    unlearn = mu.rmu(
        chosen.model, optax.sgd(0.1), layer=hidden, scale=scale, topics=topics, recipe=recipe
    )
    found, _ = unlearn(KEY, chosen.variables, forget, retain)
    key, scales = jax.random.fold_in(KEY, 1), np.broadcast_to(scale, 2)
    controls = [control_vector(jax.random.fold_in(key, k), 6, scales[k]) for k in range(2)]
    assert not np.allclose(controls[0] / scales[0], controls[1] / scales[1], atol=0.1)
    wanted = jnp.stack([controls[0 if number in topics[0] else 1] for number in ids])
    order = np.asarray(random_order(jax.random.fold_in(jax.random.fold_in(KEY, 0), 0), len(ids)))
    params = chosen.variables.params
    for first in range(0, len(ids), batch_size):
        rows = order[first : first + batch_size]

        def value(params, rows=rows):
            apart = hidden(mu.Variables(params), forget.inputs[rows]) - wanted[rows][:, None]
            mask = forget.targets.mask[rows]
            return ((jnp.square(apart).mean(-1) * mask).sum(1) / mask.sum(1)).mean()

        grads = jax.grad(value)(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    assert_close(found.params, params)
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    sets = tuple(mu.shard(x, mesh) for x in (forget, retain))
    assert_close(unlearn(KEY, chosen.variables, *sets)[0], found)
    assert_close(jax.jit(unlearn)(KEY, chosen.variables, forget, retain)[0], found)


def topics_for(case, ids):
    return {
        "in none .first id": [ids[1:]],
        "twice": [ids, ids[:1]],
        "found none in topic 1": [ids, []],
    }[case]


@pytest.mark.parametrize("says", ["in none .first id", "twice", "found none in topic 1"])
def test_topics_that_do_not_divide_the_rows_are_refused_in_one_sentence(says):
    chosen = setting("tokens")
    forget, retain = chosen.sets()
    topics = topics_for(says, np.asarray(forget.index))
    unlearn = mu.rmu(chosen.model, optax.sgd(0.1), layer=hidden, topics=topics)
    with pytest.raises(ValueError, match=says) as error:
        unlearn(KEY, chosen.variables, forget, retain)
    assert is_one_sentence(str(error.value))


def test_text_ids_of_topics_are_refused_in_one_sentence():
    chosen = setting("tokens")
    unlearn = mu.rmu(chosen.model, optax.sgd(0.1), layer=hidden, topics=[["bio"]])
    with pytest.raises(ValueError, match="expected integer ids") as error:
        unlearn(KEY, chosen.variables, *chosen.sets())
    assert is_one_sentence(str(error.value))


def test_scales_of_another_number_of_topics_are_refused_in_one_sentence():
    with pytest.raises(ValueError, match="one scale, or one for each topic") as error:
        mu.rmu(setting("tokens").model, optax.sgd(0.1), layer=hidden, scale=jnp.ones(2))
    assert is_one_sentence(str(error.value))


def test_a_name_that_is_no_activation_is_refused_in_one_sentence():
    chosen = setting("tokens")
    with pytest.raises(ValueError, match="an activation among logits, found 'block'") as error:
        mu.rmu(chosen.model, optax.sgd(0.1), layer="block")(KEY, chosen.variables, *chosen.sets())
    assert is_one_sentence(str(error.value))
