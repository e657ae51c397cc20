"""Pruning against the published program, in float64.

The numbers are those of `golden/classification_pruning.npz`. They are not to be regenerated from
this code: when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from golden_networks import params
from golden_runs import Recorded, batch, epochs_of, optimizer_of

import mu_jax as mu
from mu_jax import pruning

GOLDEN = load("classification_pruning.npz")
CONVOLUTIONS = [str(name) for name in GOLDEN["conv_names"]]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def predict(weights, state, x):
    for name, stride in zip(CONVOLUTIONS, (1, 2, 2), strict=True):
        x = jax.lax.conv_general_dilated(x, weights[f"{name}.weight"], (stride,) * 2, ((1, 1),) * 2)
        x = jax.nn.relu(x + weights.get(f"{name}.bias", jnp.zeros(x.shape[1]))[:, None, None])
    return x.reshape(len(x), -1) @ weights["fc.weight"].T + weights["fc.bias"]


MODEL = mu.from_function(predict, mu.losses.cross_entropy)


def assert_mask(found, case):
    for name in CONVOLUTIONS:
        mask = GOLDEN[f"{case}/mask/{name}"].astype(bool)
        np.testing.assert_array_equal(found[f"{name}.weight"], mask, err_msg=name)
    assert count(found) == GOLDEN[f"{case}/remaining"]
    assert all(bool(np.all(leaf)) for name, leaf in found.items() if "conv" not in name)


def count(mask):
    return sum(int(mask[f"{name}.weight"].sum()) for name in CONVOLUTIONS)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.95])
def test_convolutions_are_pruned_by_magnitude_together(share):
    assert_mask(pruning.magnitude(params(GOLDEN, "before"), share), f"magnitude/{share}")


def test_three_rounds_of_a_fifth_of_what_remains():
    mask, counts = None, []
    for _ in range(3):
        mask = pruning.magnitude(params(GOLDEN, "before"), 0.2, mask=mask)
        counts.append(count(mask))
    assert counts == GOLDEN["iterative/remaining"].tolist()
    assert_mask(mask, "iterative/3x0.2")


def test_zeros_go_first_and_count():
    weights = params(GOLDEN, "before")
    flat = weights["conv2.weight"].ravel().at[::3].set(0.0)
    weights["conv2.weight"] = flat.reshape(weights["conv2.weight"].shape)
    found = pruning.magnitude(weights, 0.1)
    assert count(found) == GOLDEN["magnitude_with_zeros/0.1/remaining"]
    for name in CONVOLUTIONS:
        leaf = np.asarray(weights[f"{name}.weight"])
        assert not leaf[~np.asarray(found[f"{name}.weight"])].any()


@pytest.mark.quick("0.95")
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_synaptic_flow(share):
    start = mu.Variables(params(GOLDEN, "initial"))
    assert_mask(pruning.synflow(MODEL, start, GOLDEN["x"], share), f"synflow/{share}")


def test_one_round_of_synaptic_flow_takes_those_of_least_score():
    start = mu.Variables(params(GOLDEN, "initial"))
    found = pruning.synflow(MODEL, start, GOLDEN["x"], 0.5, rounds=1)
    scores = {name: np.abs(GOLDEN[f"synflow/score/{name}"]) for name in CONVOLUTIONS}
    edge = np.sort(np.concatenate([x.ravel() for x in scores.values()]))[::-1][count(found) - 1]
    for name, score in scores.items():
        np.testing.assert_array_equal(found[f"{name}.weight"], score >= edge)


def test_pruned_then_tuned():
    case = "prune_then_tune"
    epochs, rate = int(GOLDEN[f"{case}/hp/epochs"]), float(GOLDEN[f"{case}/hp/lr"])
    recorded = epochs_of(GOLDEN, case, np.ones(len(GOLDEN[f"{case}/rows"]), bool), epochs)
    unlearn = mu.chain(
        mu.magnitude_prune(MODEL, float(GOLDEN[f"{case}/hp/rate"])),
        mu.finetune(MODEL, optimizer_of(GOLDEN, case, rate), epochs=epochs),
    )
    forget = [batch(GOLDEN, GOLDEN["forget_random_rows"])]
    start = mu.Variables(params(GOLDEN, "before"))
    # The pruning reads no data: the first walk is the first epoch of the fit.
    after, (pruned, tuned) = mu.watched(unlearn, False)(
        jax.random.key(0), start, forget, Recorded(recorded)
    )
    for name, expected in params(GOLDEN, f"{case}/after_effective").items():
        np.testing.assert_allclose(after.params[name], expected, rtol=0, atol=1e-10)
        np.testing.assert_array_equal(after.params[name] == 0, np.asarray(expected) == 0)
    assert pruned.details.remaining == GOLDEN["magnitude/0.5/remaining"]
    np.testing.assert_allclose(tuned.details.loss, GOLDEN[f"{case}/loss"], rtol=1e-6)
