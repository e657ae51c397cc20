"""Bad Teacher against the published program in float64, its share, and what it refuses.

The numbers are those of `golden/classification_bad_teacher.npz`. They are not to be regenerated
from this code: when a test fails, either the code is wrong or the definition was changed on
purpose.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_files import load
from golden_networks import MODEL, params
from golden_runs import Recorded, epochs_of, optimizer_of
from small_models import setting
from trees import assert_close, is_one_sentence

import mu_jax as mu
from mu_jax.data.forget_retain import Marked

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
GOLDEN = load("classification_bad_teacher.npz")
MODULE = importlib.import_module("mu_jax.transforms.general.bad_teacher")
KEY = jax.random.key(0)


def recorded(case, epochs):
    """The recorded batches, whose labels are no classes: they are not to be read."""
    every = np.ones(len(GOLDEN[f"{case}/rows"]), bool)
    found = epochs_of(GOLDEN, case, every, epochs)
    marks = iter(GOLDEN[f"{case}/is_forget"])

    def mark(batch):
        forget = next(marks)[: len(batch.index)] == 1
        return batch._replace(targets=Marked(batch.targets - 99, jnp.asarray(forget)))

    return Recorded([[mark(batch) for batch in epoch] for epoch in found])


@pytest.mark.parametrize("case", ["adam", "sgd"])
def test_golden_run(case, monkeypatch):
    hyper = {k.rpartition("/")[2]: v for k, v in GOLDEN.items() if k.startswith(f"{case}/hp/")}
    epochs, classes = int(hyper["epochs"]), int(GOLDEN["classes"])
    monkeypatch.setattr(MODULE, "marked_mix", lambda *sets: recorded(case, epochs))
    with jax.enable_x64(True):
        optimizer = optimizer_of({f"{case}/hp/momentum": 0.0, **GOLDEN}, case, float(hyper["lr"]))
        unlearn = mu.bad_teacher(
            MODEL,
            optimizer,
            init=lambda key: mu.Variables(params(GOLDEN, "bad")),
            temperature=float(hyper["temperature"]),
            scale=1 / classes,
            epochs=epochs,
        )
        data = mu.batches(GOLDEN["x"], GOLDEN["y"], batch_size=48)
        sets = (data.take(GOLDEN[f"{part}_class_rows"]) for part in ("forget", "retain"))
        after, info = unlearn(KEY, mu.Variables(params(GOLDEN, "before")), *sets)
        for name, expected in params(GOLDEN, f"{case}/after").items():
            assert after.params[name].dtype == jnp.float64
            np.testing.assert_allclose(after.params[name], expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(info.details.loss, GOLDEN[f"{case}/loss"], rtol=1e-6)
    batch_mean = GOLDEN[f"{case}/loss_batchmean"]
    np.testing.assert_allclose(classes * info.details.loss, batch_mean, rtol=1e-6)


def test_one_step_by_hand():
    chosen = setting("raw")
    forget, retain = chosen.sets(batch_size=100)
    unlearn = mu.bad_teacher(
        chosen.model, optax.sgd(0.1), init=chosen.init, retain_share=1.0, temperature=1.5, scale=0.7
    )
    after, info = unlearn(KEY, chosen.variables, forget, retain)
    bad = chosen.init(jax.random.fold_in(KEY, 0))

    def loss(params):
        apart = []
        for part, teacher in ((forget, bad), (retain, chosen.variables)):
            wanted = jax.nn.softmax(chosen.model.apply(teacher, part.inputs) / 1.5)
            found = chosen.model.apply(chosen.variables._replace(params=params), part.inputs)
            each = optax.losses.kl_divergence(jax.nn.log_softmax(found / 1.5), wanted)
            apart.append(each)
        return 0.7 * jnp.concatenate(apart).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(chosen.variables.params)
    expected = optax.tree.add_scale(chosen.variables.params, -0.1, gradient)
    assert_close(after.params, expected, rtol=1e-4)
    np.testing.assert_allclose(info.details.loss[0], value, rtol=1e-5)
    assert (info.steps, info.example_passes) == (1, 22)


def test_a_share_of_the_retain_set_is_read():
    chosen = setting("raw")
    forget, retain = chosen.sets(batch_size=4)
    found = MODULE._some(KEY, retain, 0.3)
    ids = found.index.tolist()
    assert len(set(ids)) == int(0.3 * 16) == 4 and set(ids) <= set(retain.index.tolist())
    assert MODULE._some(jax.random.key(1), retain, 0.3).index.tolist() != ids
    assert MODULE._some(KEY, retain, 0.0).num_examples == 1
    traced = jax.jit(lambda key, data: MODULE._some(key, data, 0.3))(KEY, retain)
    streamed = MODULE._some(KEY, chosen.streams()[1], 0.3)
    assert traced.index.tolist() == streamed.index.tolist() == ids
    unlearn = mu.bad_teacher(chosen.model, optax.sgd(0.1), init=chosen.init, epochs=2)
    _, info = unlearn(KEY, chosen.variables, forget, retain)
    assert info.example_passes == 2 * (6 + 4)


def refused(model, weights, **options):
    sets = mu.split(mu.batches(jnp.eye(3), jnp.ones(3), batch_size=2), [2])
    unlearn = mu.bad_teacher(model, optax.sgd(0.1), init=lambda key: weights, **options)
    with pytest.raises(ValueError) as error:
        unlearn(KEY, weights, *sets)
    assert is_one_sentence(str(error.value))
    return str(error.value)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_a_regression_is_refused(shape):
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    says = refused(model, mu.Variables(jnp.ones(shape)))
    assert "expected outputs that are logits of at least two classes" in says


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"retain_share": 1.5}, "retain_share from 0 to 1, found 1.5"),
        ({"temperature": 0.0}, "expected temperature >= "),
        ({"scale": -1.0}, "expected scale >= 0"),
    ],
)
def test_wrong_numbers_are_refused_at_once(options, says):
    chosen = setting("raw")
    with pytest.raises(ValueError, match=says) as error:
        mu.bad_teacher(chosen.model, optax.sgd(0.1), init=chosen.init, **options)
    assert is_one_sentence(str(error.value))
