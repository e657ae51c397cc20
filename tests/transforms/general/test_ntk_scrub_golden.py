"""NTK scrubbing against the published program, in float64.

The numbers are those of `golden/classification_ntk.npz`. They are not to be regenerated from this
code: when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from golden_networks import MODEL, params

import mu_jax as mu
from mu_jax.transforms.general.ntk_scrub import trapezium

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
GOLDEN = load("classification_ntk.npz")
EXACT = mu.solvers.conjugate_gradients(iterations=1000, tolerance=1e-13)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def tree(flat):
    """A flat vector as the parameters it joins."""
    shapes = [GOLDEN[f"before/{name}"].shape for name in GOLDEN["param_names"]]
    parts = np.split(flat, np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1])
    named = zip(GOLDEN["param_names"], parts, shapes)
    return {str(name): jnp.asarray(part).reshape(shape) for name, part, shape in named}


def scrubbed(initial):
    whole = mu.batches(GOLDEN["x"], GOLDEN["y"], batch_size=16)
    rows = GOLDEN["ntk_forget_rows"], GOLDEN["ntk_retain_rows"]
    sets = [whole.take(jnp.asarray(chosen)) for chosen in rows]
    before = mu.Variables(params(GOLDEN, "before"))
    unlearn = mu.ntk_scrub(MODEL, mu.Variables(initial), weight_decay=0.1, solver=EXACT)
    return unlearn(jax.random.key(0), before, *sets)


def test_golden_run():
    found, info = scrubbed(params(GOLDEN, "initial"))
    for name, expected in params(GOLDEN, "after").items():
        assert found.params[name].dtype == jnp.float64
        np.testing.assert_allclose(found.params[name], expected, rtol=0, atol=1e-9, err_msg=name)
    scale, delta = GOLDEN["scale/predicted_scale"], GOLDEN["w_retain"] - GOLDEN["w_complete"]
    np.testing.assert_allclose(info.details.scale, scale, rtol=1e-9)
    np.testing.assert_allclose(info.details.cosine, GOLDEN["scale/inner"], rtol=1e-8)
    np.testing.assert_allclose(info.details.direction_norm, np.linalg.norm(delta), rtol=1e-9)
    assert info.details.retain.converged and info.details.direction.converged
    products = info.details.retain.products, info.details.direction.products
    assert info.example_passes == 2 * 10 + 30 + 30 * products[0] + 40 * products[1]


@pytest.mark.parametrize("name", ["scale", "scale_from_trained"])
def test_the_golden_scales_of_both_branches(name):
    """One formula gives what the program computes by an angle above or below a right one."""
    before, kept = params(GOLDEN, "before"), tree(GOLDEN["w_retain"])
    delta = tree(GOLDEN["w_retain"] - GOLDEN["w_complete"])
    start = before if name == "scale_from_trained" else params(GOLDEN, "initial")
    found = trapezium(delta, before, start, kept)
    np.testing.assert_allclose(found["scale"], GOLDEN[f"{name}/predicted_scale"], rtol=1e-12)
    np.testing.assert_allclose(found["cosine"], GOLDEN[f"{name}/inner"], rtol=1e-11)
    length = found["scale"] * found["direction_norm"]
    np.testing.assert_allclose(length, GOLDEN[f"{name}/predicted_norm"], rtol=1e-12)
    assert (found["cosine"] < 0) == (name == "scale_from_trained")


@pytest.mark.slow
def test_the_trained_model_as_the_initial_one_is_reported():
    _, info = scrubbed(params(GOLDEN, "before"))
    expected = GOLDEN["scale_from_trained/predicted_scale"]
    np.testing.assert_allclose(info.details.scale, expected, rtol=1e-9)
    assert any("those of the trained model" in message for message in info.messages())
