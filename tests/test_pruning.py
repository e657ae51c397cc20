"""Pruning as pure functions: which leaves, which entries, rounds with rewinding, synaptic flow."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence, stack

import mu_jax as mu
from mu_jax import pruning

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, RAW = jax.random.key(0), setting("raw")
PARAMS = RAW.variables.params


def zeros(params):
    return {name: int((leaf == 0).sum()) for name, leaf in params.items()}


def test_convolutions_alone_are_pruned_where_there_are_some():
    chosen = setting("cnn")
    params = chosen.model.params(chosen.variables)
    found = pruning.prunable(params)
    assert found and all(leaf.ndim == 4 for leaf in found.values())
    everything = pruning.prunable(params, lambda name: name.endswith("kernel"))
    assert found.keys() < everything.keys()
    _, info = mu.magnitude_prune(chosen.model, 0.25)(KEY, chosen.variables, *chosen.sets())
    size = sum(leaf.size for leaf in found.values())
    assert info.details.remaining == size - round(0.25 * size)
    assert info.details.by_leaf.keys() == found.keys()


def test_chosen_leaves_are_pruned_together_vectors_too():
    after, info = mu.magnitude_prune(RAW.model, 0.5, chosen=lambda name: name != "hidden")(
        KEY, RAW.variables, *RAW.sets()
    )
    assert zeros(after.params)["hidden"] == 0
    assert sum(zeros(after.params).values()) == 12 == info.details.remaining
    entries = np.abs(np.concatenate([PARAMS[name].ravel() for name in ("bias", "head")]))
    assert zeros(after.params)["bias"] == (np.abs(PARAMS["bias"]) < np.sort(entries)[12]).sum()


def test_half_a_weight_goes_to_the_even_number():
    params = {"w": jnp.arange(1.0, 11.0).reshape(2, 5)}
    counts = [int(pruning.magnitude(params, share)["w"].sum()) for share in (0.25, 0.35)]
    assert counts == [10 - 2, 10 - 4]  # 2.5 and 3.5


def test_a_grid_of_shares_is_the_loop():
    shares = jnp.array([0.25, 0.5])
    found = jax.vmap(lambda share: pruning.magnitude(PARAMS, share)["hidden"])(shares)
    expected = stack([pruning.magnitude(PARAMS, float(share))["hidden"] for share in shares])
    assert_identical(found, expected)


def test_rounds_with_rewinding_and_retraining():
    optimizer = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    seen = []

    def train(key, variables, mask):
        seen.append((variables, mask))
        state, _ = mu.fit(
            RAW.model,
            mu.supervised(RAW.model),
            optimizer,
            variables,
            RAW.data(),
            key=key,
            epochs=2,
            update_mask=mask,
        )
        return state.variables

    after, mask = pruning.iterative(train, RAW.model, RAW.variables, key=KEY, rounds=3)
    remaining = [int(sum(m[name].sum() for name in ("head", "hidden"))) for _, m in seen]
    assert remaining == [48, 38, 30, 24]  # a fifth of what is left, rounded
    for (variables, m), (_, before) in zip(seen[1:], seen):
        start = jax.tree.map(lambda m, x: jnp.where(m, x, 0), m, PARAMS)
        assert_identical(variables.params, start)  # back to the start
        assert all((before[name] | ~m[name]).all() for name in ("head", "hidden"))  # none returns
    for name in ("head", "hidden"):
        assert_identical(after.params[name] != 0, mask[name])
    unlearn = mu.masked(mu.finetune(RAW.model, optimizer), mask)
    for later in (unlearn, mu.keep_zeros(mu.finetune(RAW.model, optimizer))):
        found, _ = later(KEY, after, *RAW.sets())
        assert zeros(found.params) == zeros(after.params)
    assert_close(found, unlearn(KEY, after, *RAW.sets())[0])


def flow_by_hand(params, share, rounds):
    """The rounds of synaptic flow of `x @ hidden @ head` in NumPy."""
    hidden, head = (np.abs(np.asarray(params[name], np.float64)) for name in ("hidden", "head"))
    masks = [np.ones(hidden.shape, bool), np.ones(head.shape, bool)]
    for _ in range(rounds):
        one, two = hidden * masks[0], head * masks[1]
        scores = [one * two.sum(1)[None], two * one.sum(0)[:, None]]
        flat = np.concatenate([np.where(m, s, -1).ravel() for s, m in zip(scores, masks)])
        remaining = sum(int(m.sum()) for m in masks)
        keep = np.argsort(-flat, kind="stable")[: remaining - round(share * remaining)]
        chosen = np.isin(np.arange(flat.size), keep)
        masks = [
            chosen[: hidden.size].reshape(hidden.shape),
            chosen[hidden.size :].reshape(head.shape),
        ]
    return {"hidden": masks[0], "head": masks[1]}


def test_synaptic_flow_of_a_linear_network():
    model = mu.from_function(
        lambda p, state, x: x @ p["hidden"] @ p["head"] - state, mu.losses.squared_error
    )
    variables = mu.Variables({name: PARAMS[name] for name in ("head", "hidden")}, 0.25)
    found = pruning.synflow(model, variables, jnp.zeros((9, 5)), 0.8, rounds=6)
    assert_identical(found, flow_by_hand(PARAMS, 1 - 0.2 ** (1 / 6), 6))


def test_small_rounds_of_synaptic_flow_reach_the_sparsity():
    # A round of 100 would take 0.24 of 48 weights, which rounds to none.
    after, info = mu.synflow_prune(RAW.model, 0.4)(KEY, RAW.variables, *RAW.sets())
    assert info.details.remaining == 29 == round(0.6 * 48)
    assert zeros(after.params)["bias"] == 0


def test_no_data_are_read_but_their_shape():
    sets = RAW.sets()
    others = [part.replace(inputs=part.inputs * jnp.nan) for part in sets]
    prune = mu.watched(mu.synflow_prune(RAW.model, 0.4, rounds=3), False)
    assert_identical(prune(KEY, RAW.variables, *others)[0], prune(KEY, RAW.variables, *sets)[0])


@pytest.mark.parametrize("kind", ["batch statistics", "masked"])
def test_statistics_and_frozen_leaves_are_read_as_absolute_values(kind):
    chosen = setting("linen")
    model = chosen.model
    if kind == "masked":
        model = mu.restrict(model, lambda name: "Dense_1" in name)
    variables, inputs = chosen.variables, chosen.inputs
    negative = jax.tree.map(lambda x: x if x.ndim > 1 else -x, variables)
    for each in (variables, negative):
        found = pruning.synflow(model, each, inputs, 0.5, rounds=4)
        positive = jax.tree.map(jnp.abs, each)
        assert_identical(found, pruning.synflow(model, positive, inputs, 0.5, rounds=4))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pruning.magnitude(PARAMS, 1.5), "share from 0 to 1, found 1.5"),
        (lambda: pruning.magnitude({"b": jnp.ones(3)}, 0.5), "two or more axes to prune"),
        (lambda: pruning.magnitude(PARAMS, 0.5, chosen=lambda n: n == "x"), "none chosen of bias"),
        (lambda: pruning.magnitude(PARAMS, 0.5, mask={"head": True}), "for 'hidden', found none"),
        (
            lambda: pruning.magnitude(PARAMS, 0.5, mask={**PARAMS, "head": np.ones((3, 6), bool)}),
            r"\(6, 3\) or \(\) for 'head', found \(3, 6\)",
        ),
        (lambda: mu.synflow_prune(RAW.model, -0.1), "sparsity from 0 to 1, found -0.1"),
        (lambda: mu.synflow_prune(RAW.model, rounds=0), "rounds"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert is_one_sentence(str(error.value))
