"""Fisher forgetting on small models: which noise falls where, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import LOSS, setting
from trees import assert_identical, is_one_sentence

import mu_jax as mu

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)


def call(chosen, sets=None, key=KEY, **options):
    unlearn = mu.watched(mu.fisher_forgetting(chosen.model, **options), False)
    return unlearn(key, chosen.variables, *(sets or chosen.sets()))


def test_only_a_named_class_loses_its_weights():
    chosen = setting("raw")
    start = np.asarray(chosen.variables.params["head"])
    forget, retain = chosen.sets()
    whole = forget.take(np.flatnonzero(np.asarray(forget.targets) == 1))
    kept, _ = call(chosen, (whole, retain), alpha=1e-9)
    named, _ = call(chosen, (whole, retain), alpha=1e-9, forget_class=1)
    assert np.abs(kept.params["head"] - start).max() < 1e-2
    moved = np.abs(named.params["head"] - start)
    assert moved[:, [0, 2]].max() < 1e-2
    assert np.abs(named.params["head"][:, 1]).max() < 5 * np.sqrt(1e-3)


def test_the_noise_is_of_the_size_of_the_variance():
    """A leaf that the loss does not see has v = 1e3 alpha, ten times that in a vector."""
    model = mu.from_function(lambda p, state, x: x @ p["head"], mu.losses.cross_entropy)
    params = {"head": jnp.eye(3), "free": jnp.zeros((100, 200)), "vector": jnp.zeros(20_000)}
    sets = mu.split(mu.batches(jnp.eye(3), jnp.arange(3), batch_size=3), [2])
    found = mu.fisher_forgetting(model, alpha=4e-3)(KEY, mu.Variables(params), *sets)[0].params
    np.testing.assert_allclose(found["free"].std(), 2, rtol=0.02)
    np.testing.assert_allclose(found["vector"].std(), np.sqrt(40), rtol=0.02)
    assert abs(float(np.corrcoef(found["free"].ravel(), found["vector"])[0, 1])) < 0.03


def test_other_keys_draw_other_noise_and_the_forget_set_is_not_read():
    chosen = setting("raw")
    forget, retain = chosen.sets()
    first, info = call(chosen)
    assert not np.any(first.params["head"] == call(chosen, key=jax.random.key(4))[0].params["head"])
    same, _ = call(chosen, (forget.replace(inputs=0 * forget.inputs), retain))
    assert_identical(same, first)
    assert info.details.clipped == 0 and info.messages() == []


def test_noise_that_does_not_see_the_data_is_reported():
    chosen = setting("raw")
    sure = jax.tree.map(lambda x: 1000 * x, chosen.variables)
    unlearn = mu.watched(mu.fisher_forgetting(chosen.model), False)
    _, info = unlearn(KEY, sure, *chosen.sets())
    assert info.details.clipped == 1
    assert any("does not depend on the retained" in message for message in info.messages())


def test_a_head_that_is_frozen_is_still_known():
    chosen = setting("raw")
    unlearn = mu.masked(mu.fisher_forgetting(chosen.model), lambda name: name == "bias")
    after, _ = unlearn(KEY, chosen.variables, *chosen.sets())
    assert_identical(after.params["head"], chosen.variables.params["head"])


def regression():
    model = mu.from_function(lambda p, state, x: x @ p["head"], mu.losses.squared_error)
    data = mu.batches(jnp.ones((6, 5)), jnp.ones((6, 3)), batch_size=3)
    return model, mu.Variables({"head": jnp.ones((5, 3))}), mu.split(data, [1])


def one_number():
    model = mu.from_function(lambda p, state, x: x @ p["head"], LOSS)
    data = mu.batches(jnp.ones((6, 5)), jnp.zeros(6, int), batch_size=3)
    return model, mu.Variables({"head": jnp.ones((5, 1))}), mu.split(data, [1])


@pytest.mark.parametrize("made", [regression, one_number])
def test_a_regression_is_refused(made):
    model, variables, sets = made()
    with pytest.raises(ValueError, match="since the method needs classes") as error:
        mu.fisher_forgetting(model)(KEY, variables, *sets)
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"forget_class": 3}, "expected forget_class from 0 to 2, a class of the model, found 3"),
        ({"forget_class": -1}, "expected forget_class as a whole number >= 0, found -1"),
        ({"forget_class": 2}, "found none among 2: name the class"),
        ({"head": "tail"}, "in the layer 'tail', found none of that name"),
        ({"head": "hidden"}, "with 3 outputs, the classes of the model, in the layer 'hidden'"),
        ({"layout": "out_in"}, "with 3 outputs, the classes of the model, in the layer 'head'"),
        ({"layout": "hwio"}, "expected a layout among in_out, out_in, found 'hwio'"),
        ({"alpha": -1.0}, "expected alpha >= 0"),
    ],
)
def test_refused_in_one_sentence(options, says):
    chosen = setting("raw")
    forget, retain = chosen.sets()
    few = forget.take(np.flatnonzero(np.asarray(forget.targets) != 2)[:2])
    with pytest.raises(ValueError, match=says) as error:
        call(chosen, (few, retain), **options)
    assert is_one_sentence(str(error.value).replace("...", ""))


def test_a_layer_with_leaves_of_two_sizes_is_no_head():
    model = mu.from_function(lambda p, state, x: x, mu.losses.cross_entropy)
    variables = mu.Variables({"head": {"a": jnp.ones((2, 3)), "b": jnp.ones((3, 4))}})
    sets = mu.split(mu.batches(jnp.eye(3), jnp.arange(3), batch_size=3), [2])
    with pytest.raises(ValueError, match="in the layer 'head', found 3 and 4: name the layer"):
        mu.fisher_forgetting(model)(KEY, variables, *sets)
