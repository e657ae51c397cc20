"""Objectives of language models against golden numbers: values, gradients, and three steps.

`golden/lm_objectives.npz` was computed in float64 with the published programs, executed as they
are; `own` entries are masked forms without a program. See `golden/README.md`.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from lm_golden import (
    MODEL,
    adam_run,
    golden,
    hidden,
    hp,
    logits_of,
    params_of,
    predict,
    targets_of,
    tiny_targets,
)
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.data.tokens import Preference, TokenTargets
from mu_jax.loops.gradients import total
from mu_jax.objectives import distillation, preference, segments, steering, weighted
from mu_jax.objectives.token_terms import token_cross_entropy

ROWS = np.ones(3)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def nll(z, y):
    return token_cross_entropy(z["retain"], y["retain"], ROWS, hp("alpha"))


def kl_all(z, y):
    return distillation.reference_kl(
        z["retain"], z["retain_ref"], y["retain"], ROWS, positions="all", scale=hp("alpha")
    )


def forget(term, **numbers):
    """A forget term of the logits and targets of the forget rows."""
    return lambda z, y: term(z["forget"], y["forget"], ROWS, **{n: f() for n, f in numbers.items()})


def number(name):
    return lambda: hp(name)


def whole_rows(y):
    """Every position scored, as where the vocabulary is indexed with the label of padding."""
    return y._replace(mask=jnp.ones_like(y.mask))


def undial(masked):
    def term(z, y):
        chosen = y["forget"] if masked else whole_rows(y["forget"])
        return distillation.undial(
            z["forget"], z["forget_ref"], chosen, ROWS, beta=hp("undial_beta")
        )

    return term


def dpo(z, y):
    pairs = [Preference(x["alternate"], x["forget"]) for x in (z, y)]
    return preference.dpo(*pairs, ROWS, beta=hp("npo_beta"))


def pdu(z, y):
    term = weighted.flatness(z["forget"], y["forget"], ROWS, shifted=False)
    return term._replace(sum=term.sum - hp("pdu_eps") * term.weight)


def scaled(term, name):
    return lambda z, y: term(z, y)._replace(scale=hp(name) * term(z, y).scale)


def retain_kl(**options):
    return lambda z, y: distillation.reference_kl(
        z["retain"], z["retain_ref"], y["retain"], ROWS, **options
    )


ga = forget(lambda z, y, w: token_cross_entropy(z, y, w, -1.0))
npo = forget(preference.npo, beta=number("npo_beta"))
simnpo = forget(preference.simnpo, beta=number("simnpo_beta"), delta=number("simnpo_delta"))
satimp = forget(weighted.satimp, beta1=number("satimp_beta1"), beta2=number("satimp_beta2"))
PROGRAMS = {
    "ga": [ga],
    "grad_diff": [ga, nll],
    "ga_kl": [ga, kl_all],
    "npo": [npo, nll],
    "npo_kl": [npo, kl_all],
    "simnpo": [scaled(simnpo, "simnpo_gamma"), nll],
    "dpo": [dpo, nll],
    "wga": [forget(weighted.wga, beta=number("wga_beta")), nll],
    "satimp": [scaled(satimp, "satimp_gamma"), nll],
    "ceu_skip0": [forget(lambda z, y, w: weighted.ce_u(z, y, w, skip=0))],
    "ceu_skip1": [forget(lambda z, y, w: weighted.ce_u(z, y, w, skip=1))],
    "undial": [undial(masked=False)],
}
OWN = {
    "pdu": [pdu, nll],
    "undial_masked": [undial(masked=True)],
    "retain_kl_masked": [retain_kl()],
    "retain_kl_all": [retain_kl(positions="all")],
    "retain_kl_reverse_masked": [retain_kl(direction="reverse")],
    "pdu_margin_predicting": [forget(weighted.flatness)],
}


def value(terms, z, y):
    return total({str(n): term(z, y) for n, term in enumerate(terms)})


@functools.cache
def given():
    names = ("forget", "retain", "alternate")
    logits = {name: logits_of(name) for name in names}
    z = {name: pair[0] for name, pair in logits.items()}
    fixed = {f"{name}_ref": pair[1] for name, pair in logits.items()}
    secret = golden()["code_eraser/secret_mask"].astype(float)
    return z, fixed, {name: targets_of(name, secret=secret) for name in names}


@jax.jit
def all_objectives(z, fixed, y):
    """Of every objective of logits the value, and its gradient with respect to them."""

    def erased(z):
        rows = z["forget"], fixed["forget_ref"], y["forget"]
        return total(segments.erase(*rows, ROWS, gamma=0.1, strength=0.1))

    def of(terms):
        return lambda z: value(terms, z | fixed, y)

    found = {name: of(terms) for name, terms in (PROGRAMS | OWN).items()} | {"code_eraser": erased}
    return {name: jax.value_and_grad(objective)(z) for name, objective in found.items()}


def all_terms(z, fixed, y):
    """Every objective of logits, a number each."""
    return {name: loss for name, (loss, _) in all_objectives(z, fixed, y).items()}


@pytest.mark.parametrize("name", [*PROGRAMS, *OWN])
def test_values_and_gradients_with_respect_to_logits(name):
    found = golden()
    loss, grads = all_objectives(*given())[name]
    np.testing.assert_allclose(loss, found[f"{name}/loss"], rtol=1e-9)
    for part, gradient in grads.items():
        expected = found.get(f"{name}/grad/{part}", np.zeros_like(gradient))
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.quick("npo", "dpo")
@pytest.mark.parametrize("name", PROGRAMS)
def test_three_steps_of_a_tiny_model(name):
    found = golden()
    names = ("forget", "retain", "alternate")
    y = {part: tiny_targets(part) for part in names}
    tokens = {part: y[part].tokens for part in names}
    ref = params_of("tiny_ref")
    logits = jax.jit(predict)
    fixed = {f"{part}_ref": logits(ref, (), tokens[part]) for part in names}

    def loss(params):
        z = {part: predict(params, (), tokens[part]) for part in names}
        return value(PROGRAMS[name], z | fixed, y)

    losses, after = adam_run(loss, params_of("tiny"))
    np.testing.assert_allclose(losses, found[f"{name}/tiny_losses"], rtol=1e-9)
    for step in (1, 3):
        for leaf, expected in params_of(f"{name}/tiny_after{step}").items():
            np.testing.assert_allclose(after[step - 1][leaf], expected, rtol=1e-9, atol=1e-12)


def test_gradient_ascent_is_that_of_the_program():
    found, targets = golden(), targets_of("forget", reference=())
    data = mu.batches(targets.tokens, targets, batch_size=3, index=jnp.arange(3, 6))
    unlearn = mu.gradient_ascent(MODEL, optax.adam(hp("lr")), epochs=3)
    retain = data.replace(index=jnp.arange(3))
    after, info = unlearn(jax.random.key(0), mu.Variables(params_of("tiny")), data, retain)
    for leaf, expected in params_of("ga/tiny_after3").items():
        np.testing.assert_allclose(after.params[leaf], expected, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(info.details.loss, found["ga/tiny_losses"], rtol=1e-6)


def test_sequence_sums_of_the_program():
    found, sequence_nll = golden(), jax.jit(preference.sequence_nll)
    for name in ("forget", "retain", "alternate"):
        for logits, key in zip(logits_of(name), ("", "_ref")):
            sums = sequence_nll(logits, targets_of(name))
            np.testing.assert_allclose(sums[0], found[f"seq_nll/{name}{key}"], rtol=1e-12)
            np.testing.assert_array_equal(sums[1], found[f"seq_count/{name}"])


def mean(term):
    return total({"": term})


def test_steering_of_hidden_states():
    found, kinds = golden(), ("forget", "retain")
    states = {kind: found[f"rmu/hidden_{kind}"] for kind in kinds}
    aims = {"forget": found["rmu/control"], "retain": found["rmu/hidden_retain_ref"]}

    @functools.partial(jax.jit, static_argnames=("kind", "positions"))
    def term(states, kind, positions="scored", *, aims=aims):
        return steering.steering(
            states[kind], aims[kind], targets_of(kind), ROWS, positions=positions
        )

    @jax.jit
    @jax.value_and_grad
    def both(states):
        return total({kind: term(states, kind) for kind in kinds})

    loss, grads = both(states)
    np.testing.assert_allclose(loss, found["rmu/loss"], rtol=1e-9)
    for kind in kinds:
        np.testing.assert_allclose(grads[kind], found[f"rmu/grad/{kind}"], rtol=1e-9, atol=1e-12)
        for positions, key in (("scored", ""), ("all", "_all_positions")):
            one = mean(term(states, kind, positions))
            np.testing.assert_allclose(one, found[f"rmu/{kind}_term{key}"], rtol=1e-9)
    at_control = np.broadcast_to(aims["forget"], states["forget"].shape)
    assert mean(term(states | {"forget": at_control}, "forget")) == 0


def test_the_program_of_steering_divides_by_all_lengths():
    """The published tiny run: `mean_i sum_i times mean_j 1/count_j`, of our sums."""
    found = golden()
    control = found["rmu/control"]
    y = {kind: targets_of(kind) for kind in ("forget", "retain")}
    others = params_of("tiny")
    aim = jax.jit(hidden)(params_of("tiny_ref"), y["retain"].tokens)

    def released(states, wanted, targets):
        apart = (jnp.square(states - wanted).mean(-1) * targets.mask).sum(1)
        return apart.mean() * (1 / targets.mask.sum(1)).mean()

    def loss(trained):
        params = others | trained
        return released(hidden(params, y["forget"].tokens), control, y["forget"]) + released(
            hidden(params, y["retain"].tokens), aim, y["retain"]
        )

    losses, after = adam_run(loss, {"A": others["A"]})
    np.testing.assert_allclose(losses, found["rmu/released/tiny_losses"], rtol=1e-9)
    np.testing.assert_allclose(after[2]["A"], found["rmu/released/tiny_after3/A"], rtol=1e-9)


def valid(name, **changes):
    """Every token scored but padding, as CodeEraser has it."""
    return targets_of(name, mask=golden()[f"{name}/attention_mask"].astype(float), **changes)


def value_of(terms):
    return lambda z: total(terms(z))


def secret_targets():
    return valid("forget", secret=golden()["code_eraser/secret_mask"].astype(float))


def test_code_eraser():
    found = golden()
    steps = {
        "forget": lambda z: segments.erase(
            z,
            logits_of("forget")[1],
            secret_targets(),
            ROWS,
            gamma=hp("ce_gamma"),
            strength=hp("ce_lambda"),
        ),
        "retain": lambda z: segments.keep(
            z,
            logits_of("retain")[1],
            targets_of("retain"),
            ROWS,
            strength=hp("ce_lambda") * hp("ce_alpha"),
        ),
    }
    for kind, terms in steps.items():
        loss, grads = jax.jit(jax.value_and_grad(value_of(terms)))(logits_of(kind)[0])
        key = f"code_eraser/masked/{kind}_step"
        np.testing.assert_allclose(loss, found[f"{key}/loss"], rtol=1e-9)
        np.testing.assert_allclose(grads, found[f"{key}/grad/{kind}"], rtol=1e-9, atol=1e-12)


def test_code_eraser_of_secrets_alone_is_gradient_ascent():
    (z, ref), y = logits_of("forget"), targets_of("forget")
    y = y._replace(secret=np.ones_like(y.mask))
    erased = jax.jit(lambda z: total(segments.erase(z, ref, y, ROWS, gamma=0.0, strength=0.0)))
    np.testing.assert_allclose(erased(z), golden()["ga/loss"], rtol=1e-9)
    with pytest.raises(ValueError, match="mark the tokens of secrets") as error:
        segments.erase(z, ref, targets_of("forget"), ROWS, gamma=0.1, strength=0.1)
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_npo_at_its_reference_is_ascent(beta):
    z, y = logits_of("forget")[0], targets_of("forget")
    y = y._replace(reference=jax.jit(preference.sequence_nll)(z, y)[0])

    def npo(z):
        return mean(preference.npo(z, y, ROWS, beta=beta))

    loss, grads = jax.jit(jax.value_and_grad(npo))(z)
    np.testing.assert_allclose(loss, 2 / beta * np.log(2), rtol=1e-12)
    ascent = jax.jit(jax.grad(lambda z: -preference.sequence_nll(z, y)[0].mean()))(z)
    np.testing.assert_allclose(grads, ascent, rtol=1e-9, atol=1e-14)


def test_a_constant_on_all_logits_of_a_position_changes_no_objective():
    z, fixed, y = given()
    moved = {name: x + np.arange(8.0)[:, None] for name, x in z.items()}
    expected, found = all_terms(z, fixed, y), all_terms(moved, fixed, y)
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9, err_msg=name)


WHOLE = {"ga_kl", "npo_kl", "undial", "retain_kl_all"}  # published: padding counts


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_objective(side):
    pads = (3, 0) if side == "left" else (0, 3)

    def pad(x, junk=0.0):
        return np.pad(x, ((0, 0), pads, *[(0, 0)] * (x.ndim - 2)), constant_values=junk)

    def pad_targets(y):
        return TokenTargets(pad(y.tokens, -100), pad(y.mask), pad(y.secret), y.reference)

    z, fixed, y = given()
    found = all_terms(
        {name: pad(x, 5.0) for name, x in z.items()},
        {name: pad(x, 5.0) for name, x in fixed.items()},
        {name: pad_targets(x) for name, x in y.items()},
    )
    for name, expected in all_terms(z, fixed, y).items():
        if name not in WHOLE:
            np.testing.assert_allclose(found[name], expected, rtol=1e-12, err_msg=name)


def test_positions_that_predict_nothing_scored_have_no_gradient():
    z, fixed, y = given()
    found = all_objectives(z, fixed, y)
    for name in set(PROGRAMS) - WHOLE:
        for part, gradient in found[name][1].items():
            predicts = np.pad(y[part].mask[:, 1:], ((0, 0), (0, 1)))
            assert not np.asarray(gradient)[predicts == 0].any()


def test_packed_documents_are_sequences():
    z, _, y = given()
    z, y = z["forget"], y["forget"]

    @functools.partial(jax.jit, static_argnames="documents")
    def npo(z, y, rows, **packed):
        return mean(preference.npo(z, y, rows, beta=0.1, **packed))

    expected = npo(z, y, ROWS)
    row = TokenTargets(y.tokens.reshape(1, -1), y.mask.reshape(1, -1), reference=y.reference[None])
    segment = np.repeat(np.arange(1, 4), 8)[None]
    found = npo(z.reshape(1, -1, 11), row, np.ones(1), segment=segment, documents=3)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    more = row._replace(reference=np.pad(row.reference, ((0, 0), (0, 1))))  # one place is empty
    found = npo(z.reshape(1, -1, 11), more, np.ones(1), segment=segment, documents=4)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("reference", [(), np.zeros((3, 2))])
def test_a_reference_of_another_shape_is_refused_in_one_sentence(reference):
    z, y = logits_of("forget")[0], targets_of("forget", reference=reference)
    with pytest.raises(ValueError, match=r"expected a reference of shape \(3,\)") as error:
        jax.eval_shape(functools.partial(preference.npo, beta=0.1), z, y, ROWS)
    assert is_one_sentence(str(error.value))


def test_a_control_vector_lies_in_the_positive_orthant_and_has_its_length():
    found = steering.control_vector(jax.random.key(0), 64, 2.5)
    assert (found >= 0).all()
    np.testing.assert_allclose(jnp.linalg.norm(found), 2.5, rtol=1e-5)
