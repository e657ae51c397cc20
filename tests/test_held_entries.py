"""Entries that a transform may not move: masks of entries, and zeros of a pruned model."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import counted_compilations
from fitting_cases import run
from jax.sharding import AxisType
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence, stack

import mu_jax as mu
from mu_jax.entries import saliency_mask
from mu_jax.loops.update_masks import holding

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, RAW = jax.random.key(0), setting("raw")
MODEL, START = RAW.model, RAW.variables
OPTIMIZERS = {
    "momentum": optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.05, momentum=0.9)),
    "adam": optax.chain(optax.add_decayed_weights(0.5), optax.adam(0.05)),
    "adamw": optax.adamw(0.05, weight_decay=0.5),
}
MESHES = {"one device": None, "automatic": AxisType.Auto, "explicit": AxisType.Explicit}


def salient_entries(fraction, chosen=RAW):
    forget, _ = chosen.sets()
    found = mu.collect(mu.statistics.mean_gradient(chosen.model), chosen.variables, forget)
    return saliency_mask(found.value, fraction)


def placed(mesh, variables=START, sets=None):
    sets = RAW.sets(batch_size=8) if sets is None else sets
    if MESHES[mesh] is None:
        return variables, sets
    kinds, devices = (MESHES[mesh],) * 2, jax.devices()[:4]
    grid = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=kinds, devices=devices)
    divided = mu.shard_params(variables, grid, smallest=1)
    return divided, [mu.shard(part, grid) for part in sets]


def moved(after, before=START):
    """Which entries have other bits; 0.0 and -0.0 differ."""
    bits = (
        jax.tree.map(lambda x: np.asarray(x).view(np.uint32), v.params) for v in (after, before)
    )
    return jax.tree.map(lambda a, b: a != b, *bits)


def assert_only(after, mask, before=START):
    jax.tree.map(
        np.testing.assert_array_equal, moved(after, before), jax.tree.map(np.asarray, mask)
    )


METHODS = {
    "salun": lambda optimizer: mu.salun(MODEL, optimizer, fraction=0.3, epochs=2),
    "l1_sparse": lambda optimizer: mu.salient(mu.l1_sparse(MODEL, optimizer, epochs=2), 0.3),
    "gradient_ascent": lambda optimizer: mu.salient(mu.gradient_ascent(MODEL, optimizer), 0.3),
    "iau": lambda optimizer: mu.salient(mu.iau(MODEL, optimizer), 0.3),
}


@pytest.mark.quick(
    "one device-momentum-iau", "one device-adam-l1_sparse", "explicit-adam-l1_sparse"
)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mesh", MESHES)
def test_only_salient_entries_move(mesh, optimizer, name):
    start, sets = placed(mesh)
    after, info = jax.jit(METHODS[name](OPTIMIZERS[optimizer]))(KEY, start, *sets)
    mask = salient_entries(0.3)
    assert_only(after, mask)
    size = sum(leaf.size for leaf in jax.tree.leaves(mask))
    np.testing.assert_allclose(info.edit.changed, int(0.3 * size) / size, rtol=1e-6)


@pytest.mark.quick("one device-momentum-magnitude", "explicit-adam-magnitude")
@pytest.mark.parametrize("name", ["magnitude", "synflow"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mesh", MESHES)
def test_what_is_pruned_stays_0_in_every_later_member(mesh, optimizer, name):
    prune = {"magnitude": mu.magnitude_prune, "synflow": mu.synflow_prune}[name](MODEL, 0.5)
    chain = mu.chain(
        prune,
        mu.l1_sparse(MODEL, OPTIMIZERS[optimizer], epochs=2),
        mu.iau(MODEL, OPTIMIZERS[optimizer]),
        mu.retrain(MODEL, OPTIMIZERS[optimizer], init=RAW.init),
    )
    start, sets = placed(mesh)
    after, infos = jax.jit(chain)(KEY, start, *sets)
    pruned, _ = prune(KEY, START, *RAW.sets())
    zeros = {name: np.asarray(leaf) == 0 for name, leaf in pruned.params.items()}
    assert {name: int(mask.sum()) for name, mask in zeros.items() if mask.any()} == {
        name: leaf.size - int(infos[0].details.by_leaf[name])
        for name, leaf in START.params.items()
        if name != "bias"
    }
    assert sum(mask.sum() for mask in zeros.values()) == 24
    assert_only(after, jax.tree.map(np.logical_not, zeros), pruned)


@pytest.mark.slow
def test_explicit_axes_without_jit():
    salient = mu.salient(mu.gradient_ascent(MODEL, OPTIMIZERS["momentum"]), 0.5)
    patched = mu.low_rank(mu.finetune(MODEL, OPTIMIZERS["momentum"]), mu.subspaces.SaRA(2.0))
    chain = mu.chain(mu.magnitude_prune(MODEL, 0.5), salient, patched)
    expected, _ = chain(KEY, START, *RAW.sets(batch_size=8))
    start, sets = placed("explicit")
    found, _ = chain(KEY, start, *sets)
    assert_close(found, expected, rtol=1e-4)
    for name, leaf in found.params.items():
        assert leaf.sharding.is_equivalent_to(start.params[name].sharding, leaf.ndim)
        np.testing.assert_array_equal(leaf == 0, expected.params[name] == 0)


def test_a_fit_learns_with_the_held_entries_where_they_are():
    mask = salient_entries(0.4)
    tune = mu.finetune(MODEL, OPTIMIZERS["adamw"], epochs=3)
    found, _ = mu.masked(tune, mask)(KEY, START, *RAW.sets())
    state, _ = mu.fit(
        MODEL,
        mu.supervised(MODEL),
        OPTIMIZERS["adamw"],
        START,
        RAW.sets()[1],
        key=KEY,
        epochs=3,
        update_mask=mask,
    )
    assert_identical(found, state.variables)
    free, _ = tune(KEY, START, *RAW.sets())
    put_back = jax.tree.map(jnp.where, mask, free.params, START.params)
    assert not np.allclose(found.params["hidden"], put_back["hidden"], atol=1e-3)


def test_the_mask_of_salun_alone_is_that_of_salun():
    given = KEY, START, *RAW.sets()
    options = {"epochs": 2}
    expected, _ = mu.salun(MODEL, OPTIMIZERS["momentum"], fraction=0.3, **options)(*given)
    relabel = mu.salun(MODEL, OPTIMIZERS["momentum"], fraction=1.0, **options)
    assert_identical(mu.salient(relabel, 0.3)(*given)[0], expected)


def test_all_entries_salient_is_the_transform():
    tune = mu.gradient_ascent(MODEL, OPTIMIZERS["momentum"])
    given = KEY, START, *RAW.sets()
    (found, info), (expected, own) = mu.salient(tune, 1.0)(*given), tune(*given)
    assert_identical(found, expected)
    assert (info.steps, info.example_passes) == (own.steps, own.example_passes + 6)


@pytest.mark.slow
def test_a_grid_of_fractions_and_of_members_is_the_loop():
    members = [RAW.init(key) for key in jax.random.split(KEY, 2)]
    fractions = jnp.array([0.25, 0.75])

    def unlearn(variables, fraction):
        tune = mu.gradient_ascent(MODEL, OPTIMIZERS["momentum"])
        return mu.salient(tune, fraction)(KEY, variables, *RAW.sets())[0]

    found = jax.vmap(unlearn)(stack(members), fractions)
    assert_close(found, stack([unlearn(v, float(f)) for v, f in zip(members, fractions)]))


@pytest.mark.quick("linen")
@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_masked_leaves_are_not_among_the_salient_ones(name):
    chosen = setting(name)
    tune = mu.finetune(chosen.model, OPTIMIZERS["adamw"], training_mode=True)

    def is_kernel(path):
        return "kernel" in path

    for unlearn in (
        mu.masked(mu.salient(tune, 0.5), is_kernel),
        mu.salient(mu.masked(tune, is_kernel), 0.5),
    ):
        after, info = jax.jit(unlearn)(KEY, chosen.variables, *chosen.sets(batch_size=8))
        before, new = (chosen.model.params(v) for v in (chosen.variables, after))
        leaves = jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda a, b: a != b, before, new))
        for path, leaf in leaves:
            if not is_kernel(mu.model.path_name(path)):
                assert not leaf.any(), path
        kernels = [leaf for path, leaf in leaves if is_kernel(mu.model.path_name(path))]
        size = sum(leaf.size for leaf in kernels)
        assert sum(int(leaf.sum()) for leaf in kernels) == size // 2
        np.testing.assert_allclose(info.edit.changed, (size // 2) / size, rtol=1e-6)


def test_a_method_that_starts_anew_starts_with_the_held_entries():
    mask = jax.tree.map(lambda x: x > 0, START.params)
    anew = mu.retrain(MODEL, optax.sgd(0.0), init=RAW.init, epochs=1)
    found, _ = mu.masked(anew, mask)(KEY, START, *RAW.sets())
    fresh, _ = anew(KEY, START, *RAW.sets())
    expected = jax.tree.map(jnp.where, mask, fresh.params, START.params)
    assert_identical(found.params, expected)
    _, info = mu.masked(anew, mask)(KEY, START, *RAW.sets(batch_size=100))
    loss = MODEL.losses(found, RAW.sets(batch_size=100)[1].at(0))
    np.testing.assert_allclose(info.details.loss, [loss[loss != 0].mean()], rtol=1e-5)


def test_zeros_of_a_pruned_model_are_kept_in_a_chain_of_any_depth():
    pruned, _ = mu.magnitude_prune(MODEL, 0.4, chosen=lambda n: n == "hidden")(
        KEY, START, *RAW.sets()
    )
    tune = mu.finetune(MODEL, OPTIMIZERS["adamw"])
    kept = mu.keep_zeros(mu.chain(tune, mu.chain(tune)), lambda name: name == "hidden")
    after, _ = kept(KEY, pruned, *RAW.sets())
    mask = jax.tree.map(lambda x: np.asarray(x) != 0, pruned.params)
    assert_only(after, mask, pruned)
    inside = mu.chain(mu.chain(mu.magnitude_prune(MODEL, 0.4)), mu.chain(tune))
    after, _ = inside(KEY, START, *RAW.sets())
    zeros = sum(int((leaf == 0).sum()) for leaf in after.params.values())
    assert zeros == round(0.4 * 48)


def test_a_fit_of_another_model_is_free():
    other = mu.from_function(lambda w, state, x: x @ w["hidden"], mu.losses.squared_error)
    data = mu.batches(jnp.eye(5), jnp.ones((5, 6)), batch_size=5)
    start = mu.Variables({"hidden": jnp.zeros((5, 6))})
    with holding(MODEL, {"hidden": jnp.zeros((5, 6), bool)}):
        state, _ = mu.fit(other, mu.supervised(other), optax.sgd(0.5), start, data, key=KEY)
    assert state.variables.params["hidden"].all()


class Stopped(Exception):
    """Thrown by the watch."""


class Watch:
    """Stops the run at a step."""

    def __init__(self, stop_at=None):
        self.steps, self.stop_at = 0, stop_at

    def begin(self, total, carry, position):
        return carry, position

    def advance(self, carry, position):
        self.steps += 1
        if self.steps == self.stop_at:
            raise Stopped

    def end(self, carry, position):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", [1, 4, 9])
@pytest.mark.parametrize("name", ["salient", "pruned"])
def test_a_stopped_run_resumes_to_the_same_bits(name, stop_at, tmp_path):
    tune = mu.finetune(MODEL, OPTIMIZERS["adamw"], epochs=2)
    salient, prune = mu.salient(tune, 0.3), mu.magnitude_prune(MODEL, 0.5)
    unlearn = {"salient": salient, "pruned": mu.chain(prune, salient)}[name]

    def run():
        return unlearn(KEY, START, *RAW.streams())

    expected = run()
    with (
        pytest.raises(Stopped),
        mu.resumable(tmp_path, config={}, min_seconds=0),
        mu.loops.observe(Watch(stop_at)),
    ):
        run()
    rest = Watch()
    with mu.resumable(tmp_path, config={}, min_seconds=0), mu.loops.observe(rest):
        found = run()
    assert 0 < rest.steps < 12
    assert_identical(found, expected)


def test_masks_are_arguments_of_one_program():
    tune = mu.gradient_ascent(MODEL, OPTIMIZERS["momentum"])
    mu.salient(tune, 0.3)(KEY, START, *RAW.sets())
    with counted_compilations() as compilations:
        mu.salient(tune, 0.6)(KEY, START, *RAW.sets())
    assert compilations == []


@pytest.mark.parametrize("fraction", [1.5, -0.1, float("nan")])
def test_a_wrong_fraction_is_refused_at_once(fraction):
    with pytest.raises(ValueError, match=f"from 0 to 1, found {fraction}") as error:
        mu.salient(mu.finetune(MODEL, optax.sgd(0.1)), fraction)
    assert is_one_sentence(str(error.value))


def test_a_chain_is_refused_in_one_sentence():
    with pytest.raises(TypeError, match="found a chain") as error:
        mu.salient(mu.chain(mu.finetune(MODEL, optax.sgd(0.1))))
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        ({"w": np.ones((3, 2), bool)}, "lacks 'v'"),
        ({"w": np.ones((3, 2), bool), "v": True, "u": True}, "another tree, with 'u'"),
        ({"w": np.ones((2, 3), bool), "v": True}, r"shape \(3, 2\) or \(\) for 'w', found \(2, 3"),
    ],
)
def test_an_update_mask_of_another_tree_is_refused_in_one_sentence(mask, says):
    with pytest.raises(ValueError, match=says) as error:
        run(update_mask=mask)
    assert is_one_sentence(str(error.value))
