"""ModHiFi: fidelities of convolutions, compensation, what may change, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu
from mu_jax.statistics.fidelity import (
    channel_gram,
    compensation,
    entering_moments,
    singleton_fidelity,
    subset_fidelity,
)
from mu_jax.statistics.layers import find_layers, named_layer

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(0)


def convolved(x, kernel, groups=1):
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )  # fmt: skip


def of_convolution(groups=1):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 4 // groups, 6)), jnp.float32)
    x = jnp.asarray(rng.normal(size=(5, 4, 4, 4)), jnp.float32)
    model = mu.from_function(lambda p, s, x: convolved(x, p, groups), mu.losses.squared_error)
    variables, data = mu.Variables(kernel), mu.batches(x, jnp.zeros(5), batch_size=2)
    (layer,) = find_layers(model, variables, x)
    moments = mu.collect(entering_moments(model, (layer,)), variables, data).value[layer.name]
    return layer, kernel, x, layer.from_leaf(kernel), moments


@pytest.mark.quick("1")
@pytest.mark.parametrize("groups", [1, 2])
def test_the_gram_matrix_of_a_convolution_is_that_of_its_channels_alone(groups):
    layer, kernel, x, ours, moments = of_convolution(groups)
    there, out = 4 // groups, 6 // groups
    for group in range(groups):
        k = kernel[..., group * out : (group + 1) * out]
        mine = x[..., group * there : (group + 1) * there]
        each = jnp.stack(
            [convolved(mine[..., c : c + 1], k[:, :, c : c + 1]) for c in range(there)], -1
        )
        gram = jnp.einsum("bhwoc,bhwod->ocd", each, each) / (5 * 2 * 2)
        found = channel_gram(layer, ours, moments)[group]
        np.testing.assert_allclose(found, gram, rtol=1e-4, atol=1e-4)
        b = gram.sum(-1)
        single = b**2 / (jnp.einsum("occ->oc", gram) * b.sum(-1, keepdims=True))
        found = singleton_fidelity(layer, ours, moments)[group]
        np.testing.assert_allclose(found, single, rtol=1e-3, atol=1e-5)


def test_compensation_is_the_least_squares_fit_and_the_closest_to_one():
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(50, 4))
    parts[:, 3] = 0  # nothing enters here
    gram = jnp.asarray(parts.T @ parts / 50, jnp.float32)[None, None]
    kept = jnp.array([[True, False, True, True]])
    found = compensation(gram, kept)[0, 0]
    expected = np.linalg.lstsq(parts[:, [0, 2]], parts.sum(1), rcond=None)[0]
    np.testing.assert_allclose(found, [expected[0], 0, expected[1], 1], rtol=1e-4)
    left = np.square(parts.sum(1) - parts @ np.asarray(found)).mean()
    fidelity = 1 - left / np.square(parts.sum(1)).mean()
    np.testing.assert_allclose(subset_fidelity(gram, kept), [[fidelity]], rtol=1e-4)


def raw(**options):
    chosen = setting("raw")
    unlearn = mu.modhifi(chosen.model, **options)
    return chosen, *unlearn(KEY, chosen.variables, *chosen.sets())


def test_channels_are_taken_out_and_nothing_else_moves():
    chosen, after, info = raw(channels=2)
    removed = np.asarray(info.details.removed["params/head"])[0]
    gap = np.asarray(info.details.forget["params/head"] - info.details.retain["params/head"])[0]
    assert removed.sum() == 2 and gap[removed].min() > gap[~removed].max()
    before = chosen.variables.params
    expected = {**before, "head": jnp.where(removed[:, None], 0, before["head"])}
    assert_identical(after.params, expected)
    assert (info.steps, info.example_passes) == (0, 22)
    share = raw(share=0.4)[1]
    assert_identical(share, after)


def test_compensation_brings_the_outputs_on_retained_rows_closer():
    def apart(**options):
        chosen, after, _ = raw(channels=2, **options)
        retain = chosen.sets()[1]
        outputs = (chosen.model.apply(v, retain.inputs) for v in (after, chosen.variables))
        return np.square(np.subtract(*outputs)).sum()

    assert apart(compensate=True) < 0.7 * apart()


def test_a_convolution_on_patches_has_channels_too():
    """On a CPU the convolutions of `mu.models` are products of patches."""
    chosen = setting("cnn")
    name = "conv_0/conv/kernel"
    layer = named_layer(find_layers(chosen.model, chosen.variables, chosen.inputs), name)
    assert max(layer.channels) == 1 and not layer.dense
    unlearn = mu.modhifi(chosen.model, layers=[name], channels=1)
    after, info = unlearn(KEY, chosen.variables, *chosen.sets())
    removed = np.asarray(info.details.removed[layer.name])[0]
    kernel = after["params"]["conv_0"]["conv"]["kernel"]
    assert (kernel == 0).all((0, 1, 3)).tolist() == removed.tolist()


def test_frozen_layers_are_left_out():
    chosen = setting("raw")
    frozen = mu.masked(mu.modhifi(chosen.model, channels=1), lambda name: name != "head")
    with pytest.raises(ValueError, match="behind the first, found none among") as error:
        frozen(KEY, chosen.variables, *chosen.sets())
    assert is_one_sentence(str(error.value))
    named = mu.modhifi(chosen.model, channels=1, layers=["hidden"])
    after = named(KEY, chosen.variables, *chosen.sets())[0]
    assert_close(after.params["head"], chosen.variables.params["head"], rtol=0, atol=0)
    assert ((after.params["hidden"] == 0).all(1)).sum() == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"channels": 7}, "at most 6 channels to remove, those that enter 'params/head', found 7"),
        ({"layers": ["tail"]}, "among params/hidden, params/head, found 'tail'"),
    ],
)
def test_wrong_layers_and_numbers_are_refused(options, says):
    with pytest.raises(ValueError, match=says) as error:
        raw(**options)
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize("options", [{"share": 1.5}, {"channels": -1}, {"channels": 0.5}])
def test_wrong_arguments_are_refused_at_once(options):
    with pytest.raises(ValueError, match="expected ") as error:
        mu.modhifi(setting("raw").model, **options)
    assert is_one_sentence(str(error.value))


def test_a_model_without_layers_is_refused():
    model = mu.from_function(lambda w, state, x: x * w, mu.losses.squared_error)
    sets = mu.split(mu.batches(jnp.eye(3), jnp.eye(3), batch_size=3), [0])
    with pytest.raises(ValueError, match="none among no layers") as error:
        mu.modhifi(model)(KEY, mu.Variables(jnp.ones(3)), *sets)
    assert is_one_sentence(str(error.value))


def test_nothing_removed_is_said():
    assert any("took out no channel" in message for message in raw(share=0.1)[2].messages())
