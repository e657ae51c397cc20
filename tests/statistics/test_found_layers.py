"""The layers of a model: which leaves are kernels, and what enters them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import setting
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.statistics.layers import (
    Layer,
    find_head,
    find_layers,
    last_layer,
    named_layer,
    with_inputs,
)

X = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)


def of(function, params):
    return mu.from_function(function, mu.losses.squared_error), mu.Variables(params)


def kernel(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def test_layers_come_in_the_order_of_their_use_whatever_their_layout():
    def predict(p, state, x):
        return jnp.tanh(x @ p["b"].T + p["bias"]) @ p["a"]

    model, start = of(predict, {"a": kernel(5, 2), "b": kernel(5, 3), "bias": jnp.ones(5)})
    found = find_layers(model, start, X)
    assert [layer.name for layer in found] == ["params/b", "params/a"]
    assert [layer.shape for layer in found] == [(1, 3, 5), (1, 5, 2)]
    first = found[0].from_leaf(start.params["b"])
    np.testing.assert_array_equal(first[0], start.params["b"].T)
    np.testing.assert_array_equal(found[0].to_leaf(first), start.params["b"])


def test_what_enters_gives_the_outputs_and_has_a_gradient():
    def predict(p, state, x):
        return jnp.tanh(x @ p["first"]) @ p["last"]

    model, start = of(predict, {"first": kernel(3, 5), "last": kernel(5, 2)})
    layers = find_layers(model, start, X)

    def run(variables):
        return with_inputs(model.apply, layers, variables, X)

    outputs, (first, last) = jax.jit(run)(start)
    np.testing.assert_allclose(outputs, model.apply(start, X), rtol=1e-6)
    np.testing.assert_array_equal(first[0], X)
    np.testing.assert_allclose(last[0] @ start.params["last"], outputs, rtol=1e-5)
    found = jax.grad(lambda v: run(v)[1][1].sum())(start).params
    expected = jax.grad(lambda w: jnp.tanh(X @ w).sum())(start.params["first"])
    np.testing.assert_allclose(found["first"], expected, rtol=1e-5)
    assert not found["last"].any()


def test_tables_and_kernels_that_are_used_otherwise_are_none():
    def predict(p, state, x):
        return (p["table"][jnp.zeros(len(x), int)] + x) @ p["both"] + p["both"].sum()

    model, start = of(predict, {"table": kernel(4, 3), "both": kernel(3, 2)})
    assert find_layers(model, start, X) == ()


def test_a_kernel_that_is_shared_is_one_layer_and_no_last_one():
    def predict(p, state, x):
        return jnp.tanh(x @ p["w"]) @ p["w"]

    model, start = of(predict, {"w": kernel(3, 3)})
    (layer,) = find_layers(model, start, X)
    assert len(layer.products) == 2
    entering = with_inputs(model.apply, [layer], start, X)[1][0]
    np.testing.assert_allclose(entering[0, :4], X, rtol=1e-6)
    np.testing.assert_allclose(entering[0, 4:], jnp.tanh(X @ start.params["w"]), rtol=1e-5)
    with pytest.raises(ValueError, match="ends with a dense layer") as error:
        last_layer(model, start, X)
    assert is_one_sentence(str(error.value))


def test_the_last_of_two_linear_layers_is_the_head():
    model, start = of(lambda p, s, x: x @ p["a"] @ p["b"], {"a": kernel(3, 3), "b": kernel(3, 3)})
    assert last_layer(model, start, X).name == "params/b"


@pytest.mark.parametrize("name", ["hidden", "params/hidden"])
def test_a_layer_by_its_name(name):
    chosen = setting("raw")
    layers = find_layers(chosen.model, chosen.variables, chosen.inputs)
    assert named_layer(layers, name).name == "params/hidden"


def test_a_layer_by_the_name_of_what_its_kernel_lies_in():
    names = ("params/net/a/kernel", "params/net/ab/kernel", "params/head")
    layers = [Layer(name, n, (1, 1, 1), (0,), (n,), (), 1, True) for n, name in enumerate(names)]
    assert [named_layer(layers, name).leaf for name in ("a", "net/ab", "head")] == [0, 1, 2]
    with pytest.raises(ValueError, match="found 'net'") as error:
        named_layer(layers, "net")
    assert is_one_sentence(str(error.value))


def test_a_head_with_a_scale_behind_it_and_its_bias():
    def predict(p, state, x):
        return 2 * (x @ p["w"] + p["b"])

    data = mu.batches(X, jnp.zeros(4, int), batch_size=4)
    model, start = of(predict, {"w": kernel(3, 2), "b": jnp.ones(2)})
    assert find_head(model, start, data).biased
    model, start = of(lambda p, s, x: 2 * (x @ p["w"]), {"w": kernel(3, 2), "b": jnp.ones(2)})
    assert not find_head(model, start, data).biased
