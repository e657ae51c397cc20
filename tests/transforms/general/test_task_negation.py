"""Task negation against the golden edits, and against fine-tuning on the forget set."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import load
from golden_networks import params
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
GOLDEN = load("classification_task_vector.npz")
KEY = jax.random.key(3)


def negated(before, over, scale, **options):
    return mu.merging.add(before, mu.merging.difference(over, before), scale=-scale, **options)


def test_the_golden_edit_of_a_language_model():
    golden = load("lm_objectives.npz")
    with jax.enable_x64(True):
        before, over, edited = (
            {leaf: jnp.asarray(golden[f"{prefix}/{leaf}"]) for leaf in "EAcWb"}
            for prefix in ("tiny", "task_vector/overfit", "task_vector/edited")
        )
        assert_close(negated(before, over, golden["hp/tv_alpha"]), edited, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_the_golden_edits_of_a_classifier(scale):
    with jax.enable_x64(True):
        before, over = (params(GOLDEN, prefix) for prefix in ("before", "finetuned"))
        expected = params(GOLDEN, f"negated_{scale}")
        assert_close(negated(before, over, scale), expected, rtol=0, atol=1e-14)


def test_the_golden_sum_of_two_vectors():
    with jax.enable_x64(True):
        before, over = (params(GOLDEN, prefix) for prefix in ("before", "finetuned"))
        one = mu.merging.difference(over, before)
        both = mu.merging.add(one, one)
        found = mu.merging.add(before, both, scale=0.25)
        assert_close(found, params(GOLDEN, "sum_of_two_0.25"), rtol=0, atol=1e-14)
        assert both["fc1.weight"].dtype == jnp.float64


def test_the_golden_choice_of_a_scale():
    scales, accuracy = GOLDEN["choice/scales"], GOLDEN["choice/control_accuracy"]
    found = mu.merging.largest_scale(scales, accuracy)
    np.testing.assert_allclose(found, GOLDEN["choice/selected"], rtol=1e-6)


@pytest.mark.parametrize("name", ["raw", pytest.param("tokens", marks=pytest.mark.slow)])
def test_it_goes_back_as_far_as_the_fit_went(name):
    chosen = setting(name)
    forget, retain = chosen.sets()
    after, _ = mu.task_negation(chosen.model, optax.sgd(0.1), scale=0.5, epochs=2)(
        KEY, chosen.variables, forget, retain
    )
    tuned, _ = mu.finetune(chosen.model, optax.sgd(0.1), epochs=2)(
        KEY, chosen.variables, retain, forget
    )
    expected = jax.tree.map(lambda x, y: 1.5 * x - 0.5 * y, chosen.variables.params, tuned.params)
    assert_close(after.params, expected)


@pytest.mark.parametrize(
    ("options", "scales"),
    [
        ({"chosen": lambda name: name != "head"}, {"bias": 2, "head": 0, "hidden": 2}),
        ({"chosen": {"bias": False, "head": True, "hidden": False}}, {"head": 2}),
        ({"scale": {"head": 3.0, "bias": 0.5}}, {"bias": 0.5, "head": 3}),
    ],
    ids=["function", "tree", "numbers"],
)
def test_layers_are_chosen_and_scaled(options, scales):
    chosen = setting("raw")

    def moved(**options):
        unlearn = mu.task_negation(chosen.model, optax.sgd(0.1), epochs=2, **options)
        return unlearn(KEY, chosen.variables, *chosen.sets())[0].params

    start, whole = chosen.variables.params, moved(scale=1.0)
    found = moved(**{"scale": 2.0, **options})
    for name, leaf in found.items():
        if not scales.get(name):
            assert_identical(leaf, start[name])
            continue
        np.testing.assert_allclose(
            leaf - start[name], scales[name] * (whole[name] - start[name]), rtol=1e-4, atol=1e-6
        )


def test_numbers_of_layers_may_be_traced():
    chosen = setting("raw")

    @jax.vmap
    def moved(scale):
        unlearn = mu.task_negation(chosen.model, optax.sgd(0.1), scale={"head": scale}, epochs=1)
        return unlearn(KEY, chosen.variables, *chosen.sets())[0].params

    found, start = moved(jnp.array([1.0, 3.0])), chosen.variables.params
    steps = [found["head"][k] - start["head"] for k in range(2)]
    np.testing.assert_allclose(steps[1], 3 * steps[0], rtol=1e-4, atol=1e-6)
    assert_identical(found["bias"][0], start["bias"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"scale": {"tail": 1.0}}, r"such as 'bias' in scale, found 'tail'"),
        ({"scale": {}}, r"in scale, found 'none'"),
        ({"scale": {"head": -1.0}}, r"expected head >= 0, found -1"),
        ({"chosen": lambda name: False}, r"chooses none of bias, head"),
        ({"chosen": {"bias": True}}, r"found none for 'head' among 'bias'"),
        ({"chosen": {"bias": True, "head": np.ones((6, 3), bool), "hidden": True}}, r"for 'head'"),
    ],
)
def test_wrong_layers_are_refused_in_one_sentence(options, says):
    chosen = setting("raw")
    with pytest.raises(ValueError, match=says) as error:
        unlearn = mu.task_negation(chosen.model, optax.sgd(0.1), epochs=1, **options)
        unlearn(KEY, chosen.variables, *chosen.sets())
    assert is_one_sentence(str(error.value))


@pytest.mark.slow
def test_statistics_stay_where_they_were():
    chosen = setting("cnn")
    unlearn = mu.task_negation(chosen.model, optax.sgd(0.1), epochs=1, training_mode=True)
    after, _ = unlearn(KEY, chosen.variables, *chosen.sets())
    assert_identical(after["batch_stats"], chosen.variables["batch_stats"])
