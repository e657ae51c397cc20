"""Boundary expand: the head of any model, its additional class, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, is_one_sentence

import mu_jax as mu
from mu_jax.statistics.layers import find_head
from mu_jax.transforms.general.boundary_expand import Row, Widened, _widened, uniform_row

KEY = jax.random.key(0)
SGD = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
HEADS = {
    "raw": ("params/head", False),
    "linen": ("params/Dense_1/kernel", True),
    "nnx": ("head/kernel", True),
    "cnn": ("params/head/kernel", True),
}


@pytest.mark.quick("raw-False", "nnx-False", "linen-True")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", HEADS)
def test_the_additional_logit_is_that_of_a_column_of_the_head(name, training):
    """Column 0 of the head, with the new row in its place, gives the additional logit."""
    chosen = setting(name)
    head = find_head(chosen.model, chosen.variables, chosen.data())
    assert (head.layer.name, head.biased) == HEADS[name]
    weight, bias = uniform_row(KEY, head.layer.shape[1])
    row = Row(weight, bias if head.biased else ())
    model = _widened(chosen.model, head)
    given = (jnp.asarray(chosen.inputs), KEY)

    def run(model, variables):
        return model.forward(variables, given[0], training=training, key=given[1])

    found, moved = run(model, Widened(chosen.variables, row))
    logits, expected_moved = run(chosen.model, chosen.variables)
    np.testing.assert_allclose(found[:, :-1], logits, rtol=1e-5, atol=1e-6)
    assert_close(moved.variables, expected_moved)

    def put(path, leaf):
        place = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
        if place == head.layer.name:
            return leaf.at[:, 0].set(weight)
        return leaf.at[0].set(bias) if head.biased and place == bias_name else leaf

    bias_name = head.layer.name.replace("kernel", "bias")
    replaced = jax.tree_util.tree_map_with_path(put, chosen.variables)
    np.testing.assert_allclose(
        found[:, -1], run(chosen.model, replaced)[0][:, 0], rtol=1e-4, atol=1e-6
    )


def unlearned(model, start, **options):
    chosen = setting("linen")
    unlearn = mu.boundary_expand(model, SGD, epochs=1, **options)
    return unlearn(KEY, start, *chosen.sets())[0]


def test_a_named_head_is_the_one_that_is_found():
    chosen = setting("linen")
    names = ("Dense_1/kernel", "Dense_1/bias")
    expected = unlearned(chosen.model, chosen.variables)
    for head in (names, "Dense_1"):
        found = unlearned(chosen.model, chosen.variables, head=head)
        assert_close(found, expected, rtol=0, atol=0)
    without = unlearned(chosen.model, chosen.variables, head="Dense_1/kernel")
    assert (without["params"]["Dense_0"]["kernel"] != expected["params"]["Dense_0"]["kernel"]).any()


def test_a_frozen_head_keeps_its_bits():
    chosen = setting("linen")
    unlearn = mu.masked(
        mu.boundary_expand(chosen.model, SGD, epochs=1), lambda name: "Dense_0" in name
    )
    after = unlearn(KEY, chosen.variables, *chosen.sets())[0]["params"]
    before = chosen.variables["params"]
    assert_close(after["Dense_1"], before["Dense_1"], rtol=0, atol=0)
    assert (after["Dense_0"]["kernel"] != before["Dense_0"]["kernel"]).all()


def flat(function):
    return mu.from_function(function, mu.losses.cross_entropy)


def of(function, shape, data=None, **options):
    data = mu.batches(jnp.ones((4, 3)), jnp.arange(4) % 2, batch_size=4) if data is None else data
    unlearn = mu.boundary_expand(flat(function), SGD, **options)
    return unlearn(KEY, mu.Variables({"w": jnp.ones(shape)}), *mu.split(data, [0]))


@pytest.mark.parametrize(
    ("function", "shape", "options", "says"),
    [
        (lambda p, s, x: jax.nn.log_softmax(x @ p["w"]), (3, 2), {}, "is computed of its outputs"),
        (lambda p, s, x: x[:, :2] * p["w"], (2,), {}, "found none in it"),
        (lambda p, s, x: jnp.tile(x @ p["w"], 2), (3, 1), {}, "1 outputs and outputs of shape"),
        (lambda p, s, x: (x[:, None] @ p["w"]).mean(1), (3, 2), {"head": "v"}, "found 'v'"),
        (
            lambda p, s, x: jnp.stack([x, x], 1).dot(p["w"]).sum(1),
            (3, 2),
            {},
            "with 2 positions",
        ),
        (
            lambda p, s, x: x @ p["w"],
            (3, 2),
            {"new_row": lambda key, size: (jnp.ones(2), jnp.ones(()))},
            "new row of 3 weights",
        ),
    ],
)
def test_what_has_no_head_is_refused(function, shape, options, says):
    with pytest.raises(ValueError, match=says) as error:
        of(function, shape, **options)
    assert is_one_sentence(str(error.value))


def test_a_head_of_another_layout_and_behind_a_scale():
    def predict(p, state, x):
        return (jnp.tanh(x) @ p["w"].T) / 2

    data = mu.batches(jnp.eye(4)[:, :3], jnp.arange(4) % 2, batch_size=4)
    after, info = of(predict, (2, 3), data)
    assert after.params["w"].shape == (2, 3)
    assert info.details.loss[-1] < info.details.loss[0]
