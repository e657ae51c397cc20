"""PDU: primal and dual steps by hand, the golden dual run, and the warm-up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import load
from small_models import setting
from trees import assert_close, is_one_sentence

import mu_jax as mu
from mu_jax.data.batches import random_order
from mu_jax.data.partners import partners, whole
from mu_jax.data.tokens import TokenTargets
from mu_jax.loops.gradients import total
from mu_jax.objectives.token_terms import token_cross_entropy
from mu_jax.objectives.weighted import flatness
from mu_jax.transforms.language.pdu import _primal_dual

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)


def test_the_golden_run_of_parameters_and_of_the_dual_variable():
    found = load("lm_objectives.npz")
    with jax.enable_x64(True):
        rows = {}
        for name in ("forget", "retain"):
            mask = (found[f"{name}/labels"] != -100).astype(float)
            rows[name] = TokenTargets(found[f"{name}/tokens"], mask)
        params = {leaf: found[f"tiny/{leaf}"] for leaf in "EAcWb"}
        eps, ones = found["hp/pdu_eps"], jnp.ones(3)

        def logits(p, tokens):
            return jnp.tanh(p["E"][tokens] @ p["A"] + p["c"]) @ p["W"] + p["b"]

        def value(both):
            z = {name: logits(both["params"], y.tokens) for name, y in rows.items()}
            flat = flatness(z["forget"], rows["forget"], ones, shifted=False)
            kept = token_cross_entropy(z["retain"], rows["retain"], ones)
            return total({"": flat}) + both["dual"] * (total({"": kept}) - eps)

        optimizer = _primal_dual(optax.adam(float(found["hp/lr"])), found["hp/pdu_dual_lr"], 0)
        both = {"params": params, "dual": np.ones(())}
        state, losses, duals = jax.jit(optimizer.init)(both), [], []

        @jax.jit
        def step(both, state):
            loss, grads = jax.value_and_grad(value)(both)
            updates, state = optimizer.update(grads, state, both)
            return loss, optax.apply_updates(both, updates), state

        for _ in range(3):
            loss, both, state = step(both, state)
            losses.append(loss)
            duals.append(both["dual"])
        np.testing.assert_allclose(losses, found["pdu/tiny_losses"], rtol=1e-9)
        np.testing.assert_allclose(duals, found["pdu/tiny_dual"], rtol=1e-9)
        for leaf, expected in both["params"].items():
            np.testing.assert_allclose(expected, found[f"pdu/tiny_after3/{leaf}"], rtol=1e-9)


@pytest.mark.quick("1", "2")
@pytest.mark.parametrize("warmup", [0, 1, 2])
def test_by_epoch_the_dual_variable_moves_behind_an_epoch_by_its_mean_violation(warmup):
    chosen = setting("tokens")
    forget, retain = chosen.sets()
    recipe = mu.PairingRecipe(gamma=0.5, alpha=0.7, epochs=3, batch_size=2, retain_rows=2)
    options = {"tolerance": 0.5, "dual_rate": 0.2, "warmup_epochs": warmup, "recipe": recipe}
    unlearn = mu.pdu(chosen.model, optax.sgd(0.05), dual_step="epoch", **options)
    found, info = unlearn(KEY, chosen.variables, forget, retain)
    params, dual, violations = chosen.variables.params, 0.7, []
    steps = -(-forget.num_examples // 2)
    assert steps > 1
    for step in range(3 * steps):
        epoch, place = divmod(step, steps)
        order = np.asarray(random_order(jax.random.fold_in(KEY, epoch), forget.num_examples))
        rows = whole(forget.take(order[2 * place : 2 * place + 2]))
        key = jax.random.fold_in(jax.random.fold_in(KEY, step), 1)
        drawn = partners(key, rows, whole(retain), 2)

        def value(params, dual, rows=rows, drawn=drawn):
            def logits(batch):
                return chosen.model.apply(chosen.variables._replace(params=params), batch.inputs)

            flat = flatness(logits(rows), rows.targets, rows.weight)
            kept = token_cross_entropy(logits(drawn), drawn.targets, drawn.weight)
            return 0.5 * total({"": flat}) + dual * (total({"": kept}) - 0.5), total({"": kept})

        grads, kept = jax.grad(value, has_aux=True)(params, dual)
        params = jax.tree.map(lambda p, g: p - 0.05 * g, params, grads)
        violations.append(float(kept) - 0.5)
        if place == steps - 1:
            if epoch + 1 >= warmup:
                dual = max(0.0, dual + 0.2 * np.mean(violations))
            violations = []
    assert_close(found.params, params, rtol=1e-4)
    np.testing.assert_allclose(info.details.dual, dual, rtol=1e-5)
    assert dual > 0.7


def test_another_word_for_the_dual_step_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="dual_step as 'step' or 'epoch', found 'batch'") as error:
        mu.pdu(setting("tokens").model, optax.sgd(0.1), tolerance=1.0, dual_step="batch")
    assert is_one_sentence(str(error.value))


@pytest.mark.quick("9.0")
@pytest.mark.parametrize("tolerance", [0.5, 9.0])
def test_steps_by_hand(tolerance):
    """With a tolerance out of reach the dual variable grows; with a generous one it goes to 0."""
    chosen = setting("tokens")
    forget, retain = chosen.sets()
    recipe = mu.PairingRecipe(gamma=0.5, alpha=0.7, epochs=3, batch_size=100, retain_rows=2)
    unlearn = mu.pdu(
        chosen.model,
        optax.sgd(0.05),
        tolerance=tolerance,
        dual_rate=0.2,
        warmup_epochs=1,
        recipe=recipe,
    )
    found, info = unlearn(KEY, chosen.variables, forget, retain)
    params, dual, rows = chosen.variables.params, 0.7, whole(forget)

    def terms(params, step):
        key = jax.random.fold_in(jax.random.fold_in(KEY, step), 1)
        drawn = partners(key, rows, whole(retain), 2)

        def logits(batch):
            return chosen.model.apply(chosen.variables._replace(params=params), batch.inputs)

        flat = flatness(logits(rows), rows.targets, rows.weight)
        kept = token_cross_entropy(logits(drawn), drawn.targets, drawn.weight)
        return total({"": flat}), total({"": kept})

    @jax.jit
    def descended(params, step, dual):
        def value(params):
            flat, kept = terms(params, step)
            return 0.5 * flat + dual * (kept - tolerance), kept

        grads, kept = jax.grad(value, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, grads), kept

    for step in range(3):
        params, kept = descended(params, step, dual)
        if step >= 1:
            dual = max(0.0, dual + 0.2 * (float(kept) - tolerance))
    assert_close(found.params, params)
    np.testing.assert_allclose(info.details.dual, dual, rtol=1e-5)
    assert (dual > 0.7) == (tolerance < 1) and (dual == 0) == (tolerance > 1)


def test_another_retain_term_is_refused_in_one_sentence():
    recipe = mu.PairingRecipe("kl")
    with pytest.raises(ValueError, match="expected the retain term 'nll'") as error:
        mu.pdu(setting("tokens").model, optax.sgd(0.1), tolerance=1.0, recipe=recipe)
    assert is_one_sentence(str(error.value))
