"""Batch size, padding, and where the batches come from do not change the answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import WAYS, compiled, every
from trees import assert_close

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)


def in_one_pass(case):
    return not case.fits


def with_junk(data):
    """Rows of NaN and of impossible labels, of weight 0, at both ends of every array."""

    def pad(array, junk):
        return np.pad(array, [(2, 3)] + [(0, 0)] * (array.ndim - 1), constant_values=junk)

    def spoiled(array):
        whole = jnp.issubdtype(array.dtype, jnp.integer)
        return jnp.asarray(pad(array, -7 if whole else np.nan))

    return data.replace(
        inputs=jax.tree.map(spoiled, data.inputs),
        targets=jax.tree.map(spoiled, data.targets),
        weight=jnp.asarray(pad(data.weight, 0)),
        index=jnp.asarray(pad(data.index, -1)),
    )


def padded(data):
    """The batches as a list, each with rows of junk."""
    size = data.batch_size
    parts = [data.take(slice(i, i + size)) for i in range(0, data.num_examples, size)]
    batches = [with_junk(part) for part in parts]
    return [mu.Batch(x.inputs, x.targets, x.weight, x.index) for x in batches]


@pytest.mark.quick("*-5")
@pytest.mark.parametrize("batch_size", [5, 100])
@every(in_one_pass)
def test_statistics_do_not_depend_on_the_batch_size(case, batch_size):
    chosen, transform = case.setting("raw"), compiled(case, "raw")
    expected = transform(KEY, chosen.variables, *chosen.sets(batch_size=4))
    found = transform(KEY, chosen.variables, *chosen.sets(batch_size=batch_size))
    assert_close(found, expected)


@every(in_one_pass)
def test_rows_of_weight_0_do_not_count(case):
    chosen, transform = case.setting("raw"), compiled(case, "raw")
    forget, retain = chosen.sets()
    expected, _ = transform(KEY, chosen.variables, forget, retain)
    found, _ = transform(KEY, chosen.variables, with_junk(forget), with_junk(retain))
    assert_close(found, expected)


@pytest.mark.quick(*WAYS, some_methods=True)
@every(variants="none")
def test_a_list_of_padded_batches_equals_arrays(case):
    chosen = case.setting("raw")
    transform = case.build(chosen)
    # A fit shuffles arrays, which it cannot do to a list: give it all examples in one batch.
    forget, retain = chosen.sets(batch_size=100 if case.fits else 4)
    expected, _ = transform(KEY, chosen.variables, forget, retain)
    found, info = transform(KEY, chosen.variables, padded(forget), padded(retain))
    assert info.overlap == -1
    assert_close(found, expected)


@pytest.mark.quick(*WAYS, some_methods=True)
@every(variants="none")
def test_a_stream_equals_arrays(case):
    chosen = case.setting("raw")
    transform = case.build(chosen)
    expected = transform(KEY, chosen.variables, *chosen.sets())
    found = transform(KEY, chosen.variables, *chosen.streams())
    assert_close(found, expected)
