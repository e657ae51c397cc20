"""Attribution of models with structured inputs against the same model on one array; heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax import attribution

N, KEY, LOSS = 8, jax.random.key(0), mu.losses.cross_entropy
X = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32)
W, Y = jnp.asarray(X[:6, :2]), np.arange(N) % 2
FLAT = mu.from_function(lambda w, state, x: x @ w, LOSS)
PARTS = mu.from_function(lambda p, state, x: x["a"] @ p["a"] + x["b"] @ p["b"], LOSS)
SIDES = {
    "flat": (FLAT, mu.Variables(W), X),
    "dictionary": (
        PARTS,
        mu.Variables({"a": W[:3], "b": W[3:]}),
        {"a": X[:, :3], "b": X[:, 3:]},
    ),
    "tuple": (
        mu.from_function(lambda p, state, x: x[0] @ p["a"] + x[1] @ p["b"], LOSS),
        mu.Variables({"a": W[:3], "b": W[3:]}),
        (X[:, :3], X[:, 3:]),
    ),
}


def grand(model, variables, data):
    return attribution.grand(model, [variables], data)


def trak(model, variables, data):
    store = attribution.trak(model, [variables], data, key=KEY, dim=None, weight_decay=0.1)
    return store.effect(*mu.split(data, [1, 2]))


def gauss_newton(model, variables, data):
    forget, _ = mu.split(data, [1, 2])
    found = attribution.gauss_newton_direction(model, variables, data, forget, weight_decay=0.1)
    return jnp.concatenate([x.reshape(-1, 2) for x in jax.tree.leaves(found)])


def group_direction(model, variables, data):
    """And both effects of the direction: on arrays, and on data."""
    forget, _ = mu.split(data, [1, 2])
    trak = attribution.trak(model, [variables], data, key=KEY, dim=None, weight_decay=0.1)
    (direction,) = attribution.group_direction(trak, forget)
    one = attribution.group_effect(model, variables, direction, data.inputs)
    many = attribution.mean_group_effect(model, [variables], [direction], data)
    np.testing.assert_allclose(one, many, rtol=1e-5)
    return many


def trak_scores(model, variables, data):
    trak = attribution.trak(model, [variables], data, key=KEY, dim=None, weight_decay=0.1)
    return attribution.trak_scores(trak, data, data)


@pytest.mark.quick("trak", "gauss_newton")
@pytest.mark.parametrize("attribute", [grand, trak, gauss_newton, group_direction, trak_scores])
def test_inputs_in_a_tree_give_what_one_array_gives(attribute):
    found = []
    for model, variables, inputs in SIDES.values():
        found.append(attribute(model, variables, mu.batches(inputs, Y, batch_size=4)))
    assert np.abs(found[0]).max() > 1e-3
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-3, atol=1e-5)


HEADS = mu.from_function(
    lambda w, state, x: {"one": x @ w, "two": x @ w},
    lambda outputs, targets: sum(LOSS(outputs[name], targets[name]) for name in outputs),
)


def test_two_equal_heads_double_the_gradient_and_the_curvature():
    two, one = (mu.batches(X, y, batch_size=4) for y in ({"one": Y, "two": Y}, Y))
    start = mu.Variables(W)
    np.testing.assert_allclose(grand(HEADS, start, two), 2 * grand(FLAT, start, one), rtol=1e-5)
    # (2 H + 2 d)^-1 2 g = (H + d)^-1 g
    found, expected = (
        attribution.gauss_newton_direction(
            model, start, data, mu.split(data, [1, 2])[0], weight_decay=decay
        )
        for model, data, decay in ((HEADS, two, 0.2), (FLAT, one, 0.1))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.quick("trak", "group_direction")
@pytest.mark.parametrize("attribute", [trak, group_direction, trak_scores])
def test_margins_of_several_heads_are_refused(attribute):
    data = mu.batches(X, {"one": Y, "two": Y}, batch_size=4)
    with pytest.raises((TypeError, ValueError), match=r"expected one integer label .*, found"):
        attribute(HEADS, mu.Variables(W), data)
