"""Ensembles on disk: computed once, resumed by block, never mistaken for another recipe's."""

from __future__ import annotations

import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax import ensembles, models

RNG = np.random.RandomState(0)
DATA = mu.batches(RNG.normal(size=(24, 6)).astype(np.float32), RNG.randint(0, 3, 24), batch_size=8)
MODULE = models.MLP((5,), 3)
MODEL = mu.from_linen(MODULE, mu.losses.cross_entropy)
RECIPE = {"dataset": "noise", "epochs": 1}


def compute(numbers, data):
    """Three models, their keys and their outputs."""
    keys = jax.vmap(lambda j: jax.random.fold_in(jax.random.key(0), j))(numbers)
    variables = ensembles.train(
        MODEL,
        optax.sgd(0.1),
        data,
        keys,
        init=lambda key: MODULE.init(key, data.inputs[:1]),
        epochs=1,
    )
    return {"variables": variables, "logits": ensembles.ensemble_outputs(MODEL, variables, data)}


class Counted:
    """`compute` that counts the blocks that are computed; may be stopped after some."""

    def __init__(self, stop_after=None):
        self.done, self.stop_after = [], stop_after

    def __call__(self, done, total):
        self.done.append((done, total))
        if len(self.done) == self.stop_after:
            raise KeyboardInterrupt


def logits(tree):
    return tree["logits"]


@pytest.mark.slow
def test_stored_results_are_those_of_one_program(tmp_path):
    found = ensembles.stored(tmp_path, RECIPE, compute, 5, DATA, block=2)
    expected = jax.jit(compute)(jnp.arange(5), DATA)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray)
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_second_call_reads_and_a_larger_one_adds(tmp_path):
    first = ensembles.stored(tmp_path, RECIPE, compute, 4, DATA, block=2, pick=logits)
    again = Counted()
    same = ensembles.stored(tmp_path, RECIPE, compute, 4, DATA, pick=logits, progress=again)
    np.testing.assert_array_equal(first, same)
    assert again.done == []
    more = ensembles.stored(tmp_path, RECIPE, compute, 7, DATA, pick=logits, progress=again)
    assert again.done == [(6, 7), (7, 7)]
    np.testing.assert_array_equal(more[:4], first)
    np.testing.assert_array_equal(
        ensembles.stored(tmp_path, RECIPE, compute, 3, DATA, pick=logits), first[:3]
    )


def test_a_stopped_run_goes_on_with_the_missing_block(tmp_path):
    whole = ensembles.stored(tmp_path / "a", RECIPE, compute, 6, DATA, block=2)
    with pytest.raises(KeyboardInterrupt):
        ensembles.stored(tmp_path / "b", RECIPE, compute, 6, DATA, block=2, progress=Counted(2))
    rest = Counted()
    resumed = ensembles.stored(tmp_path / "b", RECIPE, compute, 6, DATA, block=2, progress=rest)
    assert rest.done == [(6, 6)]
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_recipe_or_other_data_are_another_ensemble(tmp_path):
    counted = Counted()

    def call(recipe, data):
        return ensembles.stored(tmp_path, recipe, compute, 2, data, block=2, progress=counted)

    call(RECIPE, DATA)
    call(RECIPE | {"epochs": 2}, DATA)
    call(RECIPE, DATA.replace(weight=DATA.weight.at[0].set(0)))
    assert len(counted.done) == 3
    call(dict(reversed(RECIPE.items())), DATA)
    assert len(counted.done) == 3
    records = [json.loads(path.read_text()) for path in tmp_path.glob("*/ensemble.json")]
    assert sorted(record["recipe"]["epochs"] for record in records) == [1, 1, 2]


def test_bad_input_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="expected at least one model"):
        ensembles.stored(tmp_path, RECIPE, compute, 0, DATA)
    with pytest.raises(ValueError, match="expected a recipe of finite numbers"):
        ensembles.stored(tmp_path, {"model": MODEL}, compute, 2, DATA)
    with pytest.raises(ValueError, match="expected results with a leading axis of 2 models"):
        ensembles.stored(tmp_path, RECIPE, lambda numbers: jnp.zeros(3), 2, block=2)
    assert not list(tmp_path.glob("*/blocks/*"))


def multiples(numbers):
    return 1.0 * numbers


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"block": "2"}', '{"block": 0}', "{}"])
def test_a_damaged_record_of_an_ensemble_is_one_sentence(tmp_path, text):
    ensembles.stored(tmp_path, RECIPE, multiples, 3, block=2)
    (record,) = tmp_path.glob("*/ensemble.json")
    record.write_text(text)
    with pytest.raises(ValueError, match=r"^expected the record of an ensemble in .*: delete the"):
        ensembles.stored(tmp_path, RECIPE, multiples, 3, block=2)


def test_a_damaged_block_is_named_and_computed_again_once_it_is_gone(tmp_path):
    ensembles.stored(tmp_path, RECIPE, multiples, 3, block=2)
    (block,) = tmp_path.glob("*/blocks/00000001")
    shutil.rmtree(block / "arrays")
    with pytest.raises(ValueError, match=r"^expected .*00000001"):
        ensembles.stored(tmp_path, RECIPE, multiples, 3, block=2)
    shutil.rmtree(block)
    np.testing.assert_array_equal(ensembles.stored(tmp_path, RECIPE, multiples, 3), [0, 1, 2])


def test_the_seconds_of_a_model_are_kept_with_its_block(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 6))
    own = types.SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("mu_jax.ensembles.storing.time", own)
    assert ensembles.seconds_per_model(tmp_path, RECIPE, DATA) is None
    ensembles.stored(tmp_path, RECIPE, compute, 3, DATA, block=2)
    assert ensembles.seconds_per_model(tmp_path, RECIPE, DATA) == 3.0
    ensembles.stored(tmp_path, RECIPE, compute, 3, DATA, block=2)
    assert ensembles.seconds_per_model(tmp_path, RECIPE, DATA) == 3.0
    other = RECIPE | {"epochs": 2}
    assert ensembles.seconds_per_model(tmp_path, other, DATA) is None
