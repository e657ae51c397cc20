"""Selective synaptic dampening: its selection, its bound, its reuse of importances."""

import dataclasses
import itertools
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import EXAMPLES, FORGET_IDS, setting
from trees import assert_close, assert_identical, is_one_sentence, stack

import mu_jax as mu
from mu_jax.loops.scan import observe

KEY = jax.random.key(0)
RAW = setting("raw")
MODEL, VARIABLES = RAW.model, RAW.variables
BOUND = EXAMPLES / len(FORGET_IDS)


def of(data, definition="per_example", **options):
    return mu.collect(mu.statistics.importance(MODEL, definition, **options), VARIABLES, data)


def quietly(transform, *sets, variables=VARIABLES):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mu.UnlearningWarning)
        return transform(KEY, variables, *sets)


def unreadable(data):
    """A set of which nothing but ids and weights may be used."""
    return data.replace(inputs=data.inputs * jnp.nan)


# --- what is selected ---


def test_by_hand():
    # The gradient of example i is 2 (w_i - y_i) in coordinate i and 0 elsewhere.
    model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
    data = mu.batches(jnp.eye(4), jnp.array([2.0, 3.0, 1.0, 5.0]), batch_size=3)
    forget, retain = mu.split(data, [1, 3])
    unlearn = mu.ssd(model, 1.5, 0.5)
    after, info = quietly(unlearn, forget, retain, variables=mu.Variables(jnp.ones(4)))
    # F_f = (0, 16, 0, 64) / 2 and F = (4, 16, 0, 64) / 4: both ratios are 2.
    np.testing.assert_allclose(after.params, [1.0, 0.25, 1.0, 0.25])
    assert info.details.largest_ratio == info.details.ratio_bound == 2.0
    assert info.details.selected == 0.5
    np.testing.assert_allclose(info.details.predicted_forget_change, (8 + 32) * 0.75**2 / 2)
    np.testing.assert_allclose(info.details.predicted_full_change, (4 + 16) * 0.75**2 / 2)
    assert info.example_passes == 4


@pytest.mark.parametrize("definition", ["per_example", "fisher", "loss_free"])
def test_no_ratio_exceeds_the_bound(definition):
    found = quietly(mu.ssd(MODEL, 1.5, definition=definition), *RAW.sets())[1].details
    np.testing.assert_allclose(found.ratio_bound, BOUND, rtol=1e-6)
    assert 1 < found.largest_ratio <= BOUND * (1 + 1e-6)


@pytest.mark.parametrize("alpha", [BOUND, 10.0])
def test_an_alpha_out_of_reach_warns_and_changes_nothing(alpha):
    unlearn = mu.ssd(MODEL, alpha)
    with pytest.warns(mu.UnlearningWarning) as caught:
        after, info = unlearn(KEY, VARIABLES, *RAW.sets())
    messages = [str(warning.message) for warning in caught]
    assert any(re.search(r"Nothing can be selected: alpha is .* = 3\.667", m) for m in messages)
    assert any("SSD selected nothing" in m for m in messages)
    assert info.details.selected == 0
    assert_identical(after, VARIABLES)


def test_an_alpha_within_reach_does_not_warn():
    found = quietly(mu.ssd(MODEL, 1.5), *RAW.sets())[1].details
    assert 0 < found.selected < 0.3
    mu.ssd(MODEL, 1.5)(KEY, VARIABLES, *RAW.sets())


def test_selecting_too_much_warns():
    with pytest.warns(mu.UnlearningWarning, match=r"SSD selected 100% of all parameters"):
        mu.ssd(MODEL, 0.0)(KEY, VARIABLES, *RAW.sets())


def test_messages_of_a_grid_are_read_off_info():
    _, info = jax.jit(mu.ssd(MODEL, 10.0))(KEY, VARIABLES, *RAW.sets())
    assert any("SSD selected nothing" in m for m in info.messages())
    assert any("Nothing was changed" in m for m in info.messages())


def test_selected_by_leaf_adds_up():
    details = quietly(mu.ssd(MODEL, 1.3), *RAW.sets())[1].details
    sizes = jax.tree.map(jnp.size, VARIABLES.params)
    counts = jax.tree.map(lambda share, size: share * size, details.selected_by_leaf, sizes)
    total = sum(jax.tree.leaves(counts)) / sum(jax.tree.leaves(sizes))
    np.testing.assert_allclose(details.selected, total, rtol=1e-6)


# --- importances are sums ---


def test_importance_of_the_rest_without_a_pass():
    forget, retain = RAW.sets()
    rest = of(RAW.data()).without(of(forget))
    assert rest.weight == retain.num_examples
    assert_close(rest.value, of(retain).value)


def test_the_order_of_merging_does_not_matter():
    forget, retain = RAW.sets()
    parts = [of(forget), *(of(retain.take(slice(i, i + 5))) for i in range(0, 16, 5))]
    full = of(RAW.data())
    for order in itertools.islice(itertools.permutations(parts), 0, None, 17):
        merged = order[0]
        for part in order[1:]:
            merged = merged.merge(part)
        assert merged.weight == full.weight
        assert_close(merged.value, full.value)


def test_a_stored_full_importance_gives_the_same_without_the_retain_set():
    forget, retain = RAW.sets()
    expected, info = mu.ssd(MODEL, 1.5)(KEY, VARIABLES, forget, retain)
    unlearn = mu.ssd(MODEL, 1.5, full_importance=of(RAW.data()))
    after, stored = unlearn(KEY, VARIABLES, forget, unreadable(retain))
    assert_close(after, expected)
    assert_close(stored.details, info.details)
    assert (stored.example_passes, info.example_passes) == (len(FORGET_IDS), EXAMPLES)


def test_a_stale_full_importance_is_refused():
    unlearn = mu.ssd(MODEL, 1.5, full_importance=of(RAW.data()))
    edited, _ = unlearn(KEY, VARIABLES, *RAW.sets())
    with pytest.raises(ValueError, match="importance: per_example' of others") as error:
        unlearn(KEY, edited, *RAW.sets())
    assert is_one_sentence(str(error.value))
    _, info = jax.jit(unlearn)(KEY, VARIABLES, *RAW.sets())
    assert not info.details.stale
    _, info = jax.jit(unlearn)(KEY, edited, *RAW.sets())
    assert info.details.stale
    assert any("belongs to other variables" in m for m in info.messages())


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ({}, {"definition": "loss_free"}),
        ({"definition": "grouped", "group_size": 2}, {"definition": "grouped", "group_size": 4}),
        ({"definition": "fisher"}, {}),
    ],
)
def test_an_importance_of_another_definition_is_refused(stored, asked):
    unlearn = mu.ssd(MODEL, 1.5, full_importance=of(RAW.data(), **stored), **asked)
    with pytest.raises(ValueError, match="compute both the same way") as error:
        unlearn(KEY, VARIABLES, *RAW.sets())
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"definition": "grouped"}, "expected a group_size"),
        ({"definition": "mean"}, "found 'mean'"),
        ({"group_size": 8}, "no group_size for per_example"),
        ({"alpha": "auto"}, "a number or 'adaptive', found 'auto'"),
    ],
)
def test_wrong_arguments_are_refused_before_any_pass(options, says):
    with pytest.raises(ValueError, match=says):
        mu.ssd(MODEL, **{"alpha": 1.5, **options})


# --- groups ---


def test_groups_of_one_are_examples():
    expected = mu.ssd(MODEL, 1.5)(KEY, VARIABLES, *RAW.sets())[0]
    found = mu.ssd(MODEL, 1.5, definition="grouped", group_size=1)(KEY, VARIABLES, *RAW.sets())[0]
    assert_close(found, expected)


def test_groups_are_read_in_the_order_retain_then_forget():
    forget, retain = RAW.sets()
    options = {"definition": "grouped", "group_size": 4}
    order = np.concatenate([retain.index, forget.index])
    full = of(RAW.data().take(order), **options)
    expected = quietly(mu.ssd(MODEL, 1.5, full_importance=full, **options), forget, retain)
    found = quietly(mu.ssd(MODEL, 1.5, **options), forget, retain)
    assert_close(found[0], expected[0])
    # 6 examples are 2 groups and 22 are 6, each of 4 rows.
    assert found[1].example_passes == 4 * (2 + 6)


@pytest.mark.slow
def test_groups_over_a_mesh_equal_one_device():
    sets = RAW.sets(batch_size=5)
    unlearn = mu.ssd(MODEL, 1.5, definition="grouped", group_size=3)
    expected = quietly(unlearn, *sets)
    found = quietly(unlearn, *(mu.shard(data, mu.data_mesh()) for data in sets))
    assert_close(found, expected)


def test_groups_of_an_iterable_are_refused():
    forget, retain = RAW.sets(batch_size=2)
    options = {"definition": "grouped", "group_size": 2}
    with pytest.raises(ValueError, match="pass it") as error:
        quietly(mu.ssd(MODEL, 1.5, **options), list(forget), list(retain))
    assert is_one_sentence(str(error.value))
    full = of(mu.data.concatenate(retain, forget), **options)
    unlearn = mu.ssd(MODEL, 1.5, full_importance=full, **options)
    found, _ = quietly(unlearn, list(forget), list(retain))
    assert_close(found, quietly(unlearn, forget, retain)[0])


# --- the adaptive threshold ---


def promised(info):
    share = np.log1p(100 * len(FORGET_IDS) / EXAMPLES) / 100
    size = sum(x.size for x in jax.tree.leaves(VARIABLES.params))
    return abs(float(info.details.selected) * size - share * size) <= 1


@pytest.mark.parametrize("definition", ["per_example", "loss_free"])
def test_adaptive_selects_the_promised_share(definition):
    unlearn = mu.ssd(MODEL, "adaptive", definition=definition)
    after, info = unlearn(KEY, VARIABLES, *RAW.sets())
    assert promised(info)
    # The reference is the retain set, as in the program of its authors.
    forget, retain = (of(data, definition).value for data in RAW.sets())
    updates = mu.edits.dampen(VARIABLES.params, forget, retain, alpha=info.details.alpha)
    assert_close(after.params, optax.apply_updates(VARIABLES.params, updates))
    assert_close(jax.jit(unlearn)(KEY, VARIABLES, *RAW.sets()), (after, info))


def test_adaptive_on_a_stored_importance_does_not_read_the_retain_set():
    forget, retain = RAW.sets()
    full = of(RAW.data())
    unlearn = mu.ssd(MODEL, "adaptive", full_importance=full)
    _, info = unlearn(KEY, VARIABLES, forget, unreadable(retain))
    assert promised(info)
    alpha = mu.edits.adaptive_alpha(of(forget).value, full.value, len(FORGET_IDS) / EXAMPLES)
    np.testing.assert_allclose(info.details.alpha, alpha, rtol=1e-5)


# --- grids, masks, types ---


class Loops:
    """Counts the loops over data."""

    def __init__(self):
        self.count = 0

    def begin(self, total, carry, position):
        self.count += 1
        return carry, position

    def advance(self, carry, position):
        pass

    def end(self, carry, position):
        pass


GRID = jnp.array([[alpha, lam] for alpha in (1.1, 1.5, 2.0) for lam in (0.5, 1.0)])
ALPHAS, LAMBDAS = GRID.T


def test_a_grid_is_one_trace_and_one_pass():
    sets, traces = RAW.sets(), []

    def unlearn(alpha, dampening):
        traces.append(alpha)
        return mu.ssd(MODEL, alpha, dampening)(KEY, VARIABLES, *sets)

    loops = Loops()
    with observe(loops):
        found = jax.vmap(unlearn)(ALPHAS, LAMBDAS)
    assert len(traces) == 1
    assert loops.count == 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", mu.UnlearningWarning)
        loop = [unlearn(float(alpha), float(lam)) for alpha, lam in zip(ALPHAS, LAMBDAS)]
    assert_close(found, stack(loop))
    assert len(np.unique(found[1].edit.update_norm)) == len(ALPHAS)


def loops_of(jaxpr):
    """The loops over batches of a program, in the programs that it calls as well."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "jit" and eqn.params["name"] != "searchsorted":
            yield from loops_of(eqn.params["jaxpr"].jaxpr)
        elif eqn.primitive.name in ("while", "scan"):
            yield eqn


def test_a_grid_under_jit_keeps_its_loops_free_of_the_grid():
    def grid(variables, alphas, *sets):
        return jax.vmap(lambda alpha: mu.ssd(MODEL, alpha)(KEY, variables, *sets)[0])(alphas)

    program = jax.make_jaxpr(grid)(VARIABLES, ALPHAS[:4], *RAW.sets())
    loops = list(loops_of(program.jaxpr))
    assert len(loops) == 2
    carried = {var.aval.shape for eqn in loops for var in eqn.outvars}
    # The sums, their weight and the fingerprint: nothing has a leading axis of 4.
    assert carried <= {leaf.shape for leaf in VARIABLES.params.values()} | {(), (2,)}


def test_masked_leaves_take_no_part():
    whole, _ = mu.ssd(MODEL, 2.0)(KEY, VARIABLES, *RAW.sets())
    masked = mu.masked(mu.ssd(MODEL, 2.0), lambda name: name == "hidden")
    part, info = masked(KEY, VARIABLES, *RAW.sets())
    expected = {**VARIABLES.params, "hidden": whole.params["hidden"]}
    assert_identical(part.params, expected)
    assert info.details.selected == info.details.selected_by_leaf["hidden"]


def test_the_adaptive_share_is_that_of_the_trainable_leaves():
    unlearn = mu.masked(mu.ssd(MODEL, "adaptive"), lambda name: name == "hidden")
    _, info = unlearn(KEY, VARIABLES, *RAW.sets())
    share = np.log1p(100 * len(FORGET_IDS) / EXAMPLES) / 100
    assert abs(float(info.details.selected) - share) * 30 <= 1


def test_weights_of_examples_count():
    forget, retain = RAW.sets()
    doubled = mu.data.concatenate(forget, forget).replace(index=jnp.arange(100, 112))
    heavier = forget.replace(weight=forget.weight * 2)
    unlearn = mu.ssd(MODEL, 1.2)
    assert_close(quietly(unlearn, heavier, retain)[0], quietly(unlearn, doubled, retain)[0])


def test_the_bound_is_one_of_weights():
    forget, retain = RAW.sets()
    heavier = forget.replace(weight=forget.weight * 3)
    with pytest.warns(mu.UnlearningWarning) as caught:
        _, info = mu.ssd(MODEL, 2.0)(KEY, VARIABLES, heavier, retain)
    assert any("n / n_forget = 1.889" in str(warning.message) for warning in caught)
    np.testing.assert_allclose(info.details.ratio_bound, 34 / 18, rtol=1e-6)


def test_fields_of_the_transform_are_not_changed_by_a_call():
    unlearn = mu.ssd(MODEL, 1.5)
    before = dataclasses.astuple(unlearn)
    unlearn(KEY, VARIABLES, *RAW.sets())
    assert dataclasses.astuple(unlearn) == before
