"""Task vectors: differences, sums, trimming, elected signs, and the choice of a scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from trees import assert_close, assert_identical, is_one_sentence

from mu_jax import merging

RNG = np.random.default_rng(0)
VECTORS = {
    "a": RNG.normal(size=(3, 4)).astype(np.float32),
    "b": RNG.normal(size=(3, 2, 3)).astype(np.float32),
}


def pooled(tree):
    return np.concatenate([np.asarray(x).reshape(len(x), -1) for x in tree.values()], axis=1)


@pytest.mark.parametrize("keep", [0.0, 0.2, 0.5, 1.0])
def test_trim_keeps_the_largest_of_all_leaves_together(keep):
    found, given = pooled(merging.trim(VECTORS, keep)), pooled(VECTORS)
    for row, vector in zip(found, given):
        kept = np.argsort(-np.abs(vector))[: round(keep * vector.size)]
        expected = np.zeros_like(vector)
        expected[kept] = vector[kept]
        np.testing.assert_array_equal(row, expected)


def test_equal_entries_at_the_edge_stay_together():
    found = merging.trim(jnp.array([[2.0, -1.0, 1.0, 0.5]]), 0.5)
    assert found.tolist() == [[2.0, -1.0, 1.0, 0.0]]


def test_merging_with_elected_signs_is_that_of_the_paper():
    """Trim, elect by the total of magnitudes, mean of those that agree: entry by entry."""
    trimmed = merging.trim(VECTORS, 0.6)
    signs = merging.elect_sign(trimmed)
    found = pooled({k: x[None] for k, x in merging.merge(trimmed, signs).items()})[0]
    for entry, column in zip(found, pooled(trimmed).T, strict=True):
        up, down = column[column > 0], column[column < 0]
        winners = up if up.sum() > -down.sum() else down
        np.testing.assert_allclose(entry, winners.mean() if winners.size else 0, rtol=1e-6)


def test_the_uniform_mean():
    assert_close(merging.merge(VECTORS), {k: x.mean(0) for k, x in VECTORS.items()})


def test_signs_that_cancel_elect_nothing():
    vectors = jnp.array([[1.0], [-1.0]])
    assert merging.elect_sign(vectors).tolist() == [0.0]
    assert merging.merge(vectors, merging.elect_sign(vectors)).tolist() == [0.0]


def test_bfloat16_is_subtracted_and_added_in_float32():
    before, after = (jnp.array([x], jnp.bfloat16) for x in (256.0, 1.0078125))
    vector = merging.difference(after, before)  # -254.99, in bfloat16 -255
    assert vector.dtype == jnp.float32
    found = merging.add(before, vector)
    assert found.dtype == jnp.bfloat16 and found.tolist() == after.tolist()
    means = merging.merge(jnp.full((300, 1), 1.0, jnp.bfloat16))  # 256 ones are no more than 256
    assert means.tolist() == [1.0]


def test_the_longest_name_of_a_layer_counts_and_frozen_leaves_are_none():
    params = {"net": {"head": {"w": jnp.ones(1), "b": jnp.ones(1)}, "body": None}, "x": jnp.ones(1)}
    found = merging.add(params, params, scale={"head": 1.0, "net/head/b": 2.0})
    assert jax.tree.map(lambda x: float(x[0]), found) == {
        "net": {"head": {"w": 2.0, "b": 3.0}, "body": None},
        "x": 1.0,
    }


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_divided_vectors_merge_alike(kind):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    where = {"a": PartitionSpec(None, "data"), "b": PartitionSpec(None, "data")}
    divided = {k: jax.device_put(x, NamedSharding(mesh, where[k])) for k, x in VECTORS.items()}

    def ties(vectors):
        trimmed = merging.trim(vectors, 0.5)
        return merging.merge(trimmed, merging.elect_sign(trimmed))

    assert_close(ties(divided), ties(VECTORS))
    moved = merging.add(ties(divided), ties(divided), scale=2.0)
    assert_close(moved, jax.tree.map(lambda x: 3 * x, ties(VECTORS)))


def test_a_scale_that_keeps_the_accuracy_again_is_found():
    scales = [2.0, 0.0, 1.0, 0.5]
    assert merging.largest_scale(scales, [0.3, 0.8, 0.79, 0.1]) == 1.0
    assert merging.largest_scale(scales, [0.3, 0.8, 0.79, 0.1], share=1.0) == 0.0
    assert merging.largest_scale(scales, [jnp.nan, 0.8, 0.1, 0.1]) == 0.0
    assert jnp.isnan(merging.largest_scale(scales, [0.3, jnp.nan, 0.8, 0.8]))


W = {"w": jnp.ones(2)}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: merging.difference(W, {"v": jnp.ones(2)}), r"found \(2,\) and no leaf at 'w'"),
        (lambda: merging.difference(W, {"w": jnp.ones(3)}), r"found \(2,\) and \(3,\) at 'w'"),
        (lambda: merging.add(W, {**W, "v": jnp.ones(2)}), r"found no leaf and \(2,\) at 'v'"),
        (lambda: merging.merge({"a": jnp.ones((2, 3)), "b": jnp.ones(3)}), r"axes \[\(2,\), \(3,"),
        (lambda: merging.merge({"a": jnp.ones((2, 3))}, {"a": jnp.ones((2, 3))}), r"at 'a'"),
        (lambda: merging.elect_sign({"a": jnp.ones(())}), r"leading axes \[\(\)\]"),
        (lambda: merging.trim(W, 1.5), r"expected keep from 0 to 1, found 1.5"),
        (lambda: merging.largest_scale([0.5, 1.0], [0.9, 0.9]), r"a scale of 0 among the scales"),
        (lambda: merging.largest_scale([0.0, 1.0], [0.9]), r"shape \[..., 2\], found"),
    ],
)
def test_wrong_trees_are_refused_in_one_sentence(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert is_one_sentence(str(error.value).replace("...", ""))


def test_counts_are_no_parameters():
    with pytest.raises(TypeError, match="expected floating-point parameters, found int32 at 'n'"):
        merging.difference({"n": jnp.arange(2)}, {"n": jnp.arange(2)})


def test_all_of_it_is_pure():
    jitted = jax.jit(lambda v, keep: merging.merge(merging.trim(v, keep), merging.elect_sign(v)))
    expected = merging.merge(merging.trim(VECTORS, 0.5), merging.elect_sign(VECTORS))
    assert_identical(jitted(VECTORS, 0.5), expected)
