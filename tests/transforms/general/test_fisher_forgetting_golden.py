"""Fisher forgetting against the published programs, in float64.

The numbers are those of `golden/classification_fisher.npz`. They are not to be regenerated from
this code: when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from golden_networks import MODEL, params

import mu_jax as mu
from mu_jax.transforms.general.fisher_forgetting import Rules, add_noise, draw_noise

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
GOLDEN = load("classification_fisher.npz")
RULES = Rules(tuple(name.startswith("fc3") for name in sorted(GOLDEN["param_names"])), "out_in")
FORGOTTEN, LAST = 3, 9
noised = jax.jit(add_noise, static_argnums=0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def sets():
    whole = mu.batches(GOLDEN["x"], GOLDEN["y"], batch_size=50)
    rows = GOLDEN["forget_class_rows"], GOLDEN["retain_class_rows"]
    return [whole.take(jnp.asarray(chosen)) for chosen in rows]


def assert_close(found, prefix, tolerance=1e-10, but=()):
    for name, expected in params(GOLDEN, prefix).items():
        if name not in but:
            assert found[name].dtype == jnp.float64
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=tolerance, err_msg=name)


def after(case, fisher, forget_class):
    given = (params(GOLDEN, prefix) for prefix in ("before", f"fisher/{fisher}", "noise"))
    return noised(RULES, *given, float(GOLDEN[f"{case}/hp/alpha"]), forget_class)


def test_the_true_fisher_information():
    before = mu.Variables(params(GOLDEN, "before"))
    found = mu.collect(mu.statistics.importance(MODEL, "fisher"), before, sets()[1])
    assert_close(found.value, "fisher/true", 1e-14)


@pytest.mark.parametrize(
    ("case", "fisher", "forget_class"),
    [
        ("class", "true", FORGOTTEN),
        ("random", "true", None),
        ("sparsity_class", "batch32", FORGOTTEN),
    ],
)
def test_golden_noise(case, fisher, forget_class):
    assert_close(after(case, fisher, forget_class), f"{case}/after")


@pytest.mark.parametrize("forget_class", [FORGOTTEN, pytest.param(None, marks=pytest.mark.slow)])
def test_the_method_is_the_golden_formula_with_the_noise_of_its_key(forget_class):
    key, before = jax.random.key(5), mu.Variables(params(GOLDEN, "before"))
    unlearn = mu.fisher_forgetting(MODEL, head="fc3", forget_class=forget_class, layout="out_in")
    found, info = unlearn(key, before, *sets())
    fisher, noise = params(GOLDEN, "fisher/true"), draw_noise(key, before.params)
    expected = noised(RULES, before.params, fisher, noise, 1e-6, forget_class)
    for name, leaf in expected.items():
        assert found.params[name].dtype == jnp.float64
        np.testing.assert_allclose(found.params[name], leaf, rtol=0, atol=1e-12)
    assert info.example_passes == 10 * 240
    assert info.details.clipped == np.float32(clipped(fisher))


def clipped(fisher):
    """The share of the weights whose inverse information is at its bound."""
    bounds = {name: 1e2 if name.startswith("fc3") else 1e3 for name in fisher}
    found = [1 / (np.asarray(leaf) + 1e-8) >= bounds[name] for name, leaf in fisher.items()]
    return sum(x.sum() for x in found) / sum(x.size for x in found)


def test_the_other_layout_is_the_same_method():
    def swapped(tree):
        return {name: jnp.swapaxes(leaf, 0, -1) for name, leaf in tree.items()}

    given = [params(GOLDEN, prefix) for prefix in ("before", "fisher/true", "noise")]
    expected = noised(RULES, *given, 1e-6, FORGOTTEN)
    found = noised(RULES._replace(layout="in_out"), *map(swapped, given), 1e-6, FORGOTTEN)
    jax.tree.map(np.testing.assert_array_equal, swapped(found), expected)


def test_what_the_copies_publish_is_something_else():
    """One leaves out the factor of the head's kernel, another draws the last class anew."""
    assert_close(after("random", "true", None), "dampening_random/after", but=("fc3.weight",))
    found = after("random", "true", None)["fc3.weight"]
    kernel = params(GOLDEN, "dampening_random/after")["fc3.weight"]
    start = params(GOLDEN, "before")["fc3.weight"]
    np.testing.assert_allclose(found - start, np.sqrt(10) * (kernel - start), rtol=1e-9)

    assert_close(after("sparsity_random", "batch32", LAST), "sparsity_random/after")
    kept = after("sparsity_random", "batch32", None)["fc3.weight"]
    assert np.abs(kept - params(GOLDEN, "sparsity_random/after")["fc3.weight"])[LAST].max() > 0.1


def test_squares_of_batch_means_are_another_quantity():
    """Labels of a whole batch at once, weighted by its mean prediction: here larger."""
    true, means = (
        sum(leaf.sum() for leaf in params(GOLDEN, f"fisher/{name}").values())
        for name in ("true", "batch32")
    )
    assert means > 4 * true
