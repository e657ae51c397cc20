"""Leaves without entries change nothing: methods do as on a model that lacks them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu

N = 10
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
KEY, SGD = jax.random.key(0), optax.sgd(0.1)


def plain(params, state, x):
    return jnp.tanh(x) @ params["w"]


def with_empty(params, state, x):
    return plain(params, state, x) + (x @ params["none"]).sum() + params["bias"].sum()


def variables(empty):
    params = {"w": jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)), jnp.float32)}
    if empty:
        params |= {"none": jnp.zeros((3, 0)), "bias": jnp.zeros(0)}
    return mu.Variables(params)


RECIPES = {
    "ssd": lambda model: mu.ssd(model, 1.2, 0.5),
    "adaptive": lambda model: mu.ssd(model, "adaptive"),
    "loss_free": lambda model: mu.ssd(model, 1.2, 0.5, definition="loss_free"),
    "fisher": lambda model: mu.ssd(model, 1.2, 0.5, definition="fisher"),
    "iau": lambda model: mu.iau(model, mu.edits.normalized(0.1, "per_leaf")),
    "finetune": lambda model: mu.finetune(model, SGD),
    "magnitude_prune": lambda model: mu.magnitude_prune(model, 0.5),
    "restricted": lambda model: mu.finetune(model, SGD, gradients=mu.gradient_restriction()),
}


@pytest.mark.quick("ssd", "loss_free", "finetune", "iau")
@pytest.mark.filterwarnings("ignore:SSD selected", "ignore:Nothing was changed")
@pytest.mark.parametrize("name", RECIPES)
def test_methods_do_as_without_leaves_that_are_empty(name):
    data = mu.batches(X, np.arange(N) % 2, batch_size=4)
    found = []
    for predict, empty in ((with_empty, True), (plain, False)):
        model = mu.from_function(predict, mu.losses.cross_entropy)
        after, info = RECIPES[name](model)(KEY, variables(empty), *mu.split(data, [1, 4]))
        leaves = [x for x in jax.tree.leaves((after, info)) if x.size]
        assert all(np.isfinite(x).all() for x in leaves)
        found.append((after.params["w"], info.edit.changed, info.edit.update_norm))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    if name == "ssd":
        assert info.details.selected_by_leaf["w"] > 0


def test_a_model_without_any_entry_has_changed_nothing():
    nothing = {"a": jnp.zeros(0)}
    summary = mu.edits.summarize(nothing, nothing)
    assert summary.changed == 0 and summary.changed_by_leaf["a"] == 0 and summary.finite
