"""One interface over linen, nnx, raw functions, haiku- and equinox-style models."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from model_cases import (
    DATA,
    LABELS,
    LOSS,
    NNX,
    STATEFUL,
    X,
    as_data,
    assert_one_sentence,
    leaf_names,
    linen_case,
    nnx_case,
    raw_case,
    same,
)
from small_models import setting
from trees import assert_identical

import mu_jax as mu
from mu_jax.model import path_name


@pytest.fixture(params=STATEFUL.values(), ids=STATEFUL.keys())
def case(request):
    return request.param()


@pytest.fixture(params=[linen_case, nnx_case, raw_case], ids=["linen", "nnx", "raw"])
def adapter(request):
    return request.param()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    weight: Any
    bias: Any
    activation: Any = dataclasses.field(default=None, metadata={"static": False})

    def __call__(self, x):
        y = self.weight @ x + self.bias
        return y if self.activation is None else self.activation(y)


def is_array(leaf):
    return isinstance(leaf, jax.Array)


def test_inference_is_the_default_and_normalizes_by_running_statistics(case):
    model, variables = case
    params = model.params(variables)
    values = {path_name(p): v for p, v in jax.tree_util.tree_leaves_with_path(as_data(params))}
    h = X @ values["hidden/kernel"] + values["hidden/bias"]
    h = h / np.sqrt(1 + 1e-5) * values["norm/scale"] + values["norm/bias"]
    expected = h @ values["head/kernel"] + values["head/bias"]
    np.testing.assert_allclose(model.apply(variables, X), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.quick("linen training", "linen explicit", "nnx", "haiku style")
def test_a_batch_is_predicted_example_by_example(case):
    model, variables = case
    apply = jax.jit(model.apply)
    one_by_one = np.concatenate([apply(variables, x[None]) for x in X])
    np.testing.assert_allclose(apply(variables, X), one_by_one, rtol=2e-5, atol=2e-5)
    losses = model.losses(variables, DATA.at(0))
    np.testing.assert_allclose(losses, LOSS(one_by_one, LABELS)[:4], rtol=1e-4, atol=1e-5)
    assert losses.dtype == jnp.float32


def test_training_mode_moves_statistics_and_nothing_else(case):
    model, variables = case
    _, moved = model.apply_train(variables, X, jax.random.key(3))
    assert jax.tree.structure(moved) == jax.tree.structure(variables)
    assert same(model.params(moved), model.params(variables))
    names = [
        path_name(path).split("/")[-1]
        for (path, new), old in zip(
            jax.tree_util.tree_leaves_with_path(as_data(moved)),
            jax.tree.leaves(as_data(variables)),
            strict=True,
        )
        if not np.array_equal(new, old)
    ]
    assert sorted(names) == ["mean", "var"]


def test_statistics_move_by_the_mean_of_the_batch(case):
    model, variables = case
    params = model.params(variables)
    _, moved = model.apply_train(variables, X, jax.random.key(3))
    values = {
        path_name(p).split("/")[-1]: v
        for p, v in jax.tree_util.tree_leaves_with_path(as_data(model.split(moved)[1]))
    }
    weights = {path_name(p): v for p, v in jax.tree_util.tree_leaves_with_path(as_data(params))}
    h = X @ weights["hidden/kernel"] + weights["hidden/bias"]
    np.testing.assert_allclose(values["mean"], 0.1 * h.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(values["var"], 0.9 + 0.1 * h.var(0), rtol=1e-4)


def test_dropout_is_off_at_inference_and_seeded_by_the_key_in_training(case):
    model, variables = case
    assert same(model.apply(variables, X), model.apply(variables, X))
    first, again, other = (
        model.apply_train(variables, X, jax.random.key(seed))[0] for seed in (1, 1, 2)
    )
    assert same(first, again)
    assert not same(first, other)


@pytest.mark.quick("raw")
def test_statistics_and_fits_leave_running_statistics_alone_unless_asked(adapter):
    model, variables = adapter
    state = as_data(model.split(variables)[1])
    mu.collect(mu.statistics.importance(model), variables, DATA)
    for training_mode in (False, True):
        objective = mu.supervised(model, training_mode=training_mode)
        fitted, _ = mu.fit(model, objective, optax.sgd(0.1), variables, DATA, key=jax.random.key(0))
        moved = as_data(model.split(fitted.variables)[1])
        assert same(moved, state) is not training_mode
        assert not same(model.params(fitted.variables), model.params(variables))


def test_a_linen_module_without_a_flag_is_called_without_one():
    module = nn.Dense(3)
    variables = module.init(jax.random.key(0), X)
    model = mu.from_linen(module, LOSS)
    assert same(model.apply(variables, X), module.apply(variables, X))
    outputs, moved = model.apply_train(variables, X)
    assert same(outputs, module.apply(variables, X)) and same(moved, variables)


def test_perturbations_of_a_linen_module_are_not_kept_as_state():
    module = Perturbed()
    variables = module.init(jax.random.key(0), X)
    assert sorted(variables) == ["params", "perturbations"]
    model = mu.from_linen(module, LOSS)
    assert model.split(variables)[1] == {}
    assert sorted(model.with_params(variables, model.params(variables))) == ["params"]
    assert sorted(model.apply_train(variables, X)[1]) == ["params"]


def test_a_raw_function_keeps_its_state_in_training_mode_by_default():
    model = mu.from_function(lambda w, state, x: x @ w + state["shift"], LOSS)
    variables = mu.Variables(jnp.ones((4, 3)), {"shift": jnp.arange(3.0)})
    outputs, moved = model.apply_train(variables, X, jax.random.key(0))
    np.testing.assert_array_equal(outputs, X @ jnp.ones((4, 3)) + jnp.arange(3.0))
    assert same(moved, variables)


def test_an_equinox_style_module_is_partitioned_by_hand():
    """The module is a pytree of arrays and functions, called on one example at a time."""
    net = Linear(jnp.arange(12.0).reshape(3, 4) / 10, jnp.ones(3), jnp.tanh)
    leaves, structure = jax.tree.flatten(net)
    arrays = structure.unflatten([x if is_array(x) else None for x in leaves])
    static = [None if is_array(x) else x for x in leaves]

    def predict(params, state, x):
        del state
        slots = jax.tree.leaves(params, is_leaf=lambda leaf: leaf is None)
        merged = [s if a is None else a for a, s in zip(slots, static, strict=True)]
        return jax.vmap(structure.unflatten(merged))(x)

    model = mu.from_function(predict, LOSS)
    variables = mu.Variables(arrays)
    expected = jnp.tanh(X @ net.weight.T + net.bias)
    np.testing.assert_allclose(model.apply(variables, X), expected, rtol=1e-6)
    value = mu.collect(mu.statistics.mean_gradient(model), variables, DATA).value
    grads = jax.grad(lambda p: LOSS(predict(p, (), X), LABELS).mean())(arrays)
    np.testing.assert_allclose(value.weight, grads.weight, rtol=1e-5, atol=1e-7)
    assert value.activation is None


def test_nnx_module_is_a_template_that_is_never_changed():
    net = NNX(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, as_data(nnx.state(net)))
    model, variables = mu.from_nnx(net, LOSS), nnx.state(net)
    _, moved = model.apply_train(variables, X, jax.random.key(0))
    assert same(nnx.state(net), before)
    nnx.update(net, moved)
    net.eval()
    assert same(net(X), model.apply(moved, X))


def test_nnx_variables_of_the_caller_are_never_changed_nor_shared():
    model, variables = nnx_case()
    before = jax.tree.map(np.asarray, as_data(variables))
    _, moved = model.apply_train(variables, X, jax.random.key(0))
    edited = model.with_params(variables, model.params(variables))
    assert same(variables, before)
    for result in (moved, edited):
        result["norm"]["mean"].set_value(jnp.full(5, 7.0))
        result["head"]["bias"].set_value(jnp.full(3, 7.0))
    assert same(variables, before)


def test_every_random_stream_of_an_nnx_module_is_seeded_by_the_key():
    class Named(nnx.Module):
        def __init__(self, rngs):
            self.dropout = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(self.dropout(x))

    net = Named(nnx.Rngs(params=0, dropout=1))
    model, variables = mu.from_nnx(net, LOSS), nnx.state(net)
    first, other = (model.apply_train(variables, X, jax.random.key(s))[0] for s in (1, 2))
    assert not same(first, other)


def test_nnx_trainable_takes_another_filter():
    model = mu.from_nnx(
        NNX(nnx.Rngs(0)), LOSS, trainable=nnx.All(nnx.Param, nnx.PathContains("head"))
    )
    variables = nnx.state(NNX(nnx.Rngs(0)))
    names = [path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(model.params(variables))]
    assert names == ["head/bias", "head/kernel"]
    assert model.apply(variables, X).shape == (6, 3)


def test_a_label_dtype_that_the_loss_refuses_is_one_sentence(adapter):
    model, variables = adapter
    data = mu.batches(X, LABELS.astype(jnp.float32), batch_size=4)
    with pytest.raises(ValueError) as raised:
        mu.collect(mu.statistics.mean_gradient(model), variables, data)
    advice = "check the shapes of both, and the dtype of the labels"
    assert_one_sentence(raised, "float32[4]", advice)


def test_a_loss_that_reduces_over_the_batch_is_one_sentence():
    model = mu.from_function(lambda w, s, x: x @ w, lambda o, t: LOSS(o, t).mean())
    with pytest.raises(ValueError) as raised:
        model.losses(mu.Variables(jnp.ones((4, 3))), DATA.at(0))
    assert_one_sentence(raised, "(4,)", "shape ()", "does not reduce over the batch")


def test_a_loss_that_keeps_the_outputs_is_one_sentence():
    model = mu.from_function(lambda w, s, x: x @ w, lambda o, t: jnp.square(o - t[:, None]))
    with pytest.raises(ValueError) as raised:
        model.losses(mu.Variables(jnp.ones((4, 3))), DATA.at(0))
    assert_one_sentence(raised, "(4,)", "(4, 3)", "over everything else")


@pytest.mark.parametrize(
    ("make", "wrong", "part"),
    [
        (linen_case, {"kernel": jnp.ones(2)}, "'params' collection"),
        (nnx_case, {"params": {}}, "nnx.state(module)"),
        (raw_case, {"params": {}}, "mu.Variables(params)"),
    ],
    ids=["linen", "nnx", "raw"],
)
def test_variables_of_another_framework_are_refused(make, wrong, part):
    model, _ = make()
    with pytest.raises(TypeError) as raised:
        model.apply(wrong, X)
    assert_one_sentence(raised, part)


class Perturbed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return self.perturb("logits", nn.Dense(3)(x))


def test_names_are_the_same_for_linen_and_nnx():
    linen, linen_variables = linen_case()
    net, nnx_variables = nnx_case()
    names = leaf_names(linen.params(linen_variables))
    assert names == leaf_names(net.params(nnx_variables))
    assert names == [
        "head/bias",
        "head/kernel",
        "hidden/bias",
        "hidden/kernel",
        "norm/bias",
        "norm/scale",
    ]


@pytest.mark.quick("raw")
def test_models_map_over_an_ensemble(adapter):
    model, variables = adapter
    params, state = model.split(variables)
    scales = jnp.array([1.0, 2.0])
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    outputs = jax.vmap(lambda p: model.predict(p, state, X))(stacked)
    for number, scale in enumerate(scales):
        one = model.predict(jax.tree.map(lambda x, s=scale: s * x, params), state, X)
        np.testing.assert_allclose(outputs[number], one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["raw", "linen", "nnx"])
def test_forward_is_either_mode(name):
    chosen = setting(name)
    model, variables, key = chosen.model, chosen.variables, jax.random.key(1)
    inputs = chosen.data().at(0).inputs
    outputs, same_variables = model.forward(variables, inputs, training=False, key=key)
    assert same_variables is variables
    assert_identical(outputs, model.apply(variables, inputs))
    found = model.forward(variables, inputs, training=True, key=key)
    assert_identical(found, model.apply_train(variables, inputs, key))
    if name != "raw":
        assert not np.allclose(found[0], outputs)
