"""Transforms of transforms."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence, stack

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(0)
RAW = setting("raw")
MODEL, VARIABLES, SETS = RAW.model, RAW.variables, RAW.sets()
PRUNE, SSD = mu.magnitude_prune(MODEL, 0.5), mu.ssd(MODEL, 1.3)
TUNE = mu.finetune(MODEL, optax.sgd(0.1))


def is_head(name):
    return name == "head"


def change(transform, variables=VARIABLES):
    after, info = transform(KEY, variables, *SETS)
    return optax.tree.sub(MODEL.params(after), MODEL.params(variables)), info


# --- chain ---


def test_a_chain_is_one_after_another():
    members = (SSD, TUNE, PRUNE)
    after, infos = mu.chain(*members)(KEY, VARIABLES, *SETS)
    expected = VARIABLES
    for number, (member, info) in enumerate(zip(members, infos, strict=True)):
        key = jax.random.fold_in(KEY, number)
        expected, own = member(key, expected, *SETS)
        assert_identical(info, own)
    assert_identical(after, expected)


def test_a_chain_starts_from_what_the_last_member_left():
    # Side by side, as within one step, SSD would take its importances from the unpruned weights.
    chained, _ = mu.chain(PRUNE, SSD)(KEY, VARIABLES, *SETS)
    pruned, _ = PRUNE(KEY, VARIABLES, *SETS)
    importance = mu.statistics.importance(MODEL)
    forget, retain = (mu.collect(importance, pruned, data) for data in SETS)
    full = retain.merge(forget)
    updates = mu.edits.dampen(pruned.params, forget.value, full.value, alpha=1.3)
    assert_close(chained.params, optax.apply_updates(pruned.params, updates))
    beside = mu.edits.apply(VARIABLES.params, optax.tree.add(change(PRUNE)[0], change(SSD)[0]))
    assert not np.allclose(chained.params["hidden"], beside["hidden"])


def test_the_members_of_a_chain_draw_different_orders():
    first, second = mu.chain(TUNE, TUNE)(KEY, VARIABLES, *SETS)[1]
    again = TUNE(jax.random.fold_in(KEY, 0), VARIABLES, *SETS)[1]
    assert_identical(first.details, again.details)
    repeated = TUNE(jax.random.fold_in(KEY, 0), TUNE(KEY, VARIABLES, *SETS)[0], *SETS)[1]
    assert not np.array_equal(second.details.loss, repeated.details.loss)


def test_statistics_travel_through_a_chain():
    chosen = setting("linen")
    train = mu.finetune(chosen.model, optax.sgd(0.1), training_mode=True)
    unlearn = mu.chain(train, mu.iau(chosen.model, optax.sgd(0.1)))
    after, _ = unlearn(KEY, chosen.variables, *chosen.sets())
    trained, _ = train(jax.random.fold_in(KEY, 0), chosen.variables, *chosen.sets())
    assert_identical(after["batch_stats"], trained["batch_stats"])
    expected, _ = mu.iau(chosen.model, optax.sgd(0.1))(KEY, trained, *chosen.sets())
    assert_identical(after, expected)


def test_a_chain_under_jit_and_over_an_ensemble():
    unlearn = mu.chain(PRUNE, mu.masked(SSD, is_head), TUNE)
    members = [RAW.init(key) for key in jax.random.split(KEY, 3)]
    keys = jax.random.split(KEY, 3)
    many = jax.jit(jax.vmap(unlearn, in_axes=(0, 0, None, None)))(keys, stack(members), *SETS)
    loop = [unlearn(key, variables, *SETS) for key, variables in zip(keys, members)]
    assert_close(many, stack(loop))


def test_chains_nest_and_an_empty_one_is_refused():
    nested = mu.chain(mu.chain(PRUNE, SSD), TUNE)
    after, (inner, last) = nested(KEY, VARIABLES, *SETS)
    assert len(inner) == 2
    assert last.steps == 4
    assert jax.tree.structure(after) == jax.tree.structure(VARIABLES)
    with pytest.raises(ValueError, match="at least one transform") as error:
        mu.chain()
    assert is_one_sentence(str(error.value))


# --- masked ---


def test_a_masked_chain_masks_every_member():
    retrain = mu.retrain(MODEL, optax.adamw(0.1, weight_decay=0.5), init=RAW.init)
    unlearn = mu.masked(mu.chain(PRUNE, mu.chain(SSD, TUNE), retrain), is_head)
    after, _ = unlearn(KEY, VARIABLES, *SETS)
    assert not np.any(after.params["head"] == VARIABLES.params["head"])
    for name in ("bias", "hidden"):
        np.testing.assert_array_equal(after.params[name], VARIABLES.params[name])


def test_masks_narrow_one_another():
    unlearn = mu.masked(mu.masked(TUNE, lambda name: name != "bias"), lambda name: name != "hidden")
    moved, _ = change(unlearn)
    assert {name for name, leaf in moved.items() if leaf.any()} == {"head"}


@pytest.mark.parametrize(
    ("mask", "error", "says"),
    [
        ({"bias": jnp.ones(5, bool), "head": True, "hidden": True}, ValueError, "found .5,."),
        ({"bias": jnp.ones(6, bool), "hidden": True}, ValueError, "lacks 'head'"),
        (
            {"bias": jnp.ones(6, bool), "head": True, "hidden": True, "w": True},
            ValueError,
            "another tree, with 'w'",
        ),
        (lambda name: False, ValueError, "at least one trainable leaf"),
    ],
)
def test_masks_that_cannot_be_are_refused(mask, error, says):
    with pytest.raises(error, match=says) as caught:
        mu.masked(TUNE, mask)(KEY, VARIABLES, *SETS)
    assert is_one_sentence(str(caught.value))


# --- scaled and through ---


@pytest.mark.parametrize("transform", [PRUNE, SSD, TUNE])
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_scaled_multiplies_the_change(transform, scale):
    expected, info = change(transform)
    found, scaled = change(mu.scaled(transform, scale))
    assert_close(found, optax.tree.scale(scale, expected))
    np.testing.assert_allclose(scaled.edit.update_norm, scale * info.edit.update_norm, rtol=1e-5)
    assert_identical(scaled.details, info.details)
    assert (scaled.steps, scaled.example_passes) == (info.steps, info.example_passes)


def test_the_scale_may_be_traced():
    scales = jnp.array([0.5, 1.0])
    found = jax.vmap(lambda scale: change(mu.scaled(SSD, scale))[0])(scales)
    assert_close(found, stack([change(mu.scaled(SSD, scale))[0] for scale in (0.5, 1.0)]))


def test_through_the_identity_is_the_transform():
    after, info = mu.through(TUNE, optax.identity())(KEY, VARIABLES, *SETS)
    expected, own = TUNE(KEY, VARIABLES, *SETS)
    assert_close(after, expected)
    assert_close(info, own)


def test_through_a_clip_bounds_the_whole_change():
    expected, info = change(TUNE)
    found, clipped = change(mu.through(TUNE, optax.clip_by_global_norm(0.01)))
    assert info.edit.update_norm > 0.1
    np.testing.assert_allclose(clipped.edit.update_norm, 0.01, rtol=1e-4)
    assert_close(found, optax.tree.scale(0.01 / info.edit.update_norm, expected))


def test_through_a_mask_of_elements():
    mask = jax.tree.map(lambda x: x > 0, VARIABLES.params)
    found, _ = change(mu.through(TUNE, mu.edits.where(mask)))
    expected, _ = change(TUNE)
    assert_close(found, jax.tree.map(lambda u, m: jnp.where(m, u, 0), expected, mask))


def test_through_keeps_the_statistics_that_the_transform_moved():
    chosen = setting("linen")
    train = mu.finetune(chosen.model, optax.sgd(0.1), training_mode=True)
    given = (KEY, chosen.variables, *chosen.sets())
    found, _ = mu.scaled(train, 0.5)(*given)
    expected, _ = train(*given)
    assert_identical(found["batch_stats"], expected["batch_stats"])


def test_through_works_on_a_masked_transform_and_masks_afterwards():
    before = mu.masked(mu.scaled(TUNE, 0.5), is_head)
    after = mu.scaled(mu.masked(TUNE, is_head), 0.5)
    assert_identical(change(before), change(after))
    assert not change(before)[0]["hidden"].any()


def test_a_chain_does_not_go_through():
    with pytest.raises(TypeError, match="found a chain") as error:
        mu.through(mu.chain(PRUNE, SSD), optax.identity())
    assert is_one_sentence(str(error.value))


def test_a_change_scaled_to_nothing_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with pytest.warns(mu.UnlearningWarning, match="Nothing was changed"):
            mu.scaled(TUNE, 0.0)(KEY, VARIABLES, *SETS)
