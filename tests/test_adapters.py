"""Modules of every make: static modes, stacked blocks, no hash, and wrong variables."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import mu_jax as mu
from mu_jax._callables import hashable

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
LABELS = np.arange(8) % 3
KEY, SGD, LOSS = jax.random.key(0), optax.sgd(0.1), mu.losses.cross_entropy
DATA = mu.batches(X, LABELS, batch_size=4)


class Network(nn.Module):
    """A mode that Python branches on, behind an argument with a default."""

    @nn.compact
    def __call__(self, x, scale=1.0, train: bool = True):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(5)(x))
        if train:
            x = nn.Dropout(0.5, deterministic=False)(x)
        return scale * nn.Dense(3)(x)


WRAPPED = {
    "plain": Network,
    "jit": nn.jit(Network, static_argnums=(3,)),
    "remat": nn.remat(Network, static_argnums=(3,)),
    "remat jit": nn.remat(nn.jit(Network, static_argnums=(3,)), static_argnums=(3,)),
}


@pytest.mark.quick("plain", "remat jit")
@pytest.mark.parametrize("name", WRAPPED)
def test_a_mode_that_is_static_by_position(name):
    module = WRAPPED[name]()
    model, variables = mu.from_linen(module, LOSS), Network().init(KEY, X, train=False)
    variables = jax.tree.map(lambda x: jax.device_put(np.asarray(x) + np.float32(0.1)), variables)
    expected = Network().apply(variables, X, train=False)
    np.testing.assert_allclose(model.apply(variables, X), expected, rtol=1e-5)
    found, moved = model.apply_train(variables, X, KEY)
    expected, _ = module.apply(
        variables, X, 1.0, True, rngs={"dropout": KEY}, mutable=["batch_stats"]
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(*(jax.tree.leaves(v["batch_stats"])[0] for v in (variables, moved)))
    mu.collect(mu.statistics.importance(model), variables, DATA)
    mu.fit(model, mu.supervised(model, training_mode=True), SGD, variables, DATA, key=KEY)


class OnlyByName(nn.Module):
    @nn.compact
    def __call__(self, x, *, train: bool):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(3)(x))


class RunningAverage(nn.Module):
    @nn.compact
    def __call__(self, x, use_running_average):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=use_running_average)(x))


@pytest.mark.parametrize(
    ("module", "inference"),
    [
        (OnlyByName(), {"train": False}),
        (RunningAverage(), {"use_running_average": True}),
        (nn.Sequential([nn.Dense(3)]), {}),
    ],
)
def test_the_mode_is_found_by_its_name(module, inference):
    variables = module.init(KEY, X, **inference)
    model = mu.from_linen(module, LOSS)
    expected = module.apply(variables, X, **inference)
    np.testing.assert_allclose(model.apply(variables, X), expected, rtol=1e-6)
    found, _ = model.apply_train(variables, X, KEY)
    assert np.array_equal(found, expected) == (not inference)


def test_a_mode_that_the_module_has_fixed_is_left_alone():
    module = nn.BatchNorm(use_running_average=True)
    variables = module.init(KEY, X)
    model = mu.from_linen(module, LOSS)
    np.testing.assert_array_equal(model.apply(variables, X), module.apply(variables, X))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return x + self.dropout(jnp.tanh(self.linear(x)))


class Stacked(nnx.Module):
    """Blocks made by `vmap` and run by `scan`, each with a random stream of its own."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make(rngs):
            return Block(rngs)

        self.blocks = make(rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def run(block, x):
            return block(x)

        return self.head(run(self.blocks, x))


def test_stacked_blocks_with_dropout_train():
    net = Stacked(nnx.Rngs(params=0, dropout=1))
    model, variables = mu.from_nnx(net, LOSS), nnx.state(net)
    net.eval()
    np.testing.assert_allclose(model.apply(variables, X), net(X), rtol=1e-6)
    runs = [model.apply_train(variables, X, jax.random.key(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(runs[0][0], runs[1][0])
    assert not np.array_equal(runs[0][0], runs[2][0])
    state, _ = mu.fit(
        model, mu.supervised(model, training_mode=True), SGD, variables, DATA, key=KEY, epochs=2
    )
    before, after = (model.params(v)["blocks"]["linear"]["kernel"] for v in (variables, state[1]))
    assert np.all(np.any(np.asarray(before[...] != after[...]), axis=(1, 2)))


def test_the_layers_of_a_stack_drop_different_units():
    """Masks seen as the zeros of what a block of ones adds."""

    class Ones(nnx.Module):
        def __init__(self, rngs):
            self.scale = nnx.Param(jnp.ones(()))
            self.dropout = nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            return self.dropout(self.scale[...] * jnp.ones_like(x))

    class Stack(nnx.Module):
        def __init__(self, rngs):
            make = nnx.vmap(Ones, in_axes=(0,), out_axes=0)
            self.blocks = nnx.split_rngs(splits=2)(make)(rngs)

        def __call__(self, x):
            return nnx.vmap(lambda block, x: block(x), in_axes=(0, None))(self.blocks, x)

    net = Stack(nnx.Rngs(0))
    model = mu.from_nnx(net, LOSS)
    first, second = model.apply_train(nnx.state(net), np.ones((1, 64)), KEY)[0]
    assert set(np.unique(first)) == {0, 2} and not np.array_equal(first, second)


@dataclasses.dataclass
class Unhashable:
    """Any function, as a dataclass with a mutable field: it has no hash."""

    function: object
    calls: list = dataclasses.field(default_factory=list)

    def __call__(self, *args):
        return self.function(*args)


def predict(w, state, x):
    return jnp.tanh(x) @ w


def init(key):
    return mu.Variables(jax.random.normal(key, (4, 3)))


def recipes(model, init):
    distance = Unhashable(lambda f, g: jnp.square(f - g).sum(1))
    return {
        "retrain": mu.retrain(model, SGD, init=init),
        "ssd": mu.ssd(model, 1.2, 0.5),
        "blindspot": mu.blindspot(
            model, init=init, optimizer=SGD, recipe=mu.BlindspotRecipe(distance=distance)
        ),
        "masked": mu.masked(mu.finetune(model, SGD), Unhashable(lambda name: True)),
        "iau": mu.iau(model, SGD),
    }


@pytest.mark.quick("retrain", "masked")
@pytest.mark.filterwarnings("ignore:SSD selected")
@pytest.mark.parametrize("name", list(recipes(mu.from_function(predict, LOSS), init)))
def test_callables_without_a_hash_do_as_functions(name):
    results = []
    for wrap in (Unhashable, lambda function: function):
        model = mu.from_function(wrap(predict), wrap(LOSS))
        unlearn = recipes(model, wrap(init))[name]
        results.append(unlearn(KEY, init(jax.random.key(1)), *mu.split(DATA, [1, 2]))[0].params)
    np.testing.assert_array_equal(*results)


def test_a_callable_without_a_hash_is_equal_to_itself_only():
    loss, same = Unhashable(LOSS), Unhashable(LOSS)
    assert hashable(loss) == hashable(loss) and hash(hashable(loss)) == hash(hashable(loss))
    assert hashable(loss) != hashable(same)
    assert hashable(LOSS) is LOSS
    assert hashable(loss).calls is loss.calls


def test_a_train_state_is_no_variables():
    module = nn.Dense(3)
    variables = module.init(KEY, X)
    state = TrainState.create(apply_fn=module.apply, params=variables["params"], tx=SGD)
    model = mu.from_linen(module, LOSS)
    with pytest.raises(TypeError, match=r"found TrainState: pass {'params': state.params}"):
        model.apply(state, X)
    with pytest.raises(TypeError, match="found list: pass what module"):
        model.apply([1, 2], X)


def test_an_nnx_state_without_its_statistics_is_refused():
    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.norm, self.head = nnx.BatchNorm(4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.head(self.norm(x))

    net = Normed(nnx.Rngs(0))
    model = mu.from_nnx(net, LOSS)
    with pytest.raises(ValueError, match=r"found Param only .*: pass nnx.state\(module\), whole"):
        model.apply(nnx.state(net, nnx.Param), X)
