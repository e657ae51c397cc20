"""Named activations of linen and nnx modules and of raw functions, in either mode."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from model_cases import LOSS, X, same

import mu_jax as mu


class Sowing(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(5, name="hidden")(x)
        self.sow("intermediates", "h", x)
        return SowingHead(name="top")(x)


class SowingHead(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3, name="head")(x)
        self.sow("intermediates", "logits", x)
        return x


class NNXSowing(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        x = self.hidden(x)
        self.sow(nnx.Intermediate, "h", x)
        return self.head(x)


def test_observe_gives_what_a_linen_module_sows_by_name():
    module = Sowing()
    variables = module.init(jax.random.key(0), X)
    model = mu.from_linen(module, LOSS)
    outputs, seen = model.observe(*model.split(variables), X)
    assert set(seen) == {"h", "top/logits"}
    hidden = variables["params"]["hidden"]
    np.testing.assert_allclose(seen["h"], X @ hidden["kernel"] + hidden["bias"], rtol=1e-5)
    assert same(seen["top/logits"], outputs)
    assert same(outputs, model.apply(variables, X))


def test_observe_gives_what_an_nnx_module_sows_by_name():
    net = NNXSowing(nnx.Rngs(0))
    model, variables = mu.from_nnx(net, LOSS), nnx.state(net)
    outputs, seen = model.observe(*model.split(variables), X)
    assert set(seen) == {"h"}
    np.testing.assert_allclose(seen["h"], net.hidden(X), rtol=1e-6)
    assert same(outputs, model.apply(variables, X))


class NNXTraining(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        x = self.norm(self.hidden(x))
        self.sow(nnx.Intermediate, "h", x)
        return self.dropout(x)


class Training(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(5, name="hidden")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        self.sow("intermediates", "h", x)
        return nn.Dropout(0.5, deterministic=not train)(x)


@pytest.mark.parametrize("restricted", [False, True])
@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_observe_train_is_training_mode_with_names(name, restricted):
    key = jax.random.key(5)
    if name == "linen":
        variables = Training().init(key, X)
        model = mu.from_linen(Training(), LOSS)
    else:
        net = NNXTraining(nnx.Rngs(0))
        model, variables = mu.from_nnx(net, LOSS), nnx.state(net)
    model = mu.restrict(model, lambda name: name.startswith("hidden")) if restricted else model
    given = (*model.split(variables), X, key)
    outputs, seen, state = model.observe_train(*given)
    assert same((outputs, state), model.predict_train(*given))
    assert list(seen) == ["h"]
    np.testing.assert_allclose(seen["h"].mean(0), 0, atol=1e-5)  # normalized by the batch
    kept = outputs != 0
    np.testing.assert_allclose(outputs[kept], 2 * seen["h"][kept], rtol=1e-6)
    assert 0 < kept.sum() < kept.size


def test_a_raw_function_may_name_its_activations():
    def observe(params, state, x):
        return x @ params, {"inputs": x}

    model = mu.from_function(lambda *args: observe(*args)[0], LOSS, observe=observe)
    outputs, seen, state = model.observe_train(jnp.ones((4, 3)), (), X, None)
    assert same((outputs, seen), model.observe(jnp.ones((4, 3)), (), X))
    assert (state, list(seen)) == ((), ["inputs"])
    moving = mu.from_function(
        model.predict, LOSS, observe=observe, predict_train=model.predict_train
    )
    assert moving.observe is observe and moving.observe_train is None
    assert mu.from_function(model.predict, LOSS).observe is None
