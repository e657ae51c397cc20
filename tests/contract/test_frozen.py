"""Frozen is frozen: bit for bit, weight decay and momentum notwithstanding."""

import jax
import numpy as np
import optax
import pytest
from recipes import WAYS, among, every

import mu_jax as mu
from mu_jax.loops import update_masks
from mu_jax.model import path_name

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
OPTIMIZERS = {
    "adamw": optax.adamw(0.05, weight_decay=0.5),
    "momentum": optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, momentum=0.9)),
}


def is_head(name):
    return "head" in name or "Dense_1" in name


def tree_of_bools(chosen):
    params = chosen.model.params(chosen.variables)
    return jax.tree_util.tree_map_with_path(lambda path, _: is_head(path_name(path)), params)


def by_name(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {path_name(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.quick(
    *among("raw-*", methods=WAYS),
    *among("linen-*", methods=("finetune",)),
    *among("nnx-*", methods=("ssd", "scrub")),
    some_methods=True,
)
@pytest.mark.parametrize(
    ("name", "optimizer"), [("raw", "adamw"), ("linen", "momentum"), ("nnx", "adamw")]
)
@every(variants="none")
def test_masked_leaves_keep_every_bit(case, name, optimizer):
    chosen = case.setting(name)
    changes = {"optimizer": OPTIMIZERS[optimizer]} if case.takes("optimizer") else {}
    mask = tree_of_bools(chosen) if name == "raw" else is_head
    transform = mu.masked(case.build(chosen, **changes), mask)
    variables = chosen.variables
    after, info = jax.jit(transform)(jax.random.key(3), variables, *chosen.sets())
    assert jax.tree.structure(after) == jax.tree.structure(variables)

    before, after = (by_name(chosen.model.params(v)) for v in (variables, after))
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved
    assert moved <= set(filter(is_head, before))
    assert set(by_name(info.edit.changed_by_leaf)) == set(filter(is_head, before))


@pytest.mark.quick("ssd", "finetune", some_methods=True)
@every(variants="none")
def test_a_tree_of_bools_is_the_same_mask(case):
    chosen = case.setting("raw")
    given = (jax.random.key(3), chosen.variables, *chosen.sets())
    by_tree = mu.masked(case.build(chosen), tree_of_bools(chosen))(*given)
    by_predicate = mu.masked(case.build(chosen), is_head)(*given)
    for a, b in zip(jax.tree.leaves(by_tree), jax.tree.leaves(by_predicate), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.quick("finetune", "npo", some_methods=True)
@every(variants="none")
def test_held_entries_keep_every_bit_and_every_fit_hears_of_them(case, monkeypatch):
    heard, checked = [], update_masks.checked

    def listening(mask, model, params):
        found = checked(mask, model, params)
        # A method fits other models as well, such as autoencoders: those are free.
        if found is not None or jax.tree.structure(params) == jax.tree.structure(before):
            heard.append(found is not None)
        return found

    chosen = case.setting("raw")
    changes = {"optimizer": OPTIMIZERS["adamw"]} if case.takes("optimizer") else {}
    before = chosen.model.params(chosen.variables)
    monkeypatch.setattr(update_masks, "checked", listening)
    mask = jax.tree.map(lambda x: np.asarray(x) > 0, before)
    transform = mu.masked(case.build(chosen, **changes), mask)
    after, info = jax.jit(transform)(jax.random.key(3), chosen.variables, *chosen.sets())
    moved = jax.tree.map(lambda a, b: np.asarray(a) != b, chosen.model.params(after), before)
    assert any(leaf.any() for leaf in jax.tree.leaves(moved))
    for found, allowed in zip(*map(jax.tree.leaves, (moved, mask)), strict=True):
        assert not found[~allowed].any()
    share = sum(leaf.sum() for leaf in jax.tree.leaves(moved)) / sum(
        leaf.size for leaf in jax.tree.leaves(moved)
    )
    np.testing.assert_allclose(info.edit.changed, share, rtol=1e-6)
    assert all(heard) and bool(heard) == (info.steps > 1)
