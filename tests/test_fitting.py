"""The one optimisation loop, continued anywhere, and its gradient seams."""

from __future__ import annotations

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax.fitting import FitInfo, Term, micro_batches, per_term, plain, sam, total
from mu_jax.losses import weighted_sum

N, KEY, ADAM = 11, jax.random.key(4), optax.adam(0.05)


def squared(outputs, targets):
    return jnp.square(outputs - targets)


MODEL = mu.from_function(lambda w, state, x: jnp.tanh(x @ w["w"]) @ w["v"], squared)
OBJECTIVE = mu.supervised(MODEL)


def start(dtype=jnp.float32):
    return mu.Variables(
        {"w": jnp.asarray(np.linspace(-1, 1, 6).reshape(3, 2), dtype), "v": jnp.ones(2, dtype)}
    )


def data(batch_size=4, dtype=jnp.float32, weight=None):
    inputs = jax.random.normal(jax.random.key(0), (N, 3), dtype)
    return mu.batches(inputs, jnp.sin(inputs.sum(1)), batch_size=batch_size, weight=weight)


def pairs(batches):
    rows = zip(np.asarray(batches.inputs), np.asarray(batches.targets), strict=True)
    return mu.stream(list(rows), batch_size=batches.batch_size)


def run(batches=None, objective=OBJECTIVE, optimizer=ADAM, **arguments):
    batches = data() if batches is None else batches
    arguments = {"key": KEY, **arguments}
    return mu.fit(MODEL, objective, optimizer, start(), batches, **arguments)


def mean_loss(params, x, y, weight):
    losses = squared(MODEL.predict(params, (), x), y)
    return jnp.sum(weight * losses) / jnp.sum(weight)


def by_hand(batches, steps, optimizer=ADAM, shuffle=True, gradient=None):
    """The loop written out: rows without padding, optax applied by hand."""
    params = start().params
    opt_state, losses = optimizer.init(params), []
    gradient = gradient or jax.value_and_grad(mean_loss)
    per_epoch = -(-N // batches.batch_size)
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        order = jax.random.permutation(jax.random.fold_in(KEY, epoch), N)
        order = order if shuffle else jnp.arange(N)
        rows = order[place * batches.batch_size : (place + 1) * batches.batch_size]
        batch = batches.inputs[rows], batches.targets[rows], batches.weight[rows]
        loss, grads = gradient(params, *batch)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses.append(loss)
    return params, losses


def close(first, second, rtol=2e-5, atol=1e-6):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), first, second)


def as_data(tree):
    def data(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return jax.tree.map(data, tree)


def assert_same(first, second):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    jax.tree.map(np.testing.assert_array_equal, as_data(first), as_data(second))


@contextlib.contextmanager
def counted_compilations():
    compilations = []

    def listen(event, duration, **_):
        del duration
        if event.endswith("backend_compile_duration"):
            compilations.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compilations
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


# --- the loop ---


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("make", [lambda b: b, pairs], ids=["arrays", "stream"])
def test_it_is_the_loop_written_out(make, shuffle):
    batches = data(weight=jnp.linspace(0.5, 2, N))
    if make is pairs:
        batches = data()
    state, info = run(make(batches), epochs=2, shuffle=shuffle)
    params, losses = by_hand(batches, 6, shuffle=shuffle)
    close(state.variables.params, params)
    np.testing.assert_allclose(info.loss, losses, rtol=2e-5)
    assert int(state.step) == 6 and info.loss.shape == (6,)
    np.testing.assert_allclose(info.examples.sum(), 2 * batches.weight.sum(), rtol=1e-6)


def test_info_holds_the_norm_of_each_gradient():
    _, info = run(epochs=1, optimizer=optax.sgd(0.0), shuffle=False)
    for step in range(3):
        batch = data().at(step)
        grads = jax.grad(mean_loss)(start().params, batch.inputs, batch.targets, batch.weight)
        np.testing.assert_allclose(info.gradient_norm[step], optax.tree.norm(grads), rtol=1e-5)
        assert info.examples[step] == batch.weight.sum()


def test_a_list_of_batches_is_walked_in_its_own_order():
    state, _ = run(list(data()), epochs=2)
    close(state.variables.params, by_hand(data(), 6, shuffle=False)[0])


def test_jit_and_eager_agree():
    eager = run(epochs=2)
    jitted = jax.jit(lambda batches, key: run(batches, key=key, epochs=2))(data(), KEY)
    close(as_data(eager), as_data(jitted))


def test_an_ensemble_is_fitted_as_one_program():
    keys = jax.random.split(KEY, 3)
    states, infos = jax.vmap(lambda key: run(key=key, epochs=2))(keys)
    assert infos.loss.shape == (3, 6)
    for number, key in enumerate(keys):
        one, _ = run(key=key, epochs=2)
        close(jax.tree.map(lambda x, n=number: x[n], states.variables), one.variables, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_steps_instead_of_epochs(steps):
    state, info = run(steps=steps)
    assert int(state.step) == steps and info.loss.shape == (steps,)
    close(state.variables.params, by_hand(data(), steps)[0])


def test_no_step_leaves_everything_as_it_was():
    state, info = run(steps=0)
    assert_same(state.variables, start())
    assert info.loss.shape == (0,) and info.messages() == []


def test_another_batch_size():
    state, info = run(batch_size=6)
    close(state.variables.params, by_hand(data(6), 2)[0])
    assert info.loss.shape == (2,)


def test_an_iterable_without_a_length_needs_steps():
    with pytest.raises(ValueError, match=r"known number, found an iterable .*: give steps"):
        run(batch for batch in data())
    state, _ = run((batch for batch in data()), steps=2)
    close(state.variables.params, by_hand(data(), 2, shuffle=False)[0])
    with pytest.raises(ValueError, match="expected 4 batches, found 3"):
        run((batch for batch in data()), steps=4)


# --- continuing ---


@pytest.mark.parametrize("cut", [1, 3, 5])
@pytest.mark.parametrize("make", [lambda b: b, pairs, list], ids=["arrays", "stream", "list"])
def test_a_fit_continued_from_its_state_is_bit_identical(make, cut):
    batches = make(data())
    whole, _ = run(batches, epochs=3)
    first, _ = run(batches, steps=cut)
    unused = jax.random.key(99)
    second, info = mu.fit(
        MODEL, OBJECTIVE, ADAM, start(), batches, key=unused, epochs=3, state=first
    )
    assert_same(second, whole)
    assert info.loss[cut:].all() and not info.loss[:cut].any()


def test_a_fit_is_continued_under_jit_too():
    whole, _ = run(epochs=3)
    first, _ = run(steps=4)
    second, _ = jax.jit(lambda state: run(epochs=3, state=state))(first)
    close(as_data(second), as_data(whole))


def test_randomness_within_steps_does_not_depend_on_where_a_fit_was_cut():
    def noisy(variables, batch, frozen, key):
        noise = jax.random.normal(key, batch.targets.shape)
        losses = squared(MODEL.apply(variables, batch.inputs), batch.targets + noise)
        return {"loss": Term(weighted_sum(losses, batch.weight), batch.weight.sum())}, variables

    whole, _ = run(objective=noisy, epochs=2, shuffle=False)
    first, _ = run(objective=noisy, steps=4, shuffle=False)
    second, _ = run(objective=noisy, epochs=2, shuffle=False, state=first)
    assert_same(second, whole)
    _, still = run(objective=noisy, optimizer=optax.sgd(0.0), epochs=2, shuffle=False)
    assert still.loss[0] != still.loss[3]
    other, _ = run(objective=noisy, epochs=2, shuffle=False, key=jax.random.key(1))
    assert not np.array_equal(other.variables.params["w"], whole.variables.params["w"])


def test_the_callers_arrays_survive():
    variables, batches = start(), data()
    state, _ = mu.fit(MODEL, OBJECTIVE, ADAM, variables, batches, key=KEY)
    again, _ = mu.fit(MODEL, OBJECTIVE, ADAM, variables, batches, key=KEY)
    assert_same(state, again)
    kept = jax.tree.map(np.array, as_data(state))
    mu.fit(MODEL, OBJECTIVE, ADAM, variables, batches, key=KEY, state=state, epochs=2)
    assert_same(state, state._replace(variables=kept.variables, opt_state=kept.opt_state))


# --- compilation ---


def distil(variables, batch, frozen, key):
    """Towards the outputs of a teacher."""
    del key
    wanted = MODEL.apply(frozen["teacher"], batch.inputs)
    losses = squared(MODEL.apply(variables, batch.inputs), wanted)
    return {"distil": Term(weighted_sum(losses, batch.weight), batch.weight.sum())}, variables


@pytest.mark.parametrize("make", [lambda b: b, list], ids=["arrays", "list"])
def test_three_teachers_are_one_trace(make):
    traces = []

    def objective(*arguments):
        traces.append(None)
        return distil(*arguments)

    batches, found = make(data(11)), []
    teachers = [jax.tree.map(lambda x, k=k: k * x, start()) for k in (1.0, 2.0, 3.0)]
    for teacher in teachers:
        _, info = run(batches, objective, frozen={"teacher": teacher})
        found.append(float(info.loss[0]))
    assert len(traces) == 1
    assert found[0] == 0 and 0 < found[1] < found[2]


def test_the_second_fit_compiles_nothing():
    run(epochs=2)
    key, batches, variables = jax.random.key(17), data(), start()
    with counted_compilations() as compilations:
        mu.fit(MODEL, OBJECTIVE, ADAM, variables, batches, key=key, epochs=2)
    assert compilations == []


def test_supervised_is_one_object_per_model():
    assert mu.supervised(MODEL) is OBJECTIVE
    assert sam(0.1) is sam(0.1) and micro_batches(2) is micro_batches(2)


# --- gradient seams ---


def two_terms(variables, batch, frozen, key):
    del frozen, key
    losses = squared(MODEL.apply(variables, batch.inputs), batch.targets)
    norm = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(variables.params))
    found = {
        "loss": Term(weighted_sum(losses, batch.weight), batch.weight.sum()),
        "norm": Term(norm, jnp.ones(()), 0.1),
    }
    return found, variables


def add_up(gradients):
    return jax.tree.map(lambda *leaves: sum(leaves), *gradients.values())


def project(gradients):
    """The gradient of the loss without its part along that of the norm."""
    g, n = gradients["loss"], gradients["norm"]
    return optax.tree.add_scale(g, -optax.tree.vdot(g, n) / optax.tree.vdot(n, n), n)


def test_total_is_the_sum_of_scaled_means_and_an_empty_term_counts_nothing():
    terms = {
        "a": Term(jnp.float32(6), jnp.float32(4)),
        "b": Term(jnp.float32(3), jnp.float32(2), -2.0),
        "empty": Term(jnp.float32(0), jnp.float32(0)),
    }
    assert total(terms) == 1.5 - 3.0


def test_plain_is_the_gradient_of_the_mean():
    batch = data().at(2)

    def terms(params, batch):
        return OBJECTIVE(mu.Variables(params), batch, {}, KEY)

    grads, found, moved = plain(terms, start().params, batch)
    rows = slice(8, 11)
    expected = jax.grad(mean_loss)(
        start().params, data().inputs[rows], data().targets[rows], jnp.ones(3)
    )
    close(grads, expected)
    assert found["loss"].weight == 3
    assert_same(moved, start())


def test_sam_is_the_gradient_at_the_perturbed_parameters():
    rho, take = 0.3, jax.value_and_grad(mean_loss)

    def gradient(params, *batch):
        loss, grads = take(params, *batch)
        length = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(grads)))
        moved = jax.tree.map(lambda p, g: p + rho * g / length, params, grads)
        return loss, take(moved, *batch)[1]

    state, info = run(epochs=2, gradients=sam(rho))
    params, losses = by_hand(data(), 6, gradient=gradient)
    close(state.variables.params, params, rtol=1e-4)
    np.testing.assert_allclose(info.loss, losses, rtol=1e-4)
    close(run(gradients=sam(0.0))[0].variables, run()[0].variables)


def test_one_gradient_per_term_added_up_is_plain():
    expected, info = run(objective=two_terms, epochs=2)
    found, per_term_info = run(objective=two_terms, epochs=2, gradients=per_term(add_up))
    close(found.variables, expected.variables)
    close(per_term_info, info)


def test_one_gradient_per_term_may_be_projected():
    batch = data().at(0)
    norm = jax.grad(lambda p: 0.1 * sum(jnp.sum(x * x) for x in jax.tree.leaves(p)))(start().params)
    loss = jax.grad(mean_loss)(start().params, batch.inputs, batch.targets, batch.weight)

    def terms(params, batch):
        return two_terms(mu.Variables(params), batch, {}, KEY)

    seen = []
    grads, _, _ = per_term(lambda g: seen.append(g) or project(g))(terms, start().params, batch)
    close(seen[0], {"loss": loss, "norm": norm})
    close(grads, project({"loss": loss, "norm": norm}))
    assert abs(optax.tree.vdot(grads, norm)) < 1e-6


@pytest.mark.parametrize("number", [1, 2, 4])
def test_micro_batches_are_plain(number):
    expected, info = run(objective=two_terms, epochs=2)
    found, found_info = run(objective=two_terms, epochs=2, gradients=micro_batches(number))
    close(found.variables, expected.variables, rtol=1e-5)
    close(found_info, info, rtol=1e-5)


def test_micro_batches_are_plain_to_rounding_in_float64():
    with jax.enable_x64(True):
        batches = data(8, jnp.float64, weight=jnp.linspace(0.1, 2, N))

        def terms(params, batch):
            return two_terms(mu.Variables(params), batch, {}, KEY)

        params = start(jnp.float64).params
        for batch in batches:
            expected, found, _ = jax.jit(lambda p, b: plain(terms, p, b))(params, batch)
            grads, parts, _ = jax.jit(lambda p, b: micro_batches(4)(terms, p, b))(params, batch)
            close(grads, expected, rtol=1e-12, atol=1e-14)
            np.testing.assert_allclose(total(parts), total(found), rtol=1e-12)


def test_micro_batches_refuse_parts_of_unequal_size():
    with pytest.raises(ValueError, match="divides into 3 parts, found one of 4 rows"):
        run(gradients=micro_batches(3))


class Normalised(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        return nn.Dense(1)(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))[:, 0]


def test_micro_batches_move_statistics_by_the_last_part():
    module = Normalised()
    variables = module.init(jax.random.key(0), jnp.ones((2, 3)))
    model = mu.from_linen(module, squared)
    objective = mu.supervised(model, training_mode=True)
    batches = data(4).take(np.arange(4))
    state, _ = mu.fit(
        model,
        objective,
        ADAM,
        variables,
        batches,
        key=KEY,
        shuffle=False,
        gradients=micro_batches(2),
    )
    mean = state.variables["batch_stats"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.5 * batches.inputs[2:].mean(0), rtol=1e-5)


# --- optimizers ---


def test_the_value_reaches_an_optimizer_that_wants_it():
    params = start().params
    batch = (data().inputs, data().targets, jnp.ones(N))
    loss, grads = jax.value_and_grad(mean_loss)(params, *batch)
    rate = loss / sum(jnp.sum(g * g) for g in jax.tree.leaves(grads))
    expected = jax.tree.map(lambda p, g: p - rate * g, params, grads)
    polyak = optax.polyak_sgd(max_learning_rate=1e3)
    state, _ = run(data(N), optimizer=polyak, shuffle=False)
    close(state.variables.params, expected, rtol=1e-4)


def test_schedules_count_the_steps_of_a_continued_fit():
    optimizer = optax.sgd(optax.piecewise_constant_schedule(0.1, {4: 0.0}))
    first, _ = run(optimizer=optimizer, steps=4)
    second, _ = run(optimizer=optimizer, epochs=2, state=first)
    assert_same(second.variables, first.variables)
    assert int(second.step) == 6


# --- what it says ---


def test_a_divergence_is_reported_with_its_step():
    _, info = run(optimizer=optax.sgd(1e30), epochs=2)
    step = int(np.argmin(np.isfinite(info.loss) & np.isfinite(info.gradient_norm)))
    assert step > 0
    assert info.messages() == [f"The fit diverged at step {step}: lower the learning rate."]


def test_a_sound_fit_says_nothing():
    assert run()[1].messages() == []


@pytest.mark.parametrize("field", ["loss", "gradient_norm"])
def test_messages_name_the_first_bad_step_of_an_ensemble(field):
    good = np.ones((3, 5), np.float32)
    bad = good.copy()
    bad[1, 3] = np.nan
    info = FitInfo(good, good, good)._replace(**{field: bad})
    assert info.messages() == ["The fit diverged at step 3: lower the learning rate."]
