"""Subspaces against the published programs, in float64.

The numbers are those of `golden/classification_subspaces.npz`. They are not to be regenerated from
this code: when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import load

import mu_jax as mu
from mu_jax.adapters import LowRank
from mu_jax.subspaces import SSF, FLoRA, LoRA, SaRA, ScaleShift, Tucker

GOLDEN = load("classification_subspaces.npz")
LAYERS = [str(name) for name in GOLDEN["layers"]]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def predict(params, state, x):
    for name in LAYERS:
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = x if name == LAYERS[-1] else jax.nn.relu(x)
    return x


MODEL = mu.from_function(predict, mu.losses.cross_entropy)


def tree(prefix):
    """The parameters of a prefix, kernels [in, out]."""
    return {
        name: {
            "kernel": jnp.asarray(GOLDEN[f"{prefix}{name}.weight"]).T,
            "bias": jnp.asarray(GOLDEN[f"{prefix}{name}.bias"]),
        }
        for name in LAYERS
    }


def loss(params, rows):
    batch = mu.batches(GOLDEN["x"][rows], GOLDEN["y"][rows], batch_size=len(rows)).at(0)
    return MODEL.losses(mu.Variables(params), batch).mean()


def ssf(part):
    scale, shift = (
        {f"{name}/{leaf}": jnp.asarray(GOLDEN[f"ssf/{part}/{kind}/{name}"]) for name in LAYERS}
        for kind, leaf in (("scale", "kernel"), ("shift", "bias"))
    )
    return ScaleShift(scale, shift)


def lora(part):
    def pair(name):
        a, b = (jnp.asarray(GOLDEN[f"lora/{part}/{kind}/{name}"]) for kind in "AB")
        return LowRank(a, b.T)

    return {f"{name}/kernel": pair(name) for name in LAYERS}


def flora(part):
    def tucker(name):
        core, *factors = (
            jnp.asarray(GOLDEN[f"flora/{part}/{kind}/{name}"])
            for kind in ("core", "factor0", "factor1")
        )
        return Tucker(core, tuple(factors))

    return {f"{name}/kernel": tucker(name) for name in LAYERS}


CASES = {"ssf": (SSF(), ssf), "lora": (LoRA(2, 4.0), lora), "flora": (FLoRA((2, 3), 4.0), flora)}


@pytest.mark.quick("flora")
@pytest.mark.parametrize("kind", CASES)
def test_loss_gradient_and_parameters(kind):
    subspace, read = CASES[kind]
    params, z = tree("before/"), read("z")
    shapes = jax.tree.map(jnp.shape, subspace.init(jax.random.key(0), params))
    assert shapes == jax.tree.map(jnp.shape, z)

    def value(z):
        return loss(subspace.expand(z, params), GOLDEN["rows"])

    found, grads = jax.value_and_grad(value)(z)
    np.testing.assert_allclose(found, GOLDEN[f"{kind}/loss"], rtol=0, atol=1e-10)
    for a, b in zip(*map(jax.tree.leaves, (grads, read("gradient"))), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    expanded = subspace.expand(z, params)
    for name in LAYERS:
        for leaf, own in (("weight", "kernel"), ("bias", "bias")):
            key = f"{kind}/expanded/{name}.{leaf}"
            wanted = GOLDEN[key].T if key in GOLDEN else params[name][own]
            np.testing.assert_allclose(expanded[name][own], wanted, rtol=0, atol=1e-10)


def test_sara_takes_the_small_entries():
    subspace, params = SaRA(float(GOLDEN["sara/hp/threshold"])), tree("before/")
    z = subspace.init(jax.random.key(0), params)
    grads = jax.grad(lambda z: loss(subspace.expand(z, params), GOLDEN["rows"]))(z)
    for name in LAYERS:
        for leaf, own in (("weight", "kernel"), ("bias", "bias")):
            mask = GOLDEN[f"sara/mask/{name}.{leaf}"].astype(bool)
            for part, found in (("z", z), ("gradient", grads)):
                found = np.asarray(found[name][own].T)
                wanted = GOLDEN[f"sara/{part}/{name}.{leaf}"]
                np.testing.assert_allclose(found[mask], wanted, rtol=0, atol=1e-10)
                assert not found[~mask].any()


def test_three_steps_of_sara_as_intended_and_not_as_released():
    rate, decay = (float(GOLDEN[f"sara/hp/{name}"]) for name in ("lr", "weight_decay"))
    rows = GOLDEN["sara/intended/rows"]
    steps = [
        mu.batches(GOLDEN["x"][r], GOLDEN["y"][r], batch_size=len(r), index=r).at(0) for r in rows
    ]
    others = np.setdiff1d(np.arange(300), rows)[:4]
    forget = [
        mu.batches(GOLDEN["x"][others], GOLDEN["y"][others], batch_size=4, index=others).at(0)
    ]
    unlearn = mu.low_rank(
        mu.finetune(MODEL, optax.adamw(rate, weight_decay=decay)),
        SaRA(float(GOLDEN["sara/hp/threshold"])),
    )
    start = mu.Variables(tree("before/"))
    after, info = mu.watched(unlearn, False)(jax.random.key(0), start, forget, steps)
    np.testing.assert_allclose(info.details.loss, GOLDEN["sara/intended/loss"], rtol=1e-6)
    wanted, released = tree("sara/intended/after/"), tree("sara/program/after/")
    for name in LAYERS:
        for own in ("kernel", "bias"):
            found = after.params[name][own]
            np.testing.assert_allclose(found, wanted[name][own], rtol=0, atol=1e-10)
    apart = np.abs(after.params["fc1"]["kernel"] - released["fc1"]["kernel"]).max()
    assert apart > 1e-3
