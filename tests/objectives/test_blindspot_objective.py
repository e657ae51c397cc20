"""The Blindspot loss against its two-mean form, and where rows, labels and activations vanish."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu
from mu_jax.data.axes import constrain
from mu_jax.data.forget_retain import Marked
from mu_jax.loops.gradients import micro_batches, plain, total
from mu_jax.objectives import attention_layers, attention_map, blindspot

BETA, KEY = 50.0, jax.random.key(0)
LAYERS = (("image", -1), ("sequence", 1))
FLAGS = {
    "mixed": [0, 1, 0, 0, 1, 0, 0, 0],
    "all to forget": [1] * 8,
    "all to retain": [0] * 8,
}


def absolute(outputs, targets):
    return jnp.abs(outputs - targets)


def observe(params, state, x):
    """A network with an activation of each kind."""
    hidden = jax.nn.relu(x @ params["w"] + params["b"])
    image, sequence = hidden.reshape(-1, 2, 3, 4), hidden.reshape(-1, 4, 6)
    named = {"image": image, "sequence": sequence, "flat": hidden}
    return hidden @ params["v"] - state, named


def moving(params, state, x, key):
    outputs, _ = observe(params, state, x)
    return outputs, 0.5 * state + 0.5 * outputs.mean()


MODEL = mu.from_function(lambda *args: observe(*args)[0], absolute, observe=observe)


def variables(seed, bias=0.0):
    rng = np.random.default_rng(seed)
    shapes = {"w": (3, 24), "b": (24,), "v": (24,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    return mu.Variables(jax.device_put({**params, "b": params["b"] + bias}), np.zeros(()))


def batch_of(flags, weight=None):
    rng = np.random.default_rng(5)
    weight = np.ones(8) if weight is None else np.asarray(weight, float)
    targets = Marked(rng.normal(size=8), np.asarray(flags, bool))
    return jax.device_put(mu.Batch(rng.normal(size=(8, 3)), targets, weight, np.arange(8)))


def frozen(seed=1, **changes):
    weight = jax.device_put(np.asarray(BETA))
    return {"teacher": variables(seed), "attention_weight": weight, **changes}


@functools.cache
def compiled(objective, seam):
    """The value and the gradient, one program for all batches of a shape."""

    def run(start, batch, given):
        def terms(params, batch):
            found, moved = objective(start._replace(params=params), batch, given, KEY)
            return found, moved.state

        grads, found, _ = seam(terms, start.params, batch)
        return total(found), grads

    return jax.jit(run)


def value_and_gradient(batch, *, objective=None, start=None, seam=plain, model=MODEL, **changes):
    objective = objective or blindspot(model, layers=LAYERS)
    start = variables(0) if start is None else start
    return compiled(objective, seam)(start, batch, frozen(**changes))


def two_means(params, batch):
    """The form of the reference program: means over the rows of each kind, by indexing."""
    start = mu.Variables(params, jnp.zeros(()))
    chosen = np.asarray(batch.targets.forget)
    student, seen = observe(*start, batch.inputs)
    teacher, named = observe(*variables(1), batch.inputs)

    def normalized(activation, axis):
        q = (activation**2).mean(axis).reshape(8, -1)
        return q / jnp.maximum(jnp.linalg.norm(q, axis=1, keepdims=True), 1e-12)

    value, share = 0.0, chosen.mean()
    if chosen.any():
        value += share * absolute(student, teacher)[chosen].mean()
        for name, axis in LAYERS:
            apart = normalized(seen[name], axis) - normalized(named[name], axis)
            value += share * BETA * (apart[chosen] ** 2).mean()
    if not chosen.all():
        value += (1 - share) * absolute(student, batch.targets.targets)[~chosen].mean()
    return value


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_it_equals_the_two_mean_form(flags):
    batch = batch_of(flags)
    expected = jax.jit(jax.value_and_grad(lambda p: two_means(p, batch)))(variables(0).params)
    assert_close(value_and_gradient(batch), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
def test_labels_to_forget_are_not_read(flags):
    batch = batch_of(flags)
    labels = np.where(batch.targets.forget, np.nan, batch.targets.targets)
    found = value_and_gradient(batch._replace(targets=batch.targets._replace(targets=labels)))
    assert_identical(found, value_and_gradient(batch))


def test_every_label_to_retain_counts():
    batch = batch_of(FLAGS["mixed"])
    value, _ = value_and_gradient(batch)
    for row in np.flatnonzero(~np.asarray(batch.targets.forget)):
        labels = np.asarray(batch.targets.targets) + 100.0 * (np.arange(8) == row)
        other = batch._replace(targets=batch.targets._replace(targets=labels))
        assert value_and_gradient(other)[0] > value + 5.0


def test_the_order_of_the_rows_does_not_matter():
    batch, order = batch_of(FLAGS["mixed"]), np.array([7, 2, 4, 0, 6, 1, 3, 5])
    found = value_and_gradient(jax.tree.map(lambda x: np.asarray(x)[order], batch))
    assert_close(found, value_and_gradient(batch), rtol=1e-12, atol=1e-12)


def test_a_weight_counts_a_row_that_often_and_0_not_at_all():
    weighted = batch_of(FLAGS["mixed"], [1, 2, 0, 1, 0, 3, 2, 0])
    rows = np.repeat(np.arange(8), [1, 2, 0, 1, 0, 3, 2, 0])
    copies = jax.tree.map(lambda x: np.asarray(x)[rows], batch_of(FLAGS["mixed"]))
    expected = value_and_gradient(copies)
    assert_close(value_and_gradient(weighted), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_with_unequal_numbers_of_rows_to_forget_give_the_whole(parts):
    batch = batch_of([1, 1, 1, 0, 0, 0, 0, 0])
    found = value_and_gradient(batch, seam=micro_batches(parts))
    assert_close(found, value_and_gradient(batch), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_shards_with_unequal_numbers_of_rows_to_forget_give_the_whole(kind):
    batch = batch_of([1, 1, 1, 0, 0, 0, 0, 0])
    mesh = jax.make_mesh((4,), ("data",), axis_types=(kind,), devices=jax.devices()[:4])
    everything = mu.mesh.place((variables(0), variables(1)), mesh)
    found = value_and_gradient(
        constrain(mu.mesh.place(batch, mesh), mesh, "data"),
        start=everything[0],
        teacher=everything[1],
        attention_weight=mu.mesh.place(jnp.asarray(BETA), mesh),
    )
    assert_close(found, value_and_gradient(batch), rtol=1e-12, atol=1e-12)


# --- attention maps ---


@pytest.mark.parametrize(("bias", "teacher_bias"), [(-100.0, -100.0), (-100.0, 0.0), (0.0, -100.0)])
def test_dead_rows_are_finite(bias, teacher_bias):
    dead = {"start": variables(0, bias), "teacher": variables(1, teacher_bias)}
    batch = batch_of(FLAGS["all to forget"])
    value, grads = value_and_gradient(batch, **dead)
    without, expected = value_and_gradient(batch, objective=blindspot(MODEL), **dead)
    assert np.isfinite(value) and all(np.isfinite(x).all() for x in jax.tree.leaves(grads))
    if bias:  # a dead map has no gradient; what is left is that of the outputs
        assert_identical(grads, expected)
    if bias and teacher_bias:  # dead maps are equal
        assert value == without
    else:  # 0 against a map of length 1 in each layer
        one_dead = BETA * (1 / 6 + 1 / 6)
        np.testing.assert_allclose(value - without, one_dead, rtol=1e-12)


def test_one_dead_row_among_others():
    activation = np.ones((3, 2, 4)) * np.array([1.0, 0.0, 1.0])[:, None, None]

    @jax.jit
    def map_and_gradient(activation, change):
        found, pull_back = jax.vjp(lambda a: attention_map(a, 1), activation)
        return found, pull_back(change)[0]

    found, gradient = map_and_gradient(activation, np.arange(12.0).reshape(3, 4))
    np.testing.assert_array_equal(found, np.array([[0.5] * 4, [0.0] * 4, [0.5] * 4]))
    assert np.isfinite(gradient).all() and not gradient[1].any() and gradient[0].any()


def test_a_flat_activation_has_a_map_of_ones_and_contributes_nothing():
    batch = batch_of(FLAGS["mixed"])
    flat = blindspot(MODEL, layers=(("flat", 1),))
    value, grads = value_and_gradient(batch, objective=flat)
    without, expected = value_and_gradient(batch, objective=blindspot(MODEL))
    assert_close((value, grads), (without, expected), rtol=1e-14, atol=1e-14)


def test_maps_are_in_float32_whatever_the_activations_are():
    activation = jnp.full((2, 3, 4), 300.0, jnp.float16)  # its square has no float16
    found = attention_map(activation, -1)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.full((2, 3), 3**-0.5), rtol=1e-6)


attention_of = jax.jit(lambda activation: attention_map(activation, -1))


def test_the_distance_of_two_maps_is_at_most_2_over_their_size():
    """For the blocks of AllCNN on 32 x 32 pixels that bounds the attention term by 6.1."""
    sizes = (1024, 1024, 256, 256, 256, 64, 64, 64)
    bound = 0.0
    for size in sizes:
        one, other = (7.0 * (np.arange(size) == place)[None, :, None] for place in (0, 1))
        maps = (np.asarray(attention_of(np.repeat(x, 2, -1))) for x in (one, other))
        apart = np.square(np.subtract(*maps)).mean(1)
        np.testing.assert_allclose(apart, 2 / size, rtol=1e-12)
        bound += BETA * float(apart[0])
    assert 6.0 < bound < 6.1


def test_the_default_compares_images_over_channels_and_sequences_over_time():
    inputs = batch_of(FLAGS["mixed"]).inputs
    assert attention_layers(MODEL, variables(0), inputs) == LAYERS
    assert attention_layers(MODEL, variables(0), inputs, {}) == ()
    assert attention_layers(MODEL, variables(0), inputs, {"sequence": -1}) == (("sequence", -1),)
    silent = mu.from_function(MODEL.predict, absolute)
    assert attention_layers(silent, variables(0), inputs) == ()


@pytest.mark.parametrize(
    "axes", [{"nowhere": 1}, {"image": 0}, {"image": 4}, {"turned": 1}], ids=str
)
def test_activations_that_are_not_there_are_refused(axes):
    def turned(params, state, x):
        outputs, seen = observe(params, state, x)
        return outputs, {**seen, "turned": jnp.swapaxes(seen["sequence"], 0, 1)}

    model = mu.from_function(MODEL.predict, absolute, observe=turned)
    with pytest.raises(ValueError, match="among flat, image, sequence, turned: name one") as error:
        attention_layers(model, variables(0), jnp.ones((8, 3)), axes)
    assert is_one_sentence(str(error.value))


def test_a_model_without_activations_in_the_mode_is_refused():
    silent = mu.from_function(MODEL.predict, absolute)
    half = mu.from_function(MODEL.predict, absolute, observe=observe, predict_train=moving)
    for model, axes, training in [(silent, {"image": -1}, False), (half, None, True)]:
        with pytest.raises(ValueError, match="in the mode of the student, found none") as error:
            attention_layers(model, variables(0), jnp.ones((8, 3)), axes, training_mode=training)
        assert is_one_sentence(str(error.value))


# --- modes ---


@pytest.mark.parametrize("student", [False, True])
@pytest.mark.parametrize("teacher", [False, True])
def test_the_modes_are_chosen_and_the_teacher_never_moves(student, teacher):
    model = mu.from_function(MODEL.predict, absolute, predict_train=moving)
    objective = blindspot(model, training_mode=student, teacher_in_training_mode=teacher)
    batch, start, given = batch_of(FLAGS["mixed"]), variables(0), frozen()
    _, moved = objective(start, batch, given, KEY)
    assert (float(moved.state) != 0.0) == student
    assert_identical(given, frozen())


def test_the_mode_of_the_teacher_decides_what_it_says():
    def doubled(params, state, x, key):
        return 2 * observe(params, state, x)[0], state

    model = mu.from_function(MODEL.predict, absolute, predict_train=doubled)
    batch = batch_of(FLAGS["all to forget"])
    given = frozen(teacher=variables(0))
    for training, expected in [(False, 0.0), (True, jnp.abs(observe(*variables(0), batch[0])[0]))]:
        objective = blindspot(model, teacher_in_training_mode=training)
        terms, _ = objective(variables(0), batch, given, KEY)
        np.testing.assert_allclose(terms["forget"].sum, jnp.sum(expected), rtol=1e-12)


# --- the distance to the teacher ---


def linear(loss):
    return mu.from_function(lambda w, state, x: x @ w, loss)


def test_outputs_with_an_axis_more_than_the_labels_are_compared_row_by_row():
    def first_output(outputs, targets):
        return jnp.abs(outputs[:, 0] - targets)

    batch, w, v = batch_of(FLAGS["mixed"]), jnp.ones((3, 1)), jnp.full((3, 1), 2.0)
    found, _ = blindspot(linear(first_output))(
        mu.Variables(w), batch, {"teacher": mu.Variables(v)}, KEY
    )
    forget = np.asarray(batch.targets.forget)
    expected = np.abs(batch.inputs.sum(1))[forget].sum()
    np.testing.assert_allclose(found["forget"].sum, expected, rtol=1e-12)


def test_classes_follow_the_softmax_of_the_teacher():
    batch = batch_of(FLAGS["mixed"])
    classes = jnp.array([0, -99, 2, 1, 10**6, 0, 1, 2])  # labels to forget are junk
    batch = batch._replace(targets=batch.targets._replace(targets=classes))
    student, teacher = (jax.random.normal(jax.random.key(i), (3, 3)) for i in (0, 1))
    model = linear(optax.softmax_cross_entropy_with_integer_labels)

    def value(w):
        found, _ = blindspot(model)(mu.Variables(w), batch, {"teacher": mu.Variables(teacher)}, KEY)
        return total(found)

    def by_hand(w):
        logits, wanted = batch.inputs @ w, jax.nn.softmax(batch.inputs @ teacher)
        scores = jax.nn.log_softmax(logits)
        divergence = (wanted * (jnp.log(wanted) - scores)).sum(1)
        retained = -jnp.take_along_axis(scores, classes[:, None] % 3, 1)[:, 0]
        return jnp.where(batch.targets.forget, divergence, retained).mean()

    found, expected = (jax.jit(jax.value_and_grad(f))(student) for f in (value, by_hand))
    assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_given_distance_takes_the_place_of_the_loss():
    def pinball(outputs, targets):  # three quantiles of one target
        error = targets[:, None] - outputs
        quantiles = jnp.array([0.1, 0.5, 0.9])
        return jnp.maximum(quantiles * error, (quantiles - 1) * error).sum(1)

    def squared(outputs, wanted):
        return jnp.square(outputs - wanted).sum(1)

    batch, w, v = batch_of(FLAGS["mixed"]), jnp.ones((3, 3)), jnp.zeros((3, 3))
    given = {"teacher": mu.Variables(v)}
    objective = blindspot(linear(pinball), distance=squared)
    found, _ = objective(mu.Variables(w), batch, given, KEY)
    expected = 3 * jnp.square(batch.inputs.sum(1))[batch.targets.forget].sum()
    np.testing.assert_allclose(found["forget"].sum, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="found float labels of another size") as error:
        blindspot(linear(pinball))(mu.Variables(w), batch, given, KEY)
    assert is_one_sentence(str(error.value))
    with pytest.raises(ValueError, match="one loss per example"):
        blindspot(linear(pinball), distance=lambda f, g: (f - g).sum())(
            mu.Variables(w), batch, given, KEY
        )
