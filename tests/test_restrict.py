"""Models of which only some leaves are trained."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from model_cases import (
    DATA,
    X,
    assert_one_sentence,
    leaf_names,
    linen_case,
    nnx_case,
    raw_case,
    same,
)

import mu_jax as mu
from mu_jax.freezing import settled
from mu_jax.model import path_name


@pytest.fixture(params=[linen_case, nnx_case, raw_case], ids=["linen", "nnx", "raw"])
def adapter(request):
    return request.param()


def is_head(name):
    return name.startswith("head/")


def mask_of(params):
    return jax.tree_util.tree_map_with_path(lambda p, _: is_head(path_name(p)), params)


@pytest.mark.parametrize("form", ["predicate", "tree of bools"])
def test_restrict_leaves_frozen_leaves_out_of_everything(adapter, form):
    model, variables = adapter
    part = mu.restrict(model, is_head if form == "predicate" else mask_of(model.params(variables)))
    assert leaf_names(part.params(variables)) == ["head/bias", "head/kernel"]
    assert same(part.apply(variables, X), model.apply(variables, X))
    assert same(part.with_params(variables, part.params(variables)), variables)
    key = jax.random.key(5)
    assert same(part.apply_train(variables, X, key), model.apply_train(variables, X, key))

    whole = mu.collect(mu.statistics.mean_gradient(model), variables, DATA).value
    value = mu.collect(mu.statistics.mean_gradient(part), variables, DATA).value
    chosen = [
        leaf for p, leaf in jax.tree_util.tree_leaves_with_path(whole) if is_head(path_name(p))
    ]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        jax.tree.leaves(value),
        chosen,
    )


def test_no_gradient_is_computed_for_frozen_leaves():
    model, variables = raw_case()
    part = mu.restrict(model, lambda name: name == "head/bias")

    def products(model):
        statistic = mu.statistics.mean_gradient(model)
        jaxpr = jax.make_jaxpr(statistic.terms)(variables, DATA.at(0))
        return str(jaxpr).count("dot_general")

    assert products(part) == 2  # the forward pass only
    assert products(model) == 5


@pytest.mark.quick("linen-False", "nnx-False", "nnx-True")
@pytest.mark.parametrize("training_mode", [False, True])
def test_a_fit_of_a_restricted_model_leaves_the_rest_bit_identical(adapter, training_mode):
    model, variables = adapter
    part = mu.restrict(model, is_head)
    objective = mu.supervised(part, training_mode=training_mode)
    optimizer = optax.adamw(0.1, weight_decay=0.1)
    state, _ = mu.fit(part, objective, optimizer, variables, DATA, key=jax.random.key(0))
    before, after = model.params(variables), model.params(state.variables)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    for (path, old), new in zip(
        jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True
    ):
        assert np.array_equal(old, new) is not is_head(path_name(path))


def test_restrictions_nest():
    model, variables = linen_case()
    part = mu.restrict(mu.restrict(model, is_head), lambda name: name.endswith("bias"))
    assert leaf_names(part.params(variables)) == ["head/bias"]
    assert same(part.apply(variables, X), model.apply(variables, X))
    assert same(part.with_params(variables, part.params(variables)), variables)


def test_restrict_with_the_same_choice_is_the_same_model():
    model, variables = linen_case()
    mask = mask_of(model.params(variables))
    assert mu.restrict(model, mask) is mu.restrict(model, jax.tree.map(bool, mask))
    assert mu.restrict(model, is_head) is mu.restrict(model, is_head)


def test_refresh_keeps_what_is_frozen():
    model, variables = linen_case()
    fresh = jax.tree.map(lambda x: x + 1, variables)
    mixed = mu.restrict(model, is_head).refresh(variables, fresh)
    assert same(mixed["params"]["head"], fresh["params"]["head"])
    assert same(mixed["params"]["hidden"], variables["params"]["hidden"])
    assert same(mixed["batch_stats"], fresh["batch_stats"])
    assert same(model.refresh(variables, fresh), fresh)


def test_restrict_refuses_masks_of_array_elements():
    model, variables = linen_case()
    masks = jax.tree.map(lambda x: jnp.ones(x.shape, bool), model.params(variables))
    with pytest.raises(TypeError) as raised:
        mu.restrict(model, masks)
    assert_one_sentence(raised, "mu.edits.where(mask)")


@pytest.mark.parametrize("form", ["predicate", "tree of bools"])
def test_restrict_refuses_to_choose_nothing(adapter, form):
    model, variables = adapter
    nothing = jax.tree.map(lambda _: False, model.params(variables))
    part = mu.restrict(model, (lambda name: name == "heads") if form == "predicate" else nothing)
    with pytest.raises(ValueError) as raised:
        part.apply(variables, X)
    assert_one_sentence(raised, "head/bias", "at least one trainable leaf")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda mask: mask.pop("hidden"), "lacks 'hidden/bias'"),
        (lambda mask: mask.update(tail=False), "is of another tree, with 'tail'"),
    ],
    ids=["fewer leaves", "another leaf"],
)
def test_a_mask_of_another_tree_is_refused(change, says):
    model, variables = linen_case()
    mask = dict(mask_of(model.params(variables)))
    change(mask)
    for part in (mu.restrict(model, mask), settled(mu.restrict(model, mask), variables)):
        with pytest.raises(ValueError) as raised:
            part.apply(variables, X)
        assert_one_sentence(raised, says)


def test_models_with_the_same_trainable_leaves_are_the_same_once_these_are_known(adapter):
    model, variables = adapter
    first, second = (mu.restrict(model, lambda name: name.startswith("head/")) for _ in range(2))
    assert first != second
    found = settled(first, variables)
    assert found == settled(second, variables) == settled(found, variables)
    assert found == mu.restrict(model, mask_of(model.params(variables)))
    other = settled(mu.restrict(model, lambda name: name.endswith("bias")), variables)
    assert other != found and settled(model, variables) is model
    assert same(found.params(variables), first.params(variables))


def test_settling_keeps_what_was_changed_since(adapter):
    model, variables = adapter
    inner = mu.restrict(model, lambda name: name.startswith("head/"))
    nested = settled(mu.restrict(inner, lambda name: name.endswith("bias")), variables)
    assert leaf_names(nested.params(variables)) == ["head/bias"]
    assert nested == settled(mu.restrict(inner, lambda name: name.endswith("bias")), variables)
    other = dataclasses.replace(inner, loss=mu.losses.absolute_error)
    assert settled(other, variables).loss is mu.losses.absolute_error
    assert settled(other, variables) == settled(other, variables) != settled(inner, variables)
    changed = dataclasses.replace(inner, predict=lambda params, state, inputs: inputs)
    assert settled(changed, variables) is changed
