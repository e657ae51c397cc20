"""A mask of the entries that a fit may move."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from fitting_cases import KEY, MODEL, OBJECTIVE, as_data, close, data, mean_loss, run, start
from jax.sharding import AxisType
from small_models import setting
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.transforms._shared.transform import method, report_fit

MASK = {"w": np.array([[True, False], [False, True], [True, True]]), "v": np.array([False, True])}
OPTIMIZERS = {
    "adamw": optax.adamw(0.05, weight_decay=0.5),
    "momentum": optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.05, momentum=0.9)),
    "clipped": optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(0.05, weight_decay=0.5)),
}


def bits(x):
    return np.asarray(x).view(np.uint32)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", [bool, np.int32, np.float32])
def test_masked_out_entries_keep_every_bit(optimizer, kind):
    begin = start()
    begin.params["w"] = begin.params["w"].at[0, 1].set(-0.0)  # adding 0 would make it 0.0
    mask = jax.tree.map(lambda m: m.astype(kind), MASK)
    state, _ = mu.fit(
        MODEL, OBJECTIVE, OPTIMIZERS[optimizer], begin, data(), key=KEY, epochs=3, update_mask=mask
    )
    for name, mask in MASK.items():
        same = bits(state.variables.params[name]) == bits(begin.params[name])
        assert same[~mask].all() and not same[mask].any()


@pytest.mark.parametrize("optimizer", ["momentum", "adamw"])
def test_the_others_move_as_without_a_mask_where_entries_do_not_meet(optimizer):
    # One step: the gradient of an entry does not depend on which others move.
    found, _ = run(optimizer=OPTIMIZERS[optimizer], steps=1, update_mask=MASK)
    free, _ = run(optimizer=OPTIMIZERS[optimizer], steps=1)
    for name, mask in MASK.items():
        expected = np.where(mask, free.variables.params[name], start().params[name])
        np.testing.assert_array_equal(found.variables.params[name], expected)


def test_no_norm_counts_masked_out_entries():
    batch = data().at(0)
    grads = jax.grad(mean_loss)(start().params, batch.inputs, batch.targets, batch.weight)
    expected = optax.tree.norm(jax.tree.map(jnp.where, MASK, grads, optax.tree.zeros_like(grads)))
    _, info = run(steps=1, shuffle=False, update_mask=MASK)
    np.testing.assert_allclose(info.gradient_norm[0], expected, rtol=1e-6)
    clipped = optax.chain(optax.clip_by_global_norm(0.01), optax.sgd(1.0))
    state, _ = run(optimizer=clipped, steps=1, shuffle=False, update_mask=MASK)
    moved = optax.tree.norm(optax.tree.sub(state.variables.params, start().params))
    np.testing.assert_allclose(moved, 0.01, rtol=1e-4)


def test_one_number_for_a_whole_leaf():
    by_leaf, _ = run(epochs=2, update_mask={"w": True, "v": 0})
    by_entry, _ = run(epochs=2, update_mask={"w": np.ones((3, 2)), "v": np.zeros(2)})
    for a, b in zip(jax.tree.leaves(by_leaf.variables), jax.tree.leaves(by_entry.variables)):
        np.testing.assert_array_equal(a, b)


def test_masks_are_one_program_and_may_be_mapped_over():
    masks = jax.tree.map(lambda m: jnp.stack([m, ~m, jnp.ones_like(m)]), MASK)
    found = jax.vmap(lambda mask: run(epochs=2, update_mask=mask)[0].variables)(masks)
    for number in range(3):
        mask = jax.tree.map(lambda m, n=number: m[n], masks)
        close(
            jax.tree.map(lambda x, n=number: x[n], found),
            run(epochs=2, update_mask=mask)[0].variables,
        )


def test_a_mask_of_another_shape_is_refused():
    says = r"shape \(3, 2\) or \(\) for 'w', found \(2, 3\)"
    with pytest.raises(ValueError, match=says) as error:
        run(update_mask={"w": np.ones((2, 3), bool), "v": True})
    assert is_one_sentence(str(error.value))


# --- a mask computed from data inside a transform ---


@method
def salient_steps(model, optimizer):
    """A fit on the retain set of the entries whose forget gradient is above the average."""

    def unlearn(key, variables, forget, retain):
        saliency = mu.collect(mu.statistics.mean_gradient(model), variables, forget).value
        mask = jax.tree.map(lambda g: jnp.abs(g) > jnp.abs(g).mean(), saliency)
        result = mu.fit(
            model, mu.supervised(model), optimizer, variables, retain, key=key, update_mask=mask
        )
        return report_fit(model, variables, result, (forget, retain))

    return unlearn


def expected_moves(chosen, variables):
    forget, _ = chosen.sets(batch_size=8)
    found = mu.collect(mu.statistics.mean_gradient(chosen.model), variables, forget).value
    return jax.tree.map(lambda g: np.abs(np.asarray(g)) > np.abs(np.asarray(g)).mean(), found)


def check(chosen, variables, after, masks=None):
    before, after = (chosen.model.params(v) for v in (variables, after))
    masks = masks or expected_moves(chosen, variables)
    for a, b, mask in zip(*map(jax.tree.leaves, (before, after, masks)), strict=True):
        np.testing.assert_array_equal(np.asarray(a) != np.asarray(b), mask)


@pytest.mark.quick("None-eager", "*Explicit-jit")
@pytest.mark.parametrize("call", ["eager", "jit"])
@pytest.mark.parametrize("kind", [None, AxisType.Auto, AxisType.Explicit])
def test_it_survives_jit_and_meshes(call, kind):
    chosen, optimizer = setting("raw"), OPTIMIZERS["adamw"]
    sets, variables = chosen.sets(batch_size=8), chosen.variables
    if kind is not None:
        devices = jax.devices()[:4]
        mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(kind,) * 2, devices=devices)
        sets = [mu.shard(part, mesh) for part in sets]
        variables = mu.shard_params(variables, mesh, smallest=1)
    transform = salient_steps(chosen.model, optimizer)
    after, _ = (jax.jit(transform) if call == "jit" else transform)(KEY, variables, *sets)
    check(chosen, chosen.variables, after)


@pytest.mark.slow
def test_it_survives_vmap():
    chosen = setting("raw")
    members = [chosen.init(jax.random.key(seed)) for seed in (1, 2)]
    ensemble = jax.tree.map(lambda *x: jnp.stack(x), *members)
    transform = salient_steps(chosen.model, OPTIMIZERS["momentum"])
    many, _ = jax.vmap(transform, in_axes=(None, 0, None, None))(
        KEY, ensemble, *chosen.sets(batch_size=8)
    )
    for number, member in enumerate(members):
        check(chosen, member, jax.tree.map(lambda x, n=number: x[n], many))


@pytest.mark.quick("raw")
@pytest.mark.parametrize("name", ["raw", "linen", "nnx"])
def test_it_survives_masked(name):
    chosen = setting(name)

    def is_head(path):
        return "head" in path or "Dense_1" in path

    transform = mu.masked(salient_steps(chosen.model, OPTIMIZERS["adamw"]), is_head)
    after, _ = jax.jit(transform)(KEY, chosen.variables, *chosen.sets(batch_size=8))
    masks = expected_moves(chosen, chosen.variables)
    names = jax.tree_util.tree_map_with_path(
        lambda path, mask: mask & is_head(mu.model.path_name(path)), masks
    )
    check(chosen, chosen.variables, after, names)


def test_a_mask_of_the_whole_model_serves_a_restricted_one():
    part = mu.restrict(MODEL, lambda name: name == "w")
    state, _ = mu.fit(
        part, mu.supervised(part), OPTIMIZERS["adamw"], start(), data(), key=KEY, update_mask=MASK
    )
    same = jax.tree.map(np.array_equal, as_data(state.variables.params), as_data(start().params))
    assert same == {"w": False, "v": True}
    moved = np.asarray(state.variables.params["w"]) != np.asarray(start().params["w"])
    np.testing.assert_array_equal(moved, MASK["w"])
