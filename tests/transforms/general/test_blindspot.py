"""Blindspot: one step by hand, what the teacher sees, every framework, grids, meshes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import AxisType
from small_models import EXAMPLES, FORGET_IDS, setting
from trees import assert_close, assert_identical, stack

import mu_jax as mu
from mu_jax.losses import squared_error

KEY, SGD = jax.random.key(0), optax.sgd(0.05)
SPLIT = [1, 4, 5, 9, 13]  # 5 of 22: ragged with batches of 4


class Sowing(nnx.Module):
    """A network with an activation [B, T, H] and batch normalization."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.hidden(x)))
        self.sow(nnx.Intermediate, "states", x)
        return self.head(x.mean(1))[:, 0]


class LinenSowing(nn.Module):
    """The same in linen."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Dense(4, name="hidden")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        x = nn.relu(x)
        self.sow("intermediates", "states", x)
        return nn.Dense(1, name="head")(x.mean(1))[:, 0]


@functools.cache  # so that all tests share its programs
def regression(name, batch_size=4):
    """Model, initializer and sets of a small regression."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(EXAMPLES, 5, 3)).astype(np.float32)
    data = mu.batches(inputs, inputs.sum((1, 2)) + 3, batch_size=batch_size)
    if name == "linen":
        module = LinenSowing()
        model = mu.from_linen(module, squared_error)
        return model, jax.jit(lambda key: module.init(key, inputs[:1])), mu.split(data, SPLIT)
    model = mu.from_nnx(Sowing(nnx.Rngs(0)), squared_error)
    return model, lambda key: nnx.state(Sowing(nnx.Rngs(key))), mu.split(data, SPLIT)


def of(name, *, batch_size=4, optimizer=SGD, epochs=2, **recipe):
    model, init, sets = regression(name, batch_size)
    unlearn = mu.blindspot(
        model,
        init=init,
        optimizer=optimizer,
        teacher_optimizer=SGD,
        epochs=epochs,
        recipe=mu.BlindspotRecipe(**recipe),
    )
    return unlearn, (KEY, init(jax.random.key(7)), *sets)


# --- what is fitted to what ---


@pytest.mark.quick("nnx")
@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_one_step_by_hand(name):
    unlearn, given = of(name, batch_size=100, optimizer=optax.sgd(0.1), epochs=1)
    _, start, forget, retain = given
    model, init, _ = regression(name)
    after, info = unlearn(*given)

    teacher, fitted = mu.fit(
        model,
        mu.supervised(model, training_mode=True),
        SGD,
        init(jax.random.fold_in(KEY, 0)),
        retain,
        key=jax.random.fold_in(KEY, 1),
        epochs=2,
    )
    assert_identical(info.details.teacher, fitted)

    def normalized(activation):
        q = jnp.square(activation).mean(1)
        return q / jnp.linalg.norm(q, axis=1, keepdims=True)

    def loss(params):
        variables = model.with_params(start, params)
        outputs, seen = model.observe(*model.split(variables), forget.inputs)
        wanted, named = model.observe(*model.split(teacher.variables), forget.inputs)
        apart = jnp.square(normalized(seen["states"]) - normalized(named["states"])).mean(1)
        retained = model.losses(variables, retain).sum()
        return (retained + (jnp.square(outputs - wanted) + 50.0 * apart).sum()) / EXAMPLES

    before = model.params(start)
    value, gradient = jax.jit(jax.value_and_grad(loss))(before)
    expected = optax.apply_updates(before, optax.tree.scale(-0.1, gradient))
    assert_close(model.params(after), expected, rtol=1e-5)
    assert_close(info.details.student.loss, value[None])
    assert (info.steps, info.details.layers) == (1, 1)
    assert info.example_passes == 2 * retain.num_examples + EXAMPLES


@pytest.mark.quick("nnx")
@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_labels_to_forget_change_nothing(name):
    unlearn, (key, start, forget, retain) = of(name)
    unknown = forget.replace(targets=np.float32(np.nan) * np.asarray(forget.targets))
    expected = unlearn(key, start, forget, retain)
    assert_identical(unlearn(key, start, unknown, retain), expected)


def test_the_teacher_sees_the_retain_set_alone():
    unlearn, (key, start, forget, retain) = of("linen")
    other = forget.replace(inputs=np.asarray(forget.inputs) + 1)
    found, expected = (unlearn(key, start, x, retain)[1].details for x in (other, forget))
    assert_identical(found.teacher, expected.teacher)
    assert np.any(np.asarray(found.student.loss) != np.asarray(expected.student.loss))


def test_the_student_follows_the_teacher_where_it_forgets():
    """Both fits to their end: the retain set as labeled, the forget set as the teacher has it."""
    model = mu.from_function(lambda w, state, x: x @ w, squared_error)
    data = mu.batches(jnp.eye(4), jnp.arange(1.0, 5.0), batch_size=4)
    init = lambda key: mu.Variables(jax.random.normal(key, (4,)))  # noqa: E731
    unlearn = mu.blindspot(
        model, init=init, optimizer=optax.sgd(0.5), teacher_optimizer=optax.sgd(0.5), epochs=100
    )
    start = mu.Variables(jnp.arange(1.0, 5.0))
    after, _ = unlearn(KEY, start, *mu.split(data, [0, 3]))
    fresh = init(jax.random.fold_in(KEY, 0)).params
    np.testing.assert_allclose(after.params, jnp.array([fresh[0], 2.0, 3.0, fresh[3]]), rtol=1e-5)


def test_without_a_step_size_the_start_comes_back():
    unlearn, given = of("linen", optimizer=optax.sgd(0.0))
    with pytest.warns(mu.UnlearningWarning, match="Nothing was changed"):
        after, _ = unlearn(*given)
    assert_identical(after, given[1])


@pytest.mark.slow
def test_numbers_of_steps_take_the_place_of_epochs():
    unlearn, given = of("linen", steps=7, teacher_steps=3, batch_size=8)
    _, info = unlearn(*given)
    assert info.steps == 7 and info.details.teacher.loss.shape == (3,)
    assert info.details.student.examples.tolist() == [8, 8, 6, 8, 8, 6, 8]


# --- activations, modes and statistics ---


def test_activations_are_chosen_by_name_and_axis():
    found = {}
    for axes in (None, {"states": 1}, {"states": -1}, {}):
        unlearn, given = of("linen", activations=axes)
        after, info = unlearn(*given)
        found[str(axes)] = after
        assert info.details.layers == (axes != {})
    assert_identical(found["None"], found["{'states': 1}"])
    kernels = [x["params"]["hidden"]["kernel"] for x in found.values()]
    assert len({float(k.sum()) for k in kernels}) == 3
    without, _ = of("linen", attention_weight=0.0)[0](*given)
    assert_identical(without, found["{}"])
    unlearn, given = of("linen", activations={"nowhere": 1})
    with pytest.raises(ValueError, match="found 'nowhere' of shape None among states"):
        unlearn(*given)


@pytest.mark.slow
def test_a_grid_of_attention_weights_is_one_program():
    model, init, sets = regression("linen")
    traces = []

    @jax.jit
    @jax.vmap
    def grid(weight):
        traces.append(weight)
        recipe = mu.BlindspotRecipe(attention_weight=weight)
        unlearn = mu.blindspot(model, init=init, optimizer=SGD, recipe=recipe)
        return unlearn(KEY, init(jax.random.key(7)), *sets)[0]

    weights = [0.0, 50.0, 500.0]
    found = grid(jnp.array(weights))
    assert len(traces) == 1
    one = [
        mu.blindspot(
            model, init=init, optimizer=SGD, recipe=mu.BlindspotRecipe(attention_weight=weight)
        )(KEY, init(jax.random.key(7)), *sets)[0]
        for weight in weights
    ]
    assert_close(found, stack(one), rtol=1e-4)
    assert len(np.unique(np.asarray(found["params"]["head"]["bias"]))) == 3


@pytest.mark.slow
def test_many_keys_are_one_program():
    unlearn, (_, *given) = of("nnx")
    keys = jax.random.split(KEY, 3)
    found = jax.jit(jax.vmap(unlearn, in_axes=(0, None, None, None)))(keys, *given)
    # The teachers differ, and only the forget set sees them.
    assert_close(found, stack([unlearn(key, *given) for key in keys]), rtol=1e-4)
    assert len(np.unique(np.asarray(found[1].details.teacher.loss[:, 0]))) == 3


@pytest.mark.quick("linen")
@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_statistics_move_where_they_are_asked_to(name):
    moved = {}
    for recipe in ({}, {"training_mode": True}, {"refresh_epochs": 2}):
        unlearn, given = of(name, **recipe)
        after, info = unlearn(*given)
        model = unlearn.model
        moved[str(recipe)] = model.split(after)
        before, found = (jax.tree.leaves(model.split(x)[1]) for x in (given[1], after))
        assert all(map(np.array_equal, before, found)) == (not recipe)
        assert info.details.layers == 1
    plain, trained, refreshed = moved.values()
    assert_identical(plain[0], refreshed[0])  # a refresh moves statistics alone
    assert not np.array_equal(*(jax.tree.leaves(x[0])[0] for x in (plain, trained)))


def test_a_refresh_reads_the_retain_set():
    unlearn, given = of("linen", refresh_epochs=1)
    plain, _ = of("linen")
    expected = mu.refresh_statistics(
        unlearn.model, plain(*given)[0], given[3], key=jax.random.fold_in(KEY, 3)
    )
    assert_identical(unlearn(*given)[0], expected)


# --- where the examples come from and where they lie ---


def of_images():
    chosen = setting("cnn")
    recipe = mu.BlindspotRecipe(distance=squared_error)
    unlearn = mu.blindspot(
        chosen.model, init=chosen.init, optimizer=SGD, teacher_optimizer=SGD, recipe=recipe
    )
    assert len(FORGET_IDS) % 4
    return unlearn, (KEY, chosen.variables, *chosen.sets(batch_size=8))


def of_sequences():
    assert len(SPLIT) % 4
    return of("linen", batch_size=8)


@pytest.mark.slow
@pytest.mark.parametrize("make", [of_sequences, of_images])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_unequal_numbers_of_forgotten_rows_on_each_device(kind, make):
    unlearn, (key, start, *sets) = make()
    unlearn = jax.jit(unlearn)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,), devices=jax.devices()[:4])
    expected, info = unlearn(key, start, *sets)
    assert info.details.layers == 1
    found, _ = unlearn(key, start, *(mu.shard(x, mesh) for x in sets))
    assert_close(found, expected, rtol=1e-4, atol=2e-6)


def test_streams_are_read_batch_by_batch():
    unlearn, (key, start, forget, retain) = of("linen")
    everything = mu.concatenate(retain, forget)
    pairs = list(zip(np.asarray(everything.inputs), np.asarray(everything.targets), strict=True))
    streams = [
        mu.stream(pairs, batch_size=4, index=np.asarray(everything.index)).take(rows)
        for rows in (np.arange(17, 22), np.arange(17))
    ]
    found, info = unlearn(key, start, *streams)
    expected, _ = unlearn(key, start, forget, retain)
    assert_close(found, expected)
    assert info.details.layers == 1 and info.overlap == 0
