"""Losses of a decoder form logits of a part of the row at a time, in every method."""

from __future__ import annotations

import dataclasses
import functools
import math
import re

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax.data.tokens import Preference, TokenTargets
from mu_jax.loops.recording import record
from mu_jax.models.decoder import Decoder
from mu_jax.projected import Projected

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
ROWS, LENGTH, CHUNK = 6, 10, 4
LOSS, SGD = mu.token_losses.TokenCrossEntropy(), optax.sgd(0.1)
ONE = mu.PairingRecipe(epochs=1)
KL = mu.PairingRecipe("kl", epochs=1)
METHODS = {
    "finetune": functools.partial(mu.finetune, optimizer=SGD, epochs=1),
    "gradient_ascent": functools.partial(mu.gradient_ascent, optimizer=SGD, epochs=1),
    "neg_grad_plus": functools.partial(mu.neg_grad_plus, optimizer=SGD, epochs=1),
    "grad_diff": functools.partial(mu.grad_diff, optimizer=SGD, recipe=ONE),
    "npo": functools.partial(mu.npo, optimizer=SGD, recipe=ONE),
    "npo, kl": functools.partial(mu.npo, optimizer=SGD, recipe=KL),
    "simnpo": functools.partial(mu.simnpo, optimizer=SGD, recipe=ONE),
    "dpo": functools.partial(mu.dpo, optimizer=SGD, recipe=ONE),
    "wga": functools.partial(mu.wga, optimizer=SGD, recipe=ONE),
    "satimp": functools.partial(mu.satimp, optimizer=SGD, recipe=ONE),
    "ce_u": functools.partial(mu.ce_u, optimizer=SGD, recipe=ONE),
    "undial": functools.partial(mu.undial, optimizer=SGD, recipe=ONE),
    "pdu": functools.partial(mu.pdu, optimizer=SGD, tolerance=1.0, recipe=ONE),
    "code_eraser": functools.partial(mu.code_eraser, optimizer=SGD, epochs=1),
    "ssd": functools.partial(mu.ssd, alpha=1.3, dampening=0.7),
    "iau": functools.partial(mu.iau, optimizer=SGD),
}
each_method = pytest.mark.parametrize("name", METHODS)


def sets_for(name, length, words):
    """Two rows to forget and four to retain; pairs of rows to forget for DPO."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(words, size=(ROWS, length)).astype(np.int32)
    mask = rng.integers(2, size=tokens.shape).astype(np.float32)
    mask[:, 0], mask[:, -1] = 0, 1
    targets = TokenTargets(tokens, mask, mask * (tokens % 2))
    forget, retain = mu.split(mu.batches(tokens, targets, batch_size=2), [1, 4])
    return (pairs(forget) if name == "dpo" else forget), retain


def pairs(forget):
    """The rows to forget as losers, beside the same tokens in another order."""
    other = forget.targets._replace(tokens=forget.targets.tokens[:, ::-1])
    return forget.replace(
        inputs=Preference(other.tokens, forget.inputs),
        targets=Preference(other, forget.targets),
    )


def in_parts_and_whole(decoder):
    """The model of the decoder, and the same that has logits of whole rows."""
    model = decoder.model(LOSS)
    return model, dataclasses.replace(model, project=None)


@pytest.mark.quick("npo")
@each_method
def test_methods_give_the_same_variables(name, tiny):
    with jax.enable_x64(True):
        decoder = Decoder(tiny("llama3")[0].config, scan_layers=True, chunk=CHUNK)
        start = decoder.init(jax.random.key(1), dtype=jnp.float64)
        sets = sets_for(name, LENGTH, decoder.config.vocab_size - 1)
        found, expected = (
            jax.jit(METHODS[name](model))(jax.random.key(0), start, *sets)[0].params
            for model in in_parts_and_whole(decoder)
        )
        moved = [np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (found, start.params)))]
        assert max(moved) > 1e-9
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), found, expected
        )


WIDE = 1021  # words: no other size of an array


def largest(text):
    """Elements of the largest array of a compiled program that has a side of WIDE."""
    shapes = re.findall(r"[a-z]+\d+\[([\d,]+)\]", text)
    sizes = [tuple(map(int, shape.split(","))) for shape in shapes]
    return max(math.prod(size) for size in sizes if WIDE in size)


@pytest.mark.quick("npo")
@pytest.mark.parametrize("name", sorted(set(METHODS) - {"ssd"}))
def test_logits_of_whole_rows_never_exist(name, tiny):
    """Not in the step of a fit, nor in a mean gradient or the pass for a reference.

    Exact importance is another matter: it squares what the logits of each row get back.
    """
    length = 64
    config = dataclasses.replace(tiny("llama3")[0].config, vocab_size=WIDE, max_positions=length)
    decoder = Decoder(config, scan_layers=True, chunk=8)
    start = jax.eval_shape(decoder.init, jax.random.key(0))
    sets = sets_for(name, length, 256)

    def sizes(model):
        with record() as found:
            jax.eval_shape(METHODS[name](model), jax.random.key(0), start, *sets)
        return [largest(jax.jit(p.function).lower(*p.arguments).compile().as_text()) for p in found]

    in_parts, whole = in_parts_and_whole(decoder)
    one_row = length * WIDE
    assert max(sizes(in_parts)) < one_row
    if name in ("npo", "finetune"):
        assert max(sizes(whole)) >= one_row  # or nothing would be found


@pytest.mark.slow
def test_statistics_of_tokens_are_formed_in_parts(tiny):
    decoder = Decoder(tiny("llama3")[0].config, chunk=CHUNK)
    start = decoder.init(jax.random.key(1))
    data = sets_for("npo", LENGTH, decoder.config.vocab_size - 1)[1]
    found, expected = (
        mu.evaluation.language.statistics_of(model, start, data)
        for model in in_parts_and_whole(decoder)
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6)


@pytest.mark.slow
def test_a_restricted_model_and_another_loss(tiny):
    decoder, params = tiny("llama3")
    model = mu.restrict(decoder.model(LOSS), lambda name: "block_1" in name)
    kept, state = model.split(mu.Variables(params))
    outputs = model.for_loss(kept, state, checkpoints.rows(2, 8))
    assert isinstance(outputs, Projected)
    logits = model.predict(kept, state, checkpoints.rows(2, 8))
    np.testing.assert_array_equal(outputs.logits, logits)
    other = decoder.model(mu.losses.cross_entropy)
    assert other.for_loss(params, (), checkpoints.rows(2, 8)).shape == logits.shape


@pytest.mark.slow
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_parts_on_a_mesh_change_nothing(kind, tiny):
    decoder = Decoder(tiny("llama3")[0].config, scan_layers=True, chunk=CHUNK)
    start = decoder.init(jax.random.key(1))
    mesh = jax.make_mesh((2, 4), ("data", "fsdp"), axis_types=(kind,) * 2)
    rules = mu.models.decoder.sharding_rules()
    divided = mu.Variables(mu.shard_params(start.params, mesh, rules=rules))
    for name in ("npo", "ssd"):
        sets = sets_for(name, LENGTH, decoder.config.vocab_size - 1)
        unlearn = jax.jit(METHODS[name](decoder.model(LOSS)))
        sharded = [mu.shard(each, mesh, axis="data") for each in sets]
        found = unlearn(jax.random.key(0), divided, *sharded)[0]
        expected = unlearn(jax.random.key(0), start, *sets)[0]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)
