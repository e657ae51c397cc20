"""IAU against the published update, in float64.

The numbers are those of `golden/iau_mlp_f64.npz`. They are not to be regenerated from this code:
when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import load
from golden_networks import MODEL, params
from sklearn.datasets import load_digits

import mu_jax as mu

GOLDEN = load("iau_mlp_f64.npz")
DIGITS = load_digits()


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def rows(name, batch_size=64):
    data = mu.batches(DIGITS.data / 16, DIGITS.target, batch_size=batch_size)
    return data.take(GOLDEN[f"{name}_idx"])


def variables():
    return mu.Variables(params(GOLDEN, "before"))


def assert_within(found, expected, tolerance):
    for name, leaf in expected.items():
        assert found[name].dtype == jnp.float64
        np.testing.assert_allclose(found[name], leaf, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("batch_size", [64, 37, 1400])
def test_gradients_at_any_batch_size(batch_size):
    statistic = mu.statistics.mean_gradient(MODEL)
    retain, forget = (
        mu.collect(statistic, variables(), rows(name, batch_size)) for name in ("retain", "forget")
    )
    assert (retain.weight, forget.weight) == (1400, 100)
    assert_within(retain.value, params(GOLDEN, "g_retain"), 1e-14)
    assert_within(forget.value, params(GOLDEN, "g_forget"), 1e-14)
    direction = optax.tree.sub(retain.value, forget.value)
    assert_within(direction, params(GOLDEN, "G"), 1e-14)


@pytest.mark.parametrize("batch_size", [64, 37, 1400])
@pytest.mark.parametrize("cached", [False, True])
def test_result(batch_size, cached):
    forget, retain = rows("forget", batch_size), rows("retain", batch_size)
    full = None
    if cached:
        statistic = mu.statistics.mean_gradient(MODEL)
        everything = mu.data.concatenate(retain, forget)
        full = mu.collect(statistic, variables(), everything)
    unlearn = mu.iau(MODEL, optax.adam(1e-3), full_gradient=full)
    after, info = unlearn(jax.random.key(0), variables(), forget, retain)
    # The cached form subtracts sums, which costs some digits where G is next to 0.
    assert_within(after.params, params(GOLDEN, "after"), 1e-9 if cached else 1e-12)
    np.testing.assert_allclose(info.edit.update_norm, GOLDEN["delta_l2"], rtol=1e-6)
    assert info.example_passes == (100 if cached else 1500)


@pytest.mark.slow
def test_losses_move_as_in_the_published_run():
    forget, retain = rows("forget"), rows("retain")
    unlearn = mu.iau(MODEL, optax.adam(1e-3))
    before = variables()
    after, info = unlearn(jax.random.key(0), before, forget, retain)
    change = {}
    for name in ("forget", "retain", "test"):
        batch = rows(name)
        for tag, v in (("before", before), ("after", after)):
            losses = MODEL.loss(MODEL.apply(v, batch.inputs), batch.targets)
            np.testing.assert_allclose(losses.mean(), GOLDEN[f"{tag}_loss_{name}"], rtol=1e-12)
        change[name] = GOLDEN[f"after_loss_{name}"] - GOLDEN[f"before_loss_{name}"]
    assert change["forget"] > 10 * change["retain"] > 0
    np.testing.assert_allclose(info.details.predicted_forget_change, change["forget"], rtol=0.1)
