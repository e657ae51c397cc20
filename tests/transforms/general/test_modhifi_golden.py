"""Fidelities of the input channels of a layer against recorded numbers, in float64.

The numbers are those of `golden/classification_component_scores.npz`, of a program of its own. They
are not to be regenerated from this code: when a test fails, either the code is wrong or the
definition was changed on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from golden_networks import MODEL, params

import mu_jax as mu
from mu_jax.statistics.fidelity import (
    channel_gram,
    compensation,
    entering_moments,
    singleton_fidelity,
    subset_fidelity,
)
from mu_jax.statistics.layers import find_layers, named_layer

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
GOLDEN = load("classification_component_scores.npz")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def rows(name):
    chosen = GOLDEN[f"{name}_class_rows"]
    return mu.batches(GOLDEN["x"][chosen], GOLDEN["y"][chosen], batch_size=32, index=chosen)


def before():
    return mu.Variables(params(GOLDEN, "before"))


def layer_and_moments(name):
    data = rows(name)
    layer = named_layer(find_layers(MODEL, before(), data.inputs), "fc2.weight")
    found = mu.collect(entering_moments(MODEL, (layer,)), before(), data)
    return layer, layer.from_leaf(before().params["fc2.weight"]), found.value[layer.name]


@pytest.mark.parametrize("name", ["forget", "retain"])
def test_fidelities(name):
    layer, kernel, moments = layer_and_moments(name)
    gram = channel_gram(layer, kernel, moments)
    kept = jnp.zeros((1, 32), bool).at[0, GOLDEN[f"{name}/kept_channels"]].set(True)
    single = singleton_fidelity(layer, kernel, moments)
    factors = compensation(gram, kept)[..., GOLDEN[f"{name}/kept_channels"]]
    found = {
        "gram": gram,
        "singleton_fidelity": single,
        "score": single.mean(1),
        "compensation": factors,
        "subset_fidelity": subset_fidelity(gram, kept),
    }
    for key, value in found.items():
        assert value.dtype == jnp.float64
        expected = GOLDEN[f"{name}/{key}"]
        np.testing.assert_allclose(value[0], expected, rtol=0, atol=1e-10, err_msg=key)


def test_the_channels_that_are_removed():
    score = {name: GOLDEN[f"{name}/score"] for name in ("forget", "retain")}
    expected = np.zeros(32, bool)
    expected[np.argsort(score["retain"] - score["forget"], kind="stable")[:3]] = True
    unlearn = mu.modhifi(MODEL, layers=["fc2.weight"], channels=3)
    after, info = unlearn(None, before(), rows("forget"), rows("retain"))
    np.testing.assert_array_equal(info.details.removed["params/fc2.weight"][0], expected)
    weight = before().params["fc2.weight"]
    np.testing.assert_array_equal(after.params["fc2.weight"], jnp.where(expected, 0, weight))
