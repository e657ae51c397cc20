"""Dictionaries, several inputs by position, several heads, masks in targets; or a refusal."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, SGD = jax.random.key(0), optax.sgd(0.1)
RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 12, 3)).astype(np.float32)
LABELS = np.arange(12) % 3


class Pair(nn.Module):
    """Two inputs by position, a mode behind them, and an argument with a default between."""

    @nn.compact
    def __call__(self, left, right, scale=1.0, train=True):
        x = nn.Dropout(0.5, deterministic=not train)(jnp.concatenate([left, right], -1))
        return scale * nn.Dense(3)(nn.BatchNorm(use_running_average=not train)(x))


class NnxPair(nnx.Module):
    def __init__(self):
        self.dense = nnx.Linear(6, 3, rngs=nnx.Rngs(0))

    def __call__(self, left, right):
        return self.dense(jnp.concatenate([left, right], -1))


class Joined(nn.Module):
    @nn.compact
    def __call__(self, inputs, train=True):
        return Pair(name="pair")(*inputs, train=train)


@pytest.mark.slow
def test_a_linen_module_of_several_inputs_is_given_them_by_position():
    variables = Pair().init(KEY, A, B, train=False)
    pair, joined = (mu.from_linen(module, mu.losses.cross_entropy) for module in (Pair(), Joined()))
    data = mu.batches((A, B), LABELS, batch_size=4)
    nested = {name: {"pair": part} for name, part in variables.items()}
    found, _ = mu.finetune(pair, SGD, training_mode=True)(KEY, variables, *mu.split(data, [1]))
    whole, _ = mu.finetune(joined, SGD, training_mode=True)(KEY, nested, *mu.split(data, [1]))
    same = jax.tree.map(lambda a, b: a.shape == b.shape, found["params"], whole["params"]["pair"])
    assert jax.tree.all(same)
    np.testing.assert_allclose(pair.apply(found, (A, B)), Pair().apply(found, A, B, train=False))
    for unlearn in (mu.ssd(pair, 1.5), mu.iau(pair, SGD), mu.scrub(pair, SGD)):
        unlearn(KEY, variables, *mu.split(data, [1]))
    stream = mu.stream([((a, b), y) for a, b, y in zip(A, B, LABELS)], batch_size=4)
    one, two = (mu.iau(pair, SGD)(KEY, variables, *mu.split(d, [1]))[0] for d in (data, stream))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one, two)


def test_an_nnx_module_of_several_inputs_is_given_them_by_position():
    module = NnxPair()
    model, data = (
        mu.from_nnx(module, mu.losses.cross_entropy),
        mu.batches((A, B), LABELS, batch_size=4),
    )
    np.testing.assert_allclose(model.apply(nnx.state(module), (A, B)), module(A, B), rtol=1e-6)
    mu.ssd(model, 1.5)(KEY, nnx.state(module), *mu.split(data, [1]))


@pytest.mark.parametrize("inputs", [A, (A, B, A), {"left": A, "right": B}])
def test_other_inputs_of_such_a_module_are_refused(inputs):
    model = mu.from_linen(Pair(), mu.losses.cross_entropy)
    variables = Pair().init(KEY, A, B, train=False)
    with pytest.raises(TypeError, match=r"inputs that are a tuple \(left, right\), as the module"):
        model.apply(variables, inputs)


def heads(params, state, inputs):
    return {"class": inputs["a"] @ params["c"], "score": inputs["b"] @ params["s"]}


def heads_loss(outputs, targets):
    known = targets["known"]
    errors = jnp.where(known, jnp.square(outputs["score"] - targets["score"]), 0).sum(-1)
    return mu.losses.cross_entropy(outputs["class"], targets["class"]) + errors


HEADS = mu.from_function(heads, heads_loss)
START = mu.Variables({"c": np.ones((3, 3), np.float32), "s": np.ones((3, 2), np.float32)})
KNOWN = RNG.random((12, 2)) < 0.5
TARGETS = {"class": LABELS, "score": A[:, :2], "known": KNOWN}
DATA = mu.batches({"a": A, "b": B}, TARGETS, batch_size=4)


@pytest.mark.quick("ssd", "ascent")
@pytest.mark.parametrize(
    "unlearn",
    [
        mu.ssd(HEADS, 1.5),
        mu.ssd(HEADS, 1.5, definition="loss_free"),
        mu.iau(HEADS, SGD),
        mu.finetune(HEADS, SGD),
        mu.gradient_ascent(HEADS, SGD),
        mu.neg_grad_plus(HEADS, SGD, forget_weight=0.1),
        mu.gaussian_amnesiac(HEADS, SGD),
    ],
    ids=["ssd", "loss_free", "iau", "finetune", "ascent", "neg_grad_plus", "amnesiac"],
)
def test_several_heads_and_masks_are_unlearned(unlearn):
    forget, retain = mu.split(DATA, [1, 5])
    found, _ = unlearn(KEY, START, forget, retain)
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(found))
    listed, _ = unlearn(KEY, START, list(forget), list(retain.replace(batch_size=10)))
    assert jax.tree.structure(listed) == jax.tree.structure(found)


def test_masks_inside_the_targets_are_not_drawn_as_labels():
    """A row of which nothing is known moves nothing, whatever is drawn for it."""
    targets = {"score": A[:, :2], "known": KNOWN.copy()}
    targets["known"][:2] = False

    def loss(outputs, targets):
        return jnp.where(targets["known"], jnp.square(outputs - targets["score"]), 0).sum(-1)

    model = mu.from_function(lambda w, state, x: x @ w, loss)
    data = mu.batches(B, targets, batch_size=12)
    start = mu.Variables(np.zeros((3, 2), np.float32))
    found, _ = mu.gaussian_amnesiac(model, SGD)(KEY, start, *mu.split(data, [0, 1]))
    others = mu.split(data, [0, 1])[1]
    rows = others.inputs.T @ jnp.where(others.targets["known"], -2 * others.targets["score"], 0)
    np.testing.assert_allclose(found.params, -0.1 * rows / 12, rtol=1e-4, atol=1e-6)


TOKENS = RNG.integers(0, 5, (12, 4))
LANGUAGE = mu.from_function(
    lambda w, state, x: jax.nn.one_hot(x, 5) @ w,
    lambda outputs, targets: mu.losses.cross_entropy(outputs, targets).mean(-1),
)
REFUSED = {
    "token ids": (
        lambda data: mu.gaussian_amnesiac(LANGUAGE, SGD),
        mu.Variables(np.eye(5, dtype=np.float32)),
        mu.batches(TOKENS, TOKENS, batch_size=4),
        "labels that are quantities, .* int32.B,4. with 5 classes at every position",
    ),
    "token ids of a stream": (
        lambda data: mu.gaussian_amnesiac(LANGUAGE, SGD),
        mu.Variables(np.eye(5, dtype=np.float32)),
        mu.stream(list(zip(TOKENS, TOKENS)), batch_size=4),
        "labels that are quantities",
    ),
    "exact Fisher": (
        lambda data: mu.ssd(HEADS, 1.5, definition="fisher"),
        START,
        DATA,
        "expected logits of shape .* for the exact Fisher, found float32",
    ),
    "oracle matching": (
        lambda data: mu.oracle_matching(HEADS, SGD, oracles=[START, START]),
        START,
        DATA,
        "outputs that are one array for oracle matching, found .* in a dict",
    ),
    "scrub": (lambda data: mu.scrub(HEADS, SGD), START, DATA, "expected outputs that are logits"),
    "salun": (
        lambda data: mu.salun(HEADS, SGD, fraction=0.5),
        START,
        DATA,
        "expected integer labels to draw others",
    ),
    "trak": (
        lambda data: mu.attribution.trak(HEADS, [START], data, key=KEY, dim=8, weight_decay=0.1),
        START,
        DATA,
        "expected one integer label per example as targets, .* in a dict",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_use_structure_says_so(case):
    make, variables, data, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        make(data)(KEY, variables, *mu.split(data, [1, 5]))
    text = str(caught.value)
    assert text.startswith("expected") and ". " not in text
