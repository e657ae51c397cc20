"""Magnitude pruning over all matrices together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import setting
from trees import assert_identical

import mu_jax as mu

KEY = jax.random.key(0)
RAW = setting("raw")
LINEN = setting("linen")


def pruned(chosen, sparsity, variables=None):
    variables = chosen.variables if variables is None else variables
    return mu.magnitude_prune(chosen.model, sparsity)(KEY, variables, *chosen.sets())


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_the_smallest_weights_of_all_matrices_together_become_0(sparsity):
    after, info = pruned(RAW, sparsity)
    before = RAW.variables.params
    entries = np.concatenate([np.abs(before[name]).ravel() for name in ("head", "hidden")])
    threshold = np.quantile(entries, sparsity)
    for name in ("head", "hidden"):
        expected = np.where(np.abs(before[name]) < threshold, 0, before[name])
        np.testing.assert_array_equal(after.params[name], expected)
    zeros = sum(int((after.params[name] == 0).sum()) for name in ("head", "hidden"))
    assert abs(zeros - sparsity * entries.size) <= 1
    np.testing.assert_allclose(info.edit.changed, zeros / 54, rtol=1e-6)
    assert (info.steps, info.example_passes) == (0, 0)


def test_vectors_stay():
    after, _ = pruned(LINEN, 0.9)
    for path, leaf in jax.tree_util.tree_leaves_with_path(after):
        assert leaf.ndim > 1 or bool(leaf.all()), path


def test_pruning_again_changes_nothing():
    once, _ = pruned(RAW, 0.5)
    with pytest.warns(mu.UnlearningWarning, match="Nothing was changed"):
        twice, _ = pruned(RAW, 0.5, once)
    assert_identical(twice, once)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_sparsity_of_0_changes_nothing(dtype):
    chosen = RAW if dtype == jnp.float32 else setting("bfloat16")
    with pytest.warns(mu.UnlearningWarning, match="Nothing was changed"):
        after, _ = pruned(chosen, 0.0)
    assert_identical(after, chosen.variables)


def test_vectors_alone_are_refused():
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    unlearn = mu.magnitude_prune(model, 0.5)
    with pytest.raises(ValueError, match="two or more axes"):
        unlearn(KEY, mu.Variables(jnp.ones(5)), *RAW.sets())
