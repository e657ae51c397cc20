"""SCRUB: its two phases by hand, its distance, and going back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence, stack

import mu_jax as mu
from mu_jax.transforms.general.scrub import divergence

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(0)
DECAYED = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.3, momentum=0.9))


def by_hand(f, g, temperature):
    """`T^2 KL`, in NumPy."""
    p, q = (np.exp(x / temperature) for x in (np.float64(g), np.float64(f)))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return temperature**2 * (p * np.log(p / q)).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_distance(temperature):
    f, g = np.random.default_rng(0).normal(size=(2, 5, 3)) * 3
    np.testing.assert_allclose(divergence(f, g, temperature), by_hand(f, g, temperature), rtol=2e-5)
    assert_close(divergence(f, f, temperature), jnp.zeros(5))


def test_a_class_that_the_teacher_excludes_counts_nothing():
    f, g = (jnp.asarray(x, jnp.float32) for x in np.random.default_rng(0).normal(size=(2, 5, 3)))
    minus = jnp.full((5, 1), -jnp.inf)

    def total(f, *more):
        return divergence(jnp.hstack([f, *more]), jnp.hstack([g, *more])).sum()

    slope = jax.jit(jax.value_and_grad(total))
    assert_close(slope(f, minus), slope(f))


def test_one_epoch_by_hand():
    """On a student that has moved from its teacher already: the second epoch."""
    chosen = setting("raw")
    forget, retain = chosen.sets(batch_size=100)
    options = {"temperature": 3.0, "gamma": 0.7, "alpha": 0.2}
    model, rate = chosen.model, 0.1

    def distance(params, part):
        f, g = (model.apply(v, part.inputs) for v in (mu.Variables(params, 0.25), chosen.variables))
        f, g = (jax.nn.log_softmax(x / 3.0) for x in (f, g))
        return 9.0 * jnp.mean(jnp.sum(jnp.exp(g) * (g - f), -1))

    def back(params):
        losses = model.loss(model.apply(mu.Variables(params, 0.25), retain.inputs), retain.targets)
        return 0.7 * losses.mean() + 0.2 * distance(params, retain)

    def step(params, objective):
        return optax.tree.add_scale(params, -rate, jax.grad(objective)(params))

    there = jax.jit(lambda params: step(params, lambda p: -distance(p, forget)))
    and_back = jax.jit(lambda params: step(params, back))
    params = chosen.variables.params
    for _ in range(2):
        params = and_back(there(params))
    params = and_back(params)
    unlearn = mu.scrub(model, optax.sgd(rate), epochs=3, max_epochs=2, **options)
    after, info = unlearn(KEY, chosen.variables, forget, retain)
    assert_close(after.params, params, rtol=1e-4)
    assert info.details.forget.loss.shape == (2,) and info.details.retain.loss.shape == (3,)
    assert (info.steps, info.example_passes) == (5, 2 * 6 + 3 * 16)
    assert info.details.chosen == 3


def test_the_forget_set_is_classified_worse_and_the_retain_set_as_before():
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
    data = mu.batches(jnp.eye(4), jnp.arange(4), batch_size=4)
    forget, retain = mu.split(data, [3])
    start = mu.Variables(4 * jnp.eye(4))
    after, _ = mu.scrub(model, DECAYED, epochs=12, max_epochs=12)(KEY, start, forget, retain)
    losses = np.asarray(model.losses(after, data.at(0)))
    assert losses[3] > 1.3 > 0.6 > losses[:3].max()


def validation(chosen):
    return chosen.data(seed=1).take(np.arange(9))


def errors_of(model, variables, part):
    wrong = jnp.argmax(model.apply(variables, part.inputs), -1) != part.targets
    return float(wrong.mean())


@pytest.mark.slow
@pytest.mark.quick("jit")
@pytest.mark.parametrize("call", ["eager", "jit"])
def test_rewinding_returns_the_model_after_the_chosen_epoch(call):
    chosen = setting("raw")
    sets, examples = chosen.sets(), validation(chosen)
    options = {"epochs": 6, "max_epochs": 6}
    transform = mu.scrub(chosen.model, DECAYED, rewind=examples, **options)
    run = jax.jit(transform) if call == "jit" else transform
    after, info = run(KEY, chosen.variables, *sets)
    found = info.details

    models = [chosen.variables]
    for epochs in range(1, 7):
        shorter = mu.scrub(chosen.model, DECAYED, epochs=epochs, max_epochs=6)
        models.append(shorter(KEY, chosen.variables, *sets)[0])
    errors = [errors_of(chosen.model, model, sets[0]) for model in models]
    target = errors_of(chosen.model, models[-1], examples)
    np.testing.assert_allclose(found.forget_errors, errors, rtol=1e-6)
    np.testing.assert_allclose(found.validation_error, target, rtol=1e-6)
    index = max(1, int(np.argmin(np.abs(np.asarray(errors) - target))))
    assert found.chosen == index < 6  # or nothing is shown
    assert_close(after, models[index])


@pytest.mark.slow
def test_rewinding_of_an_ensemble_and_on_explicit_axes():
    chosen = setting("raw")
    sets, examples = chosen.sets(batch_size=8), validation(chosen).replace(batch_size=8)
    members = [chosen.init(jax.random.key(seed)) for seed in range(3)]
    options = {"epochs": 4, "max_epochs": 4}
    transform = mu.scrub(chosen.model, DECAYED, rewind=examples, **options)
    expected = [transform(KEY, member, *sets) for member in members]
    many = jax.vmap(transform, in_axes=(None, 0, None, None))(KEY, stack(members), *sets)
    assert_close(many, stack(expected), rtol=1e-4)

    devices, kinds = jax.devices()[:4], (AxisType.Explicit,) * 2
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=kinds, devices=devices)
    divided = mu.shard_params(members[0], mesh, smallest=1)
    transform = mu.scrub(chosen.model, DECAYED, rewind=mu.shard(examples, mesh), **options)
    sets = [mu.shard(part, mesh) for part in sets]
    for run in (transform, jax.jit(transform)):
        after, info = run(KEY, divided, *sets)
        assert_close((after, info), expected[0], rtol=1e-4)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(divided), strict=True):
            assert a.sharding.is_equivalent_to(b.sharding, b.ndim)


@pytest.mark.slow
def test_rewinding_on_streams_and_after_a_stop(tmp_path):
    chosen = setting("raw")
    data, examples = chosen.data(), validation(chosen)
    pairs = list(zip(np.asarray(data.inputs), np.asarray(data.targets)))
    streams = mu.split(mu.stream(pairs, batch_size=4), [1, 4, 5, 9, 13, 16])
    transform = mu.scrub(chosen.model, DECAYED, rewind=examples, epochs=4, max_epochs=4)
    expected = transform(KEY, chosen.variables, *chosen.sets())
    assert_close(transform(KEY, chosen.variables, *streams), expected)

    class Stopped(Exception):
        pass

    class Watch:
        seen = 0

        def begin(self, total, carry, position):
            return carry, position

        def advance(self, carry, position):
            self.seen += 1
            if self.seen == 9:
                raise Stopped

        def end(self, carry, position):
            pass

    with (
        pytest.raises(Stopped),
        mu.resumable(tmp_path, config=0, min_seconds=0),
        mu.loops.observe(Watch()),
    ):
        transform(KEY, chosen.variables, *streams)
    with mu.resumable(tmp_path, config=0, min_seconds=0):
        again = transform(KEY, chosen.variables, *streams)
    assert_identical(again, transform(KEY, chosen.variables, *streams))


def test_wrong_arguments_are_refused_in_one_sentence():
    chosen = setting("raw")
    empty = validation(chosen).replace(weight=jnp.zeros(9))
    for says, arguments in (("validation examples", {"rewind": empty}), ("cycle", {"epochs": 0})):
        with pytest.raises(ValueError, match=says) as error:
            mu.scrub(chosen.model, DECAYED, **arguments)(KEY, chosen.variables, *chosen.sets())
        assert is_one_sentence(str(error.value))


def test_a_regression_is_refused():
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    sets = mu.split(mu.batches(jnp.eye(3), jnp.ones(3), batch_size=2), [2])
    with pytest.raises(ValueError, match="logits of at least two classes") as error:
        mu.scrub(model, DECAYED)(KEY, mu.Variables(jnp.ones(3)), *sets)
    assert is_one_sentence(str(error.value))
