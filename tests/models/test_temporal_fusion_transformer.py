"""The temporal fusion transformer: what may reach what, and its parts in plain arithmetic."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.models import TemporalFusionTransformer
from mu_jax.models.temporal_fusion_transformer import GatedResidual, InterpretableAttention

TFT = TemporalFusionTransformer(
    encoder_length=5, num_codes=((4, 3),), hidden_size=8, num_heads=2, dropout=0.0
)
SERIES = np.random.default_rng(0).normal(size=(4, 8, 5)).astype(np.float32)
SERIES[..., 4] = np.array([0, 2, 1, 2])[:, None]


@partial(jax.jit, static_argnums=0)
def observe(module, variables, inputs):
    outputs, sown = module.apply(variables, inputs, mutable=["intermediates"])
    return outputs, {name: value[0] for name, value in sown["intermediates"].items()}


def shapes(module):
    def program():
        return observe(module, module.init(jax.random.key(0), SERIES), SERIES)

    outputs, sown = jax.eval_shape(program)
    return outputs.shape, {name: value.shape for name, value in sown.items()}


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def tft(filled):
    return filled(TFT, SERIES)


def test_activations_are_batch_first():
    outputs, sown = shapes(TFT)
    assert outputs == (4, 3, 3)
    assert sown == {
        "encoder": (4, 5, 8),
        "decoder": (4, 3, 8),
        "attention_output": (4, 3, 8),
        "attention_weights": (4, 3, 8),
        "encoder_selection": (4, 5, 4),
        "decoder_selection": (4, 3, 3),
        "static_selection": (4, 1),
        "features": (4, 3, 8),
    }


@pytest.mark.slow
@pytest.mark.quick("attention_weights")
@pytest.mark.parametrize("name", ["encoder_selection", "decoder_selection", "attention_weights"])
def test_weights_sum_to_one_over_the_last_axis(tft, name):
    weights = observe(TFT, tft, SERIES)[1][name]
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    # Over variables, not over time or examples.
    assert weights.min() >= 0 and np.abs(weights.sum(0) - 1).max() > 0.1
    assert np.abs(weights.sum(1) - 1).max() > 0.1


@pytest.mark.slow
def test_examples_do_not_meet(tft):
    changed = SERIES.copy()
    changed[3] += 1.0
    changed[3, :, 4] = 0
    outputs, _ = observe(TFT, tft, SERIES)
    others, _ = observe(TFT, tft, changed)
    np.testing.assert_array_equal(outputs[:3], others[:3])
    assert not np.array_equal(outputs[3], others[3])
    reversed_outputs, _ = observe(TFT, tft, SERIES[::-1])
    np.testing.assert_allclose(reversed_outputs, outputs[::-1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_no_output_depends_on_a_later_input(tft):
    def predict(series):
        return TFT.apply(tft, series[None])[0].sum(-1)

    reached = np.abs(jax.jit(jax.jacrev(predict))(SERIES[0])) > 0  # forecast, step, column
    steps = np.arange(8)
    for known in (1, 2, 3):
        np.testing.assert_array_equal(reached[:, :, known], steps <= 5 + np.arange(3)[:, None])
    # The observed column is read in the past only.
    np.testing.assert_array_equal(reached[:, :, 0], np.tile(steps < 5, (3, 1)))


def test_static_codes_matter_at_the_first_step_only(tft):
    first, later = SERIES.copy(), SERIES.copy()
    first[..., 4] = 0
    later[:, 1:, 4] = 0
    outputs = observe(TFT, tft, SERIES)[0]
    changed = np.abs(observe(TFT, tft, first)[0] - outputs).max((1, 2)) > 1e-4
    assert changed.tolist() == [False, True, True, True]
    np.testing.assert_array_equal(observe(TFT, tft, later)[0], outputs)


def test_static_columns_may_be_absent_and_a_single_forecast_has_no_last_axis():
    outputs, sown = shapes(TFT.clone(static=(), num_codes=(), num_outputs=1))
    assert outputs == (4, 3) and "static_selection" not in sown


def fill_part(filled, module, *inputs):
    """Parameters of a part that takes more than one input."""
    part = SimpleNamespace(init=lambda key, x: module.init(key, x, *inputs[1:]))
    return filled(part, inputs[0])["params"]


def test_gated_residual_is_the_formula(filled):
    x, context = normal(2, 3, 5, seed=1), normal(2, 4, seed=2)
    module = GatedResidual(4, 0.0, None, features=6)
    params = jax.device_get(fill_part(filled, module, x, context))

    def dense(name, x, where=params):
        return x @ where[name]["kernel"] + where[name].get("bias", 0.0)

    hidden = dense("dense_0", x) + dense("context", context)[:, None]
    hidden = dense("dense_1", np.where(hidden > 0, hidden, np.expm1(hidden)))
    value, gate = np.split(dense("dense", hidden, params["gate"]), 2, axis=-1)
    total = dense("shortcut", x) + value / (1 + np.exp(-gate))
    centered = total - total.mean(-1, keepdims=True)
    norm = params["gate"]["norm"]
    expected = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-6)
    expected = expected * norm["scale"] + norm["bias"]
    found = jax.jit(module.apply)({"params": params}, x, context)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_heads_share_their_values(filled):
    x, module = normal(2, 6, 8), InterpretableAttention(2, None)
    params = fill_part(filled, module, x, 4)
    found, weights = module.apply({"params": params}, x, 4)
    value = x @ params["value"]["kernel"] + params["value"]["bias"]
    heads = []
    for head in range(2):
        query, key = (
            x @ params[name]["kernel"][:, head] + params[name]["bias"][head]
            for name in ("query", "key")
        )
        scores = np.einsum("bqd,bkd->bqk", query[:, 4:], key) / 2.0
        scores = np.where(np.arange(6) <= 4 + np.arange(2)[:, None], scores, -1e9)
        heads.append(jax.nn.softmax(scores) @ value)
    expected = np.mean(heads, axis=0) @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert weights.shape == (2, 2, 6)


@pytest.mark.parametrize(
    ("fields", "inputs", "message"),
    [
        ({}, SERIES[0], r"found shape \(8, 5\)"),
        ({}, SERIES[:, :5], r"at least 6 steps and 5 columns, found shape \(4, 5, 5\)"),
        ({}, SERIES[..., :4], r"5 columns, found shape \(4, 8, 4\)"),
        ({"num_heads": 3}, SERIES, "multiple of num_heads 3, found 8"),
        ({"known": ()}, SERIES, "at least one known column, found none"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(fields, inputs, message):
    with pytest.raises(ValueError, match=message):
        TFT.clone(**fields).init(jax.random.key(0), inputs)


@pytest.mark.slow
def test_training_draws_dropout_and_gives_finite_gradients(filled):
    dropping = TFT.clone(known=(1,), static=(), num_codes=(), dropout=0.5)
    variables = filled(dropping, SERIES)

    @jax.jit
    def gradient(key):
        def loss(params):
            rngs = {"dropout": key}
            return (dropping.apply({"params": params}, SERIES, train=True, rngs=rngs) ** 2).sum()

        return jax.value_and_grad(loss)(variables["params"])

    values = [gradient(jax.random.key(seed)) for seed in (0, 0, 1)]
    assert values[0][0] == values[1][0] != values[2][0]
    leaves = jax.tree.leaves(values[0])
    assert all(np.isfinite(leaf).all() for leaf in leaves) and any(map(np.any, leaves[1:]))
    assert "random_bits" not in str(jax.make_jaxpr(dropping.apply)(variables, SERIES))


def test_half_precision_keeps_float32_parameters_and_outputs():
    half = TFT.clone(dtype=jnp.bfloat16)
    variables = jax.eval_shape(half.init, jax.random.key(0), SERIES)
    outputs, sown = jax.eval_shape(partial(observe, half), variables, SERIES)
    assert outputs.dtype == jnp.float32 and sown["features"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_importance_on_a_mesh_is_that_of_one_device(tft):
    if jax.device_count() < 2:
        pytest.skip("needs two devices")

    def loss(outputs, targets):
        return (outputs**2).reshape(len(targets), -1).sum(1)

    statistic = mu.statistics.importance(mu.from_linen(TFT, loss))
    data = mu.batches(SERIES, np.zeros(len(SERIES), np.float32), batch_size=2)
    auto = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((2,), ("data",), axis_types=auto, devices=jax.devices()[:2])
    one, two = (mu.collect(statistic, tft, d).value for d in (data, data.replace(mesh=mesh)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), one, two)
