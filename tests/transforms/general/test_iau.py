"""Influence approximation: its direction, its scale, its modes and its stored gradient."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import load
from small_models import EXAMPLES, FORGET_IDS, setting
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu

KEY = jax.random.key(0)
RAW = setting("raw")
MODEL, VARIABLES = RAW.model, RAW.variables
RHO = len(FORGET_IDS) / EXAMPLES
RIDGE = load("influence_ridge.npz")


@jax.jit
def gradient(data, variables=VARIABLES):
    """The mean gradient from one batch of all rows."""

    def mean_loss(params):
        outputs = MODEL.apply(variables._replace(params=params), data.inputs)
        return jnp.average(MODEL.loss(outputs, data.targets), weights=data.weight)

    return jax.grad(mean_loss)(variables.params)


def direction():
    g_f, g_r = map(gradient, RAW.sets())
    return optax.tree.sub(g_r, g_f)


def step(optimizer, sets=None, variables=VARIABLES, **options):
    """The change of the parameters, and the info."""
    sets = RAW.sets() if sets is None else sets
    after, info = mu.iau(MODEL, optimizer, **options)(KEY, variables, *sets)
    return optax.tree.sub(after.params, variables.params), info


def unreadable(data):
    return data.replace(inputs=data.inputs * jnp.nan)


# --- the direction ---


@pytest.mark.quick("5", "1")
@pytest.mark.parametrize("batch_size", [1, 5, 16, 100])
def test_a_plain_step_goes_against_the_difference_of_means(batch_size):
    change, info = step(optax.sgd(0.1), RAW.sets(batch_size=batch_size))
    assert_close(change, optax.tree.scale(-0.1, direction()))
    assert (info.steps, info.example_passes) == (1, EXAMPLES)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_in_float64(batch_size):
    with jax.enable_x64(True):
        doubles = jax.tree.map(lambda x: x.astype(jnp.float64), VARIABLES)

        def wide(data):
            return data.replace(inputs=data.inputs.astype(jnp.float64))

        sets = [map(wide, RAW.sets(batch_size=size)) for size in (batch_size, 100)]
        found, expected = (step(optax.sgd(0.1), x, variables=doubles)[0] for x in sets)
        assert_close(found, expected, rtol=0, atol=1e-15)


def test_weights_of_examples_count():
    forget, retain = RAW.sets()
    heavy = forget.replace(weight=jnp.arange(1.0, 7.0))
    change, info = step(optax.sgd(0.1), (heavy, retain))
    expected = optax.tree.sub(gradient(retain), gradient(heavy))
    assert_close(change, optax.tree.scale(-0.1, expected))
    np.testing.assert_allclose(info.details.forget_fraction, 21 / (21 + 16), rtol=1e-6)


def test_the_report_against_explicit_products():
    g_f, g_r = map(gradient, RAW.sets())
    change, info = step(optax.adam(1e-2))
    norm_f, norm_r = optax.tree.norm(g_f), optax.tree.norm(g_r)
    expected = mu.transforms.IAUInfo(
        forget_gradient_norm=norm_f,
        retain_gradient_norm=norm_r,
        direction_norm=optax.tree.norm(direction()),
        cosine=optax.tree.vdot(g_f, g_r) / (norm_f * norm_r),
        forget_fraction=jnp.asarray(RHO),
        predicted_forget_change=optax.tree.vdot(g_f, change),
        predicted_retain_change=optax.tree.vdot(g_r, change),
        stale=jnp.asarray(False),
    )
    assert_close(info.details, expected, rtol=1e-4)
    assert info.details.predicted_forget_change > info.details.predicted_retain_change


# --- the stored gradient ---


def stored(variables=VARIABLES):
    return mu.collect(mu.statistics.mean_gradient(MODEL), variables, RAW.data())


@pytest.mark.parametrize("options", [{}, {"scale_by_fraction": True}, {"retain_weight": 0.5}])
def test_a_stored_gradient_gives_the_same_from_the_forget_set_alone(options):
    forget, retain = RAW.sets()
    expected, info = step(optax.sgd(0.1), **options)
    found, cached = step(
        optax.sgd(0.1), (forget, unreadable(retain)), full_gradient=stored(), **options
    )
    assert_close(found, expected)
    assert_close(cached.details, info.details)
    assert cached.example_passes == len(FORGET_IDS)


def test_a_stale_gradient_is_refused():
    full = stored()
    unlearn = mu.iau(MODEL, optax.sgd(0.1), full_gradient=full)
    after, _ = unlearn(KEY, VARIABLES, *RAW.sets())
    with pytest.raises(ValueError, match="'mean gradient' of others") as error:
        unlearn(KEY, after, *RAW.sets())
    assert is_one_sentence(str(error.value))
    _, info = jax.jit(unlearn)(KEY, VARIABLES, *RAW.sets())
    assert not info.details.stale
    _, info = jax.jit(unlearn)(KEY, after, *RAW.sets())
    assert info.details.stale
    assert any("belongs to other variables" in m for m in info.messages())


def test_a_statistic_of_another_kind_is_refused():
    full = mu.collect(mu.statistics.importance(MODEL), VARIABLES, RAW.data())
    with pytest.raises(ValueError, match="compute both the same way"):
        step(optax.sgd(0.1), full_gradient=full)


# --- the modes ---


def test_adam_moves_every_coordinate_by_its_rate():
    forget, retain = (x.replace(inputs=x.inputs.at[:, 2].set(0)) for x in RAW.sets())
    g = optax.tree.sub(gradient(retain), gradient(forget))
    change, _ = step(optax.adam(1e-3), (forget, retain))
    for moved, slope in zip(jax.tree.leaves(change), jax.tree.leaves(g), strict=True):
        clear = np.abs(slope) > 1e-4
        np.testing.assert_allclose(moved[clear], -1e-3 * np.sign(slope[clear]), rtol=1e-3)
    np.testing.assert_array_equal(g["hidden"][2], 0.0)
    np.testing.assert_array_equal(change["hidden"][2], 0.0)


@pytest.mark.slow
def test_adam_is_blind_to_the_size_of_the_request_and_scaled_sgd_is_not():
    data, size = RAW.data(), {}
    for ids in ([1], FORGET_IDS):
        sets = mu.split(data, ids)
        g = optax.tree.norm(optax.tree.sub(gradient(sets[1]), gradient(sets[0])))
        _, adam = step(optax.adam(1e-3), sets)
        _, sgd = step(optax.sgd(0.1), sets, scale_by_fraction=True)
        np.testing.assert_allclose(sgd.edit.update_norm, 0.1 * len(ids) / EXAMPLES * g, rtol=1e-4)
        size[len(ids)] = adam.edit.update_norm
    np.testing.assert_allclose(size[1], size[len(FORGET_IDS)], rtol=0.02)
    np.testing.assert_allclose(size[1], 1e-3 * np.sqrt(54), rtol=0.02)


def test_without_the_retain_gradient_it_is_ascent():
    change, _ = step(optax.sgd(0.1), retain_weight=0.0)
    assert_close(change, optax.tree.scale(0.1, gradient(RAW.sets()[0])))


@pytest.mark.parametrize("norm", ["global", "per_leaf"])
def test_normalized_steps_are_rho_times_the_size_of_the_parameters(norm):
    change, _ = step(mu.edits.normalized(0.05, norm), scale_by_fraction=True)
    trees = (change, VARIABLES.params, direction())
    triples = [trees] if norm == "global" else list(zip(*map(jax.tree.leaves, trees)))
    for moved, params, g in triples:
        size, length = optax.tree.norm(params), optax.tree.norm(g)
        assert_close(moved, jax.tree.map(lambda x, s=0.05 * RHO * size / length: -s * x, g))


@pytest.mark.filterwarnings("ignore:The model has forgotten nothing")
def test_any_stateless_chain_of_optax():
    optimizer = optax.chain(optax.clip_by_global_norm(1e-3), optax.sgd(1.0, momentum=0.9))
    change, info = step(optimizer)
    np.testing.assert_allclose(info.edit.update_norm, 1e-3, rtol=1e-3)
    cosine = optax.tree.vdot(change, direction()) / optax.tree.norm(change)
    np.testing.assert_allclose(cosine, -optax.tree.norm(direction()), rtol=1e-4)


@pytest.mark.parametrize(
    ("curvature", "start", "expected"),
    [
        ("all", "mean_theta", "mean_if_reweight"),
        ("retain", "mean_theta", "mean_newton_reweight"),
        ("retain", "mean_theta", "mean_exact"),
        ("retain", "off_theta", "off_newton_reweight"),
    ],
)
def test_preconditioned_on_ridge_regression_is_the_closed_form(curvature, start, expected):
    golden = RIDGE
    with jax.enable_x64(True):
        a, lam = golden["A"], float(golden["lam_mean"])
        forget, retain = mu.split(mu.batches(a, golden["y"], batch_size=64), golden["remove_idx"])
        rows = a if curvature == "all" else np.asarray(retain.inputs)
        hessian = jnp.asarray(rows.T @ rows / len(rows) + lam * np.eye(a.shape[1]))
        solve = optax.stateless(lambda updates, params: jnp.linalg.solve(hessian, updates))

        def half_square(outputs, targets):
            return jnp.square(outputs - targets) / 2

        model = mu.from_function(lambda theta, state, x: x @ theta, half_square)
        optimizer = optax.chain(solve, optax.sgd(1.0))
        unlearn = mu.iau(model, optimizer, scale_by_fraction=True)
        after, _ = unlearn(KEY, mu.Variables(jnp.asarray(golden[start])), forget, retain)
        # The penalty is in both means and cancels in their difference.
        np.testing.assert_allclose(after.params, golden[expected], rtol=1e-10, atol=1e-10)


# --- how it is called ---


def test_the_key_is_not_used():
    unlearn = mu.iau(MODEL, optax.adam(1e-3))
    first, second = (unlearn(jax.random.key(k), VARIABLES, *RAW.sets()) for k in (0, 1))
    assert_identical(first, second)


def test_a_traced_retain_weight():
    def edit(weight):
        return mu.iau(MODEL, optax.sgd(0.1), retain_weight=weight)(KEY, VARIABLES, *RAW.sets())[0]

    found = jax.vmap(edit)(jnp.array([0.0, 1.0]))
    for i, weight in enumerate((0.0, 1.0)):
        assert_close(jax.tree.map(lambda x, i=i: x[i], found), edit(weight))


def test_bfloat16_parameters_take_small_steps():
    chosen = setting("bfloat16")
    sets = chosen.sets()
    unlearn = mu.iau(chosen.model, optax.sgd(1e-1))
    after, info = unlearn(KEY, chosen.variables, *sets)
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(jnp.bfloat16)}
    assert info.edit.changed > 0.5


def test_a_stream_under_jit_is_refused():
    pairs = [(np.ones(5, np.float32), 0), (np.zeros(5, np.float32), 1)]
    forget, retain = mu.split(mu.stream(pairs, batch_size=2), [0])
    unlearn = mu.iau(MODEL, optax.sgd(0.1))
    with pytest.raises(ValueError, match="array-backed Batches under jit") as error:
        jax.jit(lambda v: unlearn(KEY, v, forget, retain))(VARIABLES)
    assert is_one_sentence(str(error.value))


def test_a_step_that_is_too_small_says_so():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, info = mu.iau(MODEL, optax.sgd(0.0))(KEY, VARIABLES, *RAW.sets())
    assert ["Nothing was changed" in str(w.message) for w in caught] == [True]
    assert info.edit.changed == 0


# --- with curvature ---


SETS = RAW.sets()


def preconditioned(damping, sets=SETS):
    solver = mu.solvers.conjugate_gradients(iterations=6, tolerance=0)
    inverse = mu.solvers.InverseCurvature(solver, damping=damping)
    unlearn = mu.iau(MODEL, optax.sgd(1.0), scale_by_fraction=True, inverse_curvature=inverse)
    after, info = mu.watched(unlearn, False)(KEY, VARIABLES, *sets)
    return after.params, info.details


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
def test_curvature_under_vmap_over_the_damping_and_from_streams():
    dampings = jnp.array([0.3, 1.0])
    many, _ = jax.jit(jax.vmap(preconditioned))(dampings)
    for number in range(2):
        one, _ = preconditioned(float(dampings[number]))
        assert_close(jax.tree.map(lambda x, k=number: x[k], many), one)
    streamed, _ = preconditioned(0.3, RAW.streams())
    assert_close(streamed, preconditioned(0.3)[0])


def test_what_the_solver_says_is_a_message():
    _, details = jax.jit(lambda: preconditioned(0.3))()
    assert "after 6 iterations" in details.messages()[0]
