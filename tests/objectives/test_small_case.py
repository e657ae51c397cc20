"""Every objective on two rows of logits that can be written down, in float64 and in float32.

`L = 2 sin(0.7 b + 1.3 t + 0.9 v)` are the logits of the model on rows to forget and
`R = 2 cos(0.5 b + 1.1 t + 0.4 v)` those of the reference model; `L2`, `R2` are those of retained
rows. The numbers were computed in float64 from the formulas.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.data.tokens import Preference, TokenTargets
from mu_jax.evaluation.language import ches
from mu_jax.loops.gradients import total
from mu_jax.objectives import distillation, preference, segments, steering, weighted
from mu_jax.objectives.token_terms import token_cross_entropy

ROWS = np.ones(2)
B, T, V = np.meshgrid(*map(np.arange, (2, 6, 7)), indexing="ij")
MASKS = {
    "forget": [[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]],
    "retain": [[0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]],
    "secret": [[0, 0, 0, 1, 1, 0], [0, 0, 1, 1, 0, 0]],
    "valid": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]],
}
LOGITS = {
    "forget": (2 * np.sin(0.7 * B + 1.3 * T + 0.9 * V), 2 * np.cos(0.5 * B + 1.1 * T + 0.4 * V)),
    "retain": (2 * np.sin(0.3 * B + 0.8 * T + 1.7 * V), 2 * np.cos(0.9 * B + 0.6 * T + 1.2 * V)),
}
TOKENS = {"forget": (3 * B + 2 * T + 1)[..., 0] % 7, "retain": (B + 3 * T + 2)[..., 0] % 7}


@pytest.fixture(params=["float64", "float32"])
def tolerance(request):
    with jax.enable_x64(request.param == "float64"):
        yield {"float64": 1e-6, "float32": 1e-5}[request.param]


def targets(name, mask=None, **changes):
    found = TokenTargets(jnp.asarray(TOKENS[name]), jnp.asarray(MASKS[mask or name], float))
    reference = preference.sequence_nll(logits(name)[1], found)[0]
    return found._replace(reference=reference, **changes)


def logits(name):
    return tuple(map(jnp.asarray, LOGITS[name]))


def value(term):
    return total({"": term})


def forget(function, **numbers):
    return lambda: value(function(logits("forget")[0], targets("forget"), ROWS, **numbers))


def nll(name, scale=1.0):
    return lambda: value(token_cross_entropy(logits(name)[0], targets(name), ROWS, scale))


def kl(**options):
    return lambda: value(
        distillation.reference_kl(*logits("retain"), targets("retain"), ROWS, **options)
    )


def dpo(beta=0.1):
    z = Preference(logits("retain")[0], logits("forget")[0])
    y = Preference(targets("retain"), targets("forget"))
    return value(preference.dpo(z, y, ROWS, beta=beta))


def undial():
    return value(distillation.undial(*logits("forget"), targets("forget"), ROWS, beta=10.0))


def steer(name, wanted, **options):
    return lambda: value(
        steering.steering(logits(name)[0], wanted(), targets(name), ROWS, **options)
    )


def control():
    return 2 * np.arange(1.0, 8) / np.linalg.norm(np.arange(1.0, 8))


def code_eraser():
    y = targets("forget", "valid", secret=jnp.asarray(MASKS["secret"], float))
    terms = segments.erase(*logits("forget"), y, ROWS, gamma=0.1, strength=0.1)
    return {name: float(term.sum / term.weight) for name, term in terms.items()}, total(terms)


NUMBERS = {
    "ga": (nll("forget", -1.0), -2.724925),
    "retained": (nll("retain"), 2.843292),
    "grad_diff": (lambda: nll("forget", -1.0)() + nll("retain")(), 0.118367),
    "npo": (forget(preference.npo, beta=0.1), 13.359547),
    "npo of beta 1": (forget(preference.npo, beta=1.0), 0.943762),
    "simnpo": (forget(preference.simnpo, beta=1.0, delta=0.5), 0.205250),
    "dpo": (dpo, 14.416643),
    "dpo without 2 / beta": (lambda: dpo() * 0.1 / 2, 0.720832),
    "wga": (forget(weighted.wga, beta=1.0), -0.192565),
    "ce_u": (forget(weighted.ce_u, skip=0), 1.298937),
    "ce_u without the first": (forget(weighted.ce_u, skip=1), 1.296484),
    "undial": (undial, 2.014270),
    "pdu": (forget(weighted.flatness, shifted=False), 3.680708),
    "kl of all positions": (kl(positions="all"), 0.581366),
    "kl": (kl(), 0.553552),
    "kl reversed": (kl(direction="reverse"), 0.655981),
    "rmu": (steer("forget", control), 2.448707),
    "rmu of all positions": (steer("forget", control, positions="all"), 2.708515),
    "rmu retained": (steer("retain", lambda: logits("retain")[1]), 1.737354),
    "secrets": (lambda: code_eraser()[0]["secret"], 2.809376),
    "context": (lambda: code_eraser()[0]["context"], 2.494959),
    "divergence of secrets": (lambda: code_eraser()[0]["divergence"], 0.354236),
    "forget step of code eraser": (lambda: code_eraser()[1], -2.595304),
    "retain step of code eraser": (
        lambda: total(segments.keep(*logits("retain"), targets("retain"), ROWS, strength=0.1)),
        0.055355,
    ),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers(name, tolerance):
    compute, expected = NUMBERS[name]
    np.testing.assert_allclose(compute(), expected, atol=tolerance)


def test_small_numbers(tolerance):
    """Of which two or three digits are known."""
    simnpo = [forget(preference.simnpo, beta=beta)() for beta in (2.5, 4.5)]
    np.testing.assert_allclose(simnpo, [8.80e-4, 2.1e-6], rtol=2e-2)
    satimp = forget(weighted.satimp, beta1=5.0, beta2=1.0)()
    np.testing.assert_allclose(satimp, -9.2e-5, rtol=1e-2 + tolerance)


def test_sums_of_sequences(tolerance):
    current, reference = logits("forget")
    sums, counts = preference.sequence_nll(current, targets("forget"))
    np.testing.assert_allclose(sums, [10.910869, 10.888528], atol=tolerance)
    np.testing.assert_array_equal(counts, [4, 4])
    sums = preference.sequence_nll(reference, targets("forget"))[0]
    np.testing.assert_allclose(sums, [10.519832, 10.259044], atol=tolerance)


def test_the_weight_of_each_sequence_in_the_gradient_of_npo(tolerance):
    """Moving all losses of a row by a number moves its sum: the derivative in that number."""
    current, y = logits("forget")[0], targets("forget")

    def moved(steps):
        reference = y.reference - steps  # a higher sum is a lower reference
        return value(preference.npo(current, y._replace(reference=reference), ROWS, beta=0.1))

    found = jax.grad(moved)(jnp.zeros(2))
    np.testing.assert_allclose(found, [-0.490225, -0.484268], atol=tolerance)


def test_the_score_of_likelihood_displacement(tolerance):
    """Of the hidden states L and L2 at the positions 2, 3 and 4."""
    states = [logits(name)[0] for name in ("forget", "retain")]
    mask = jnp.zeros((2, 6)).at[:, 3:6].set(1)  # the tokens that these positions predict
    plain = ches(states[0], mask, states[1], mask)
    np.testing.assert_allclose(plain, [-29.066912, -25.487920], atol=10 * tolerance)
    by_length = ches(states[0], mask, states[1], mask, normalized=True)
    np.testing.assert_allclose(by_length, [-3.229657, -2.831991], atol=tolerance)


# --- where the model is its reference ---


@pytest.mark.quick("float64-1.0")
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_dpo_at_its_reference(beta, tolerance):
    z = {name: logits(name)[0] for name in ("retain", "forget")}
    y = {
        name: targets(name)._replace(reference=preference.sequence_nll(z[name], targets(name))[0])
        for name in z
    }

    def loss(winner, loser):
        pair = Preference(y["retain"], y["forget"])
        return value(preference.dpo(Preference(winner, loser), pair, ROWS, beta=beta))

    found, grads = jax.value_and_grad(loss, argnums=(0, 1))(z["retain"], z["forget"])
    np.testing.assert_allclose(found, 2 / beta * np.log(2), rtol=tolerance)
    for name, gradient, sign in (("retain", grads[0], 1.0), ("forget", grads[1], -1.0)):
        expected = jax.grad(
            lambda x, name=name, sign=sign: sign * preference.sequence_nll(x, y[name])[0].mean()
        )(z[name])
        np.testing.assert_allclose(gradient, expected, atol=tolerance)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("positions", ["scored", "all"])
def test_a_divergence_from_itself_is_0_with_gradient_0(direction, positions, tolerance):
    z, y = logits("retain")[1], targets("retain")
    options = {"direction": direction, "positions": positions}

    def loss(x):
        return value(distillation.reference_kl(x, z, y, ROWS, **options))

    found, grads = jax.value_and_grad(loss)(z)
    np.testing.assert_allclose(found, 0, atol=tolerance)
    np.testing.assert_allclose(grads, 0, atol=tolerance)


# --- CodeEraser ---


def test_logits_that_predict_nothing_scored_change_nothing_in_code_eraser():
    """Neither values nor gradients, in both steps; another reference there neither."""
    y = targets("forget", secret=jnp.asarray(MASKS["secret"], float))
    predicts = jnp.pad(y.mask[:, 1:], ((0, 0), (0, 1)))[..., None] > 0
    assert predicts.any() and not predicts.all()
    z, known = logits("forget")
    noise = jnp.where(predicts, 0, jax.random.normal(jax.random.key(0), z.shape))
    steps = {
        "erase": lambda x, r: total(segments.erase(x, r, y, ROWS, gamma=0.1, strength=0.1)),
        "keep": lambda x, r: total(segments.keep(x, r, y, ROWS, strength=0.1)),
    }
    for step in steps.values():
        expected, grads = jax.value_and_grad(step)(z, known)
        found = jax.value_and_grad(step)(z + noise, known - noise)
        np.testing.assert_array_equal(found[0], expected)
        np.testing.assert_array_equal(found[1], grads)
        assert not np.where(predicts, 0, grads).any()
