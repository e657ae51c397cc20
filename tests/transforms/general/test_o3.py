"""O3: wrong labels in one adapter after another, orthogonal to the earlier ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu
from mu_jax import adapters as lora
from mu_jax.data.batches import Batch
from mu_jax.transforms.general.o3 import wrong_targets

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, SGD = jax.random.key(3), optax.sgd(0.1)
OTHER = jax.random.key(8)


def labels_of(batch, classes):
    """The wrong targets that `unlearn(KEY, ...)` fits."""
    return wrong_targets(jax.random.fold_in(KEY, 1), batch, classes)


def whole(data):
    return data.replace(batch_size=data.num_examples)


# --- one step by hand ---


@pytest.mark.quick("2")
@pytest.mark.parametrize("earlier", [0, 2])
def test_a_step_is_that_of_wrong_labels_and_of_the_penalty(earlier):
    chosen = setting("adapted raw")
    forget, retain = chosen.sets()
    start, batch = chosen.variables, whole(forget).at(0)
    others = [chosen.init(jax.random.key(k)).adapters for k in range(earlier)]
    unlearn = mu.o3(
        chosen.model, SGD, earlier=others, penalty=0.7, steps=1, batch_size=forget.num_examples
    )
    found, info = unlearn(KEY, start, forget, retain)
    wrong = labels_of(batch, 3)

    def value(adapters):
        outputs = chosen.model.apply(start._replace(adapters=adapters), batch.inputs)
        logs = jax.nn.log_softmax(outputs)
        loss = -logs[jnp.arange(len(wrong)), wrong].mean()
        apart = [
            jnp.sum((other[name].a @ adapters[name].a.T) ** 2)
            for other in others
            for name in ("head", "hidden")
        ]
        return loss + 0.7 * sum(apart)

    loss, grads = jax.value_and_grad(value)(start.adapters)
    np.testing.assert_allclose(info.details.loss[0], loss, rtol=1e-5)
    wanted = jax.tree.map(lambda p, g: p - 0.1 * g, start.adapters, grads)
    assert_close(found.adapters, wanted)
    assert_identical(found.base, start.base)


@pytest.mark.slow
def test_the_penalty_is_a_mean_over_layers():
    decoder = mu.models.Decoder(
        mu.models.DecoderConfig(
            "llama",
            vocab_size=8,
            width=8,
            depth=3,
            num_heads=2,
            num_kv_heads=1,
            head_dim=4,
            mlp_width=16,
            max_positions=16,
        ),
        scan_layers=True,
    )
    base = decoder.model(mu.token_losses.TokenCrossEntropy())
    variables = decoder.init(KEY)
    linear = mu.models.decoder.is_linear
    start, other = (
        lora.attach(key, base, variables, rank=2, chosen=linear) for key in (KEY, OTHER)
    )
    tokens = np.random.default_rng(0).integers(8, size=(4, 5)).astype(np.int32)
    targets = mu.data.TokenTargets(tokens, np.ones((4, 5), np.float32))
    forget, retain = mu.split(mu.batches(tokens, targets, batch_size=4), [0, 1])

    def first_loss(**options):
        unlearn = mu.o3(lora.adapted(base, factored=True), SGD, steps=1, **options)
        return unlearn(KEY, start, forget, retain)[1].details.loss[0]

    apart = lora.orthogonality(start.adapters, other.adapters)
    found = first_loss(earlier=[other.adapters], penalty=0.5) - first_loss()
    np.testing.assert_allclose(found, 0.5 * apart / 3, rtol=1e-3)


def test_earlier_requests_come_as_trees_as_results_or_kept():
    chosen = setting("adapted raw")
    other = chosen.init(OTHER)
    found = [
        mu.o3(chosen.model, SGD, earlier=[one], epochs=1)(KEY, chosen.variables, *chosen.sets())[0]
        for one in (other.adapters, other, lora.keep_adapters(other))
    ]
    assert_identical(found[1], found[0])
    assert_identical(found[2], found[0])


# --- wrong labels ---


def test_wrong_labels_are_all_others_and_never_the_true_one():
    labels = jnp.arange(3000) % 5
    batch = Batch(labels, labels, jnp.ones(3000), jnp.arange(3000))
    wrong = np.asarray(wrong_targets(KEY, batch, 5))
    assert not (wrong == np.asarray(labels)).any()
    counts = np.bincount(wrong[np.asarray(labels) == 2], minlength=5)
    assert counts[2] == 0 and counts[[0, 1, 3, 4]].min() > 100


def test_a_wrong_label_belongs_to_the_id_of_an_example():
    labels = jnp.arange(12) % 5
    batch = Batch(labels, labels, jnp.ones(12), jnp.arange(40, 52))
    order = jnp.array([7, 2, 11])
    part = jax.tree.map(lambda x: x[order], batch)
    np.testing.assert_array_equal(wrong_targets(KEY, part, 5), wrong_targets(KEY, batch, 5)[order])
    assert (wrong_targets(KEY, batch, 5) != wrong_targets(OTHER, batch, 5)).any()


def test_every_token_has_a_wrong_one_and_masks_stay():
    data = setting("tokens").data()
    batch = data.at(0)
    wrong = wrong_targets(KEY, batch, 8)
    assert not (np.asarray(wrong.tokens) == np.asarray(batch.targets.tokens)).any()
    assert np.asarray(wrong.tokens).min() >= 0 and np.asarray(wrong.tokens).max() < 8
    assert_identical(wrong._replace(tokens=()), batch.targets._replace(tokens=()))


# --- requests in sequence ---


def request_of(data, label):
    """The examples of a class, and the others."""
    return mu.split(data, np.flatnonzero(np.asarray(data.targets) == label))


@pytest.fixture(scope="module")
def classes():
    """Six classes that a linear model knows, its variables, and adapters for them."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 8)
    inputs = np.eye(6)[labels] * 3 + 0.3 * rng.normal(size=(48, 6))
    data = mu.batches(inputs.astype(np.float32), labels.astype(np.int32), batch_size=8)
    base = mu.from_function(lambda p, state, x: x @ p["w"], mu.losses.cross_entropy)
    start = lora.attach(KEY, base, mu.Variables({"w": 2.0 * jnp.eye(6)}), rank=2)
    return data, base, start


def accuracy(model, variables, data):
    found = mu.outputs(model, variables, data)
    return float((found.argmax(axis=-1) == data.targets).mean())


def test_requests_in_sequence_stay_hidden_and_the_base_knows_all(classes):
    data, base, start = classes
    model = lora.adapted(base)
    optimizer = optax.adam(0.02)
    first, second = request_of(data, 1), request_of(data, 4)
    one, _ = mu.o3(model, optimizer)(KEY, start, *first)
    two, _ = mu.o3(model, optimizer, earlier=[one.adapters])(OTHER, one, *second)
    assert accuracy(model, start, data) == 1
    assert accuracy(model, one, first[0]) < 0.2
    assert accuracy(model, two, first[0]) < 0.2 and accuracy(model, two, second[0]) < 0.2
    for part in (*first, *second):  # suppression: without adapters everything is there
        assert accuracy(base, two.base, part) == 1
        gated = part.replace(inputs=lora.Gated(part.inputs, jnp.zeros(part.num_examples)))
        assert accuracy(model, two, gated) == 1


def test_the_penalty_makes_the_next_adapter_orthogonal(classes):
    data, base, start = classes
    model, sets = lora.adapted(base), request_of(data, 4)
    one, _ = mu.o3(model, optax.adam(0.02))(KEY, start, *request_of(data, 1))
    found = {}
    for penalty in (0.0, 5.0):
        unlearn = mu.o3(model, optax.adam(0.02), earlier=[one.adapters], penalty=penalty)
        after, _ = unlearn(OTHER, one, *sets)
        found[penalty] = float(lora.orthogonality(one.adapters, after.adapters))
        assert accuracy(model, after, sets[0]) < 0.2
    assert found[5.0] < 0.5 * found[0.0]


# --- refusals ---


def refused():
    chosen, base = setting("adapted raw"), setting("raw")
    wide = lora.attach(KEY, base.model, base.variables, chosen=lambda name: name == "head")
    forget, _ = chosen.sets()
    floats = forget.replace(targets=jnp.asarray(forget.targets, float))
    plain = mu.o3(chosen.model, SGD)
    return {
        "expected Adapted variables": (plain, base.variables, forget, TypeError),
        "expected adapters of the same kernels": (
            mu.o3(chosen.model, SGD, earlier=[wide.adapters]),
            chosen.variables,
            forget,
            ValueError,
        ),
        "expected labels or tokens of whole numbers": (
            plain,
            chosen.variables,
            floats,
            TypeError,
        ),
    }


@pytest.mark.parametrize("says", list(refused()))
def test_what_it_cannot_fit_is_refused_in_one_sentence(says):
    unlearn, variables, forget, kind = refused()[says]
    with pytest.raises(kind, match=says) as error:
        mu.watched(unlearn, False)(KEY, variables, forget, setting("adapted raw").sets()[1])
    assert is_one_sentence(str(error.value))


def test_a_negative_penalty_is_refused():
    with pytest.raises(ValueError, match="expected penalty >= 0"):
        mu.o3(setting("adapted raw").model, SGD, penalty=-1.0)
