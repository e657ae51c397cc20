"""Batch size, padding, and where the batches come from do not change the answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import compiled, every
from settings import FORGET_IDS, setting
from trees import assert_close

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)


def in_one_pass(case):
    return not case.fits


def sets_for(case, **options):
    """The sets in several batches; for a fit in one, since its steps are its batches."""
    return setting("raw").sets(batch_size=100 if case.fits else 4, **options)


def with_junk(data):
    """Rows of NaN and of impossible labels, of weight 0, at both ends of every array."""

    def pad(array, junk):
        return np.pad(array, [(2, 3)] + [(0, 0)] * (array.ndim - 1), constant_values=junk)

    junk = (pad(data.inputs, np.nan), pad(data.targets, -7))
    return data.replace(
        inputs=jnp.asarray(junk[0]),
        targets=jnp.asarray(junk[1]),
        weight=jnp.asarray(pad(data.weight, 0)),
        index=jnp.asarray(pad(data.index, -1)),
    )


@pytest.mark.parametrize("batch_size", [1, 5, 100])
@every(in_one_pass)
def test_statistics_do_not_depend_on_the_batch_size(case, batch_size):
    chosen, transform = setting("raw"), compiled(case, "raw")
    expected = transform(KEY, chosen.variables, *chosen.sets(batch_size=4))
    found = transform(KEY, chosen.variables, *chosen.sets(batch_size=batch_size))
    assert_close(found, expected)


@every(in_one_pass)
def test_rows_of_weight_0_do_not_count(case):
    chosen, transform = setting("raw"), compiled(case, "raw")
    forget, retain = chosen.sets()
    expected, _ = transform(KEY, chosen.variables, forget, retain)
    found, _ = transform(KEY, chosen.variables, with_junk(forget), with_junk(retain))
    assert_close(found, expected)


@every(variants=False)
def test_a_list_of_padded_batches_equals_arrays(case):
    chosen = setting("raw")
    transform = case.build(chosen)
    forget, retain = sets_for(case)
    expected, _ = transform(KEY, chosen.variables, forget, retain)
    lists = [list(with_junk(data)) if not case.fits else junk_in_one(data) for data in (forget, retain)]
    found, info = transform(KEY, chosen.variables, *lists)
    assert info.overlap == -1
    assert_close(found, expected)


def junk_in_one(data):
    padded = with_junk(data)
    return [mu.Batch(padded.inputs, padded.targets, padded.weight, padded.index)]


@every()
def test_a_stream_equals_arrays(case):
    chosen = setting("raw")
    transform = case.build(chosen)
    data = chosen.data()
    expected = transform(KEY, chosen.variables, *mu.split(data, FORGET_IDS))
    pairs = list(zip(np.asarray(data.inputs), np.asarray(data.targets)))
    streams = mu.split(mu.stream(pairs, batch_size=4), FORGET_IDS)
    found = transform(KEY, chosen.variables, *streams)
    assert_close(found, expected)
    with pytest.raises(ValueError, match="under jit"):
        if case.factory is mu.magnitude_prune:
            raise ValueError("reads no data, under jit or not")
        jax.jit(lambda v: transform(KEY, v, *streams))(chosen.variables)
