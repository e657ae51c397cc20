"""LAF against the published program, in float64, with its sigmoid decoder and its noise.

The numbers are those of `golden/classification_laf.npz`. They are not to be regenerated from this
code: when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import load
from golden_networks import params

import mu_jax as mu
from mu_jax.losses import weighted_sum
from mu_jax.objectives.laf import Embedding, aligned, autoencoder_losses, oddness, turned

GOLDEN = load("classification_laf.npz")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def observe(p, state, x):
    hidden = jax.nn.relu(x @ p["fc1.weight"].T + p["fc1.bias"])
    embedded = hidden @ p["fc2.weight"].T + p["fc2.bias"]
    logits = jax.nn.relu(embedded) @ p["fc3.weight"].T + p["fc3.bias"]
    return logits, {"embedding": embedded}


def predict(p, state, x):
    return observe(p, state, x)[0]


MODEL = mu.from_function(predict, mu.losses.cross_entropy, observe=observe)


def embedded(p, rows):
    return Embedding(MODEL, "embedding")(mu.Variables(p), jnp.asarray(GOLDEN["x"])[rows])


def coder(prefix):
    """The autoencoder stored under `prefix`, in this library's layout."""

    def layer(name):
        weight, bias = (GOLDEN[f"{prefix}/{name}.{part}"] for part in ("weight", "bias"))
        return {"kernel": jnp.asarray(weight).T, "bias": jnp.asarray(bias)}

    return {
        "encoder": [layer("encoder.linear1"), layer("encoder.linear2")],
        "mean": layer("encoder.linear3_1"),
        "log_variance": layer("encoder.linear3_2"),
        "decoder": [layer(f"decoder.linear{k}") for k in (1, 2, 3)],
    }


def autoencoder_loss(vae, p, rows, noise):
    return autoencoder_losses(vae, embedded(p, rows), noise, 0.025, "sigmoid").mean()


def test_losses_of_an_autoencoder():
    p, vae, noise = params(GOLDEN, "before"), coder("vae_all"), GOLDEN["vae_check/noise"]

    @jax.jit
    def found(vae, noise):
        vectors = embedded(p, np.arange(40))
        losses = autoencoder_losses(vae, vectors, noise, 0.025, "sigmoid")
        return losses.mean(), oddness(vae, vectors, noise, "sigmoid").sum()

    expected = [GOLDEN[f"vae_check/{name}"] for name in ("loss", "reconstruction_loss_phi_sum")]
    np.testing.assert_allclose(found(vae, noise), expected, rtol=1e-12)


@pytest.mark.slow
def test_training_of_an_autoencoder():
    p, vae, optimizer = params(GOLDEN, "before"), coder("vae_all/start"), optax.adam(1e-3)
    state, found = optimizer.init(vae), []
    step = jax.jit(jax.value_and_grad(autoencoder_loss))
    recorded = (GOLDEN[f"vae_training_first_pass/{name}"] for name in ("rows", "noise"))
    for rows, noise in zip(*recorded, strict=True):
        real = rows >= 0
        loss, gradient = step(vae, p, rows[real], noise[real])
        updates, state = optimizer.update(gradient, state, vae)
        vae = optax.apply_updates(vae, updates)
        found.append(loss)
    np.testing.assert_allclose(found, GOLDEN["vae_training_first_pass/loss"], rtol=1e-12)


OPTIMIZERS = optax.adam(5e-5), optax.adam(1e-4)


def extracting(p, vaes, rows, noises):
    def total(vae, rows, noise):
        found = oddness(vae, embedded(p, rows), noise, "sigmoid")
        return weighted_sum(found, (rows >= 0).astype(float))

    known, odd = map(total, vaes, rows, noises)
    return known - odd


def aligning(p, vaes, rows, noises):
    original = params(GOLDEN, "before")
    pairs = [(turned(embedded(p, r), embedded(original, r)), (r >= 0).astype(float)) for r in rows]
    return aligned(*pairs, float(GOLDEN["unlearn/hp/temperature"]))


@jax.jit
def pair_of_steps(p, states, vaes, rows, noises):
    """An extractor step and an alignment step on rows that are filled up with -1."""
    found, after = [], []
    for loss, optimizer, state in zip((extracting, aligning), OPTIMIZERS, states, strict=True):
        value, gradient = jax.value_and_grad(loss)(p, vaes, rows, noises)
        updates, state = optimizer.update(gradient, state, p)
        p = optax.apply_updates(p, updates)
        found.append((value, gradient))
        after.append(state)
    return p, after, found


def test_steps_of_the_model():
    p, vaes = params(GOLDEN, "before"), (coder("vae_all"), coder("vae_forget"))
    states, losses, names = [x.init(p) for x in OPTIMIZERS], [], ("extractor", "alignment")
    for number in range(len(GOLDEN["unlearn/loss"])):
        rows = [GOLDEN[f"unlearn/{name}_rows"][number] for name in ("retain", "forget")]
        noises = [GOLDEN[f"unlearn/noise_{name}"][number] for name in ("retain", "forget")]
        noises = [np.nan_to_num(noise) for noise in noises]  # of rows that are none
        p, states, found = pair_of_steps(p, states, vaes, rows, noises)
        losses.append([value for value, _ in found])
        if number == 0:
            for name, (_, gradient) in zip(names, found, strict=True):
                for leaf, expected in params(GOLDEN, f"first_gradient/{name}").items():
                    np.testing.assert_allclose(gradient[leaf], expected, rtol=0, atol=1e-10)
    expected = np.stack([GOLDEN[f"unlearn/{name}_loss"] for name in names], 1)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    for name, expected in params(GOLDEN, "after").items():
        np.testing.assert_allclose(p[name], expected, rtol=0, atol=1e-10)
