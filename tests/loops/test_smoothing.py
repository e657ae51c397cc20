"""Seams that take the gradient of some terms at other parameters: SAM and random smoothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import counted_compilations
from fitting_cases import KEY, MODEL, assert_same, close, data, start
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.data.batches import Batch
from mu_jax.loops import StepTerms, Term, micro_batches, plain, random_smoothing, sam
from mu_jax.losses import weighted_sum

BATCH = Batch((), (), jnp.ones(4), jnp.arange(4))
A, B = np.array([[3.0, 0.5], [0.5, 1.0]]), np.array([1.0, -2.0])
P = np.array([0.3, 0.7])


def quadratics(params, batch, names=None):
    """`forget = p A p / 2 - b p` plus a quartic, and `retain = |p - 1|^2`, counted by rows."""
    rows, p = batch.weight.sum(), params["p"]
    forget = p @ jnp.asarray(A, p.dtype) @ p / 2 - jnp.asarray(B, p.dtype) @ p + (p**4).sum()
    found = {
        "forget": Term(rows * forget, rows, -1.0),
        "retain": Term(rows * ((p - 1) ** 2).sum(), rows, 2.0),
    }
    return {name: found[name] for name in names or found}, ()


def forgetting(p):
    return -(A @ p - B + 4 * p**3)


def retaining(p):
    return 4 * (p - 1)


def step(function=quadratics):
    return StepTerms(function, KEY)


def draws(samples, dtype):
    """The noise as documented: of the key of the step, number 2, and the number of the sample."""
    like = {"p": jnp.zeros(2, dtype)}
    keys = [jax.random.fold_in(jax.random.fold_in(KEY, 2), n) for n in range(samples)]
    return np.stack([optax.tree.random_like(key, like)["p"] for key in keys])


SEAMS = {"sam": lambda size, **o: sam(size, **o), "smoothing": random_smoothing}


@pytest.mark.parametrize("inner", [plain, micro_batches(2)])
@pytest.mark.parametrize("term", ["forget", ("forget",), None])
def test_random_smoothing_by_hand(term, inner):
    with jax.enable_x64(True):
        seam = random_smoothing(0.3, 5, term, gradients=inner)
        grads, terms, _ = seam(step(), {"p": jnp.asarray(P)}, BATCH)
        near = P + 0.3 * draws(5, jnp.float64)
        smooth = np.mean([forgetting(p) for p in near], axis=0)
        kept = np.mean([retaining(p) for p in near], axis=0) if term is None else retaining(P)
        np.testing.assert_allclose(grads["p"], smooth + kept, rtol=1e-12)
        value = np.mean([p @ A @ p / 2 - B @ p + (p**4).sum() for p in near])
        found = terms["forget"]
        np.testing.assert_allclose(found.scale * found.sum / found.weight, -value, rtol=1e-12)


@pytest.mark.parametrize("name", SEAMS)
@pytest.mark.parametrize("term", ["forget", "retain", None])
def test_no_step_is_plain(name, term):
    params = {"p": jnp.asarray(P, jnp.float32)}
    found = SEAMS[name](0.0, term=term)(step(), params, BATCH)[0]
    close(found, plain(step(), params, BATCH)[0], rtol=1e-6)


@pytest.mark.parametrize("term", ["forget", None])
def test_a_gradient_of_0_gives_no_nan(term):
    def flat(params, batch, names=None):
        del batch
        zero = Term((0 * params["p"]).sum(), jnp.ones(()))
        found = {"forget": zero, "retain": zero._replace(sum=(params["p"] ** 2).sum())}
        return {name: found[name] for name in names or found}, ()

    if term is None:
        params, expected = {"p": jnp.zeros(2)}, [0.0, 0.0]  # of both terms
    else:
        params, expected = {"p": jnp.asarray(P, jnp.float32)}, 2 * P
    found = sam(0.1, term)(step(flat), params, BATCH)[0]
    np.testing.assert_allclose(found["p"], expected, rtol=1e-6)


@pytest.mark.parametrize("name", SEAMS)
def test_a_step_below_the_spacing_of_bfloat16_counts(name):
    """0.02 + 1e-5 is 0.02 in bfloat16, and the gradient there is not that at 0.02."""
    steep = 1e5

    def terms(params, batch, names=None):
        del batch, names
        angle = steep * params["p"].astype(jnp.float32)
        return {"forget": Term(jnp.cos(angle).sum(), jnp.ones(()))}, ()

    params = {"p": jnp.full(3, 0.02, jnp.bfloat16)}
    assert (params["p"] + jnp.asarray(1e-5, jnp.bfloat16) == params["p"]).all()
    found = SEAMS[name](1e-5)(step(terms), params, BATCH)[0]["p"]
    at = params["p"].astype(jnp.float32)
    there = -steep * jnp.sin(steep * at)
    assert found.dtype == jnp.bfloat16
    assert not np.allclose(np.asarray(found, np.float32), there, rtol=0.1)
    if name == "sam":
        moved = at + 1e-5 * jnp.sign(there) / jnp.sqrt(3.0)
        expected = -steep * jnp.sin(steep * moved)
        np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=2e-2, atol=200)


@pytest.mark.parametrize("name", SEAMS)
def test_a_name_that_is_no_term_is_refused_in_one_sentence(name):
    seam = SEAMS[name](0.1, term="forgotten")
    with pytest.raises(ValueError, match="a term among forget, retain, found 'forgotten'") as error:
        seam(step(), {"p": jnp.asarray(P, jnp.float32)}, BATCH)
    assert is_one_sentence(str(error.value))


def test_wrong_numbers_are_refused_in_one_sentence():
    for make in (lambda: sam(-0.1), lambda: random_smoothing(-1.0), lambda: random_smoothing(1, 0)):
        with pytest.raises(ValueError, match="expected") as error:
            make()
        assert is_one_sentence(str(error.value))
    with pytest.raises(TypeError, match="expected the terms of a step") as error:
        random_smoothing(0.1)(quadratics, {"p": jnp.asarray(P, jnp.float32)}, BATCH)
    assert is_one_sentence(str(error.value))


# --- in a fit ---


def halves(variables, batch, frozen, key):
    """Every other row up, the other ones down."""
    del frozen, key
    losses = jnp.square(MODEL.apply(variables, batch.inputs) - batch.targets)
    parts = {"forget": batch.index % 2 == 0, "retain": batch.index % 2 == 1}
    scale = {"forget": -0.3, "retain": 1.0}
    terms = {}
    for name, rows in parts.items():
        weight = batch.weight * rows
        terms[name] = Term(weighted_sum(losses, weight), weight.sum(), scale[name])
    return terms, variables


def fitted(seam, optimizer=None, **arguments):
    return mu.fit(
        MODEL,
        halves,
        optimizer or optax.sgd(0.1),
        start(),
        data(),
        **{"key": KEY, "epochs": 2, "gradients": seam, **arguments},
    )


def test_every_step_draws_anew_and_a_fit_in_two_parts_draws_the_same():
    seam = random_smoothing(0.2, 2, "forget")
    whole, info = fitted(seam)
    first, _ = fitted(seam, steps=3)
    assert_same(fitted(seam, state=first)[0], whole)
    assert_same(fitted(seam)[0], whole)
    other = fitted(seam, key=jax.random.key(5), shuffle=False)[1]
    assert not np.allclose(other.loss, fitted(seam, shuffle=False)[1].loss)
    still = fitted(seam, optax.sgd(0.0), shuffle=False)[1]  # the same batches at the same place
    assert (np.abs(still.loss[:3] - still.loss[3:]) > 1e-3).all() and info.loss.shape == (6,)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEAMS)
def test_a_grid_of_sizes_is_one_program(name):
    sizes = jnp.array([0.0, 0.05, 0.4])

    def unlearned(size):
        return fitted(SEAMS[name](size, term="forget"))[0].variables.params

    grid = jax.vmap(unlearned)(sizes)
    for number, size in enumerate(sizes):
        close(jax.tree.map(lambda x, n=number: x[n], grid), unlearned(size), rtol=1e-4)
    assert not np.allclose(grid["w"][0], grid["w"][2], atol=1e-3)
    unlearned(0.06)
    with counted_compilations() as compilations:
        unlearned(0.07)
        unlearned(0.08)
    assert not compilations
