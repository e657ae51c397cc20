"""Random labels: which labels are drawn when, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu
from mu_jax.objectives import fixed_label, runner_up_label, uniform_label, uniform_other_label

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, SGD = jax.random.key(0), optax.sgd(0.1)
PROTOCOLS = ("union", "redrawn_union", "alternating")


def run(chosen, sets=None, **options):
    return mu.random_labels(chosen.model, SGD, **options)(
        KEY, chosen.variables, *(sets or chosen.sets(batch_size=100))
    )


def by_hand(chosen, labels_of, *, alternating=False, epochs=1):
    """The parameters after plain steps on whole sets, with other labels to forget."""
    forget, retain = chosen.sets(batch_size=100)

    def mean(params, *pairs):
        losses = [
            chosen.model.loss(chosen.model.apply(mu.Variables(params, 0.25), part.inputs), labels)
            for part, labels in pairs
        ]
        return jnp.concatenate(losses).mean()

    params = chosen.variables.params
    for _ in range(epochs):
        one, two = (forget, labels_of(forget)), (retain, retain.targets)
        for pairs in ([one], [two]) if alternating else ([one, two],):
            params = optax.tree.add_scale(params, -0.1, jax.grad(mean)(params, *pairs))
    return params


@pytest.mark.slow
def test_both_sets_count_by_their_rows_in_a_union():
    chosen = setting("raw")
    after, info = run(chosen, epochs=1, label_rule=fixed_label(1))
    assert_close(after.params, by_hand(chosen, lambda part: jnp.ones_like(part.targets)), rtol=1e-4)
    assert (info.steps, info.example_passes) == (1, 22)


def test_the_rules_of_the_original_model_look_at_it_alone():
    chosen = setting("raw")

    def labels(part):
        logits = chosen.model.apply(chosen.variables, part.inputs)
        return jnp.where(jax.nn.one_hot(part.targets, 3) == 1, -jnp.inf, logits).argmax(1)

    options = {"protocol": "alternating", "label_rule": runner_up_label(), "epochs": 3}
    after, info = run(chosen, **options)
    expected = by_hand(chosen, labels, alternating=True, epochs=3)
    assert_close(after.params, expected, rtol=1e-4)
    assert (info.steps, info.example_passes) == (6, 66)


def drawn_labels(protocol, rule, epochs=4):
    """Every label that is drawn for each id, of logits 4."""
    chosen, seen = setting("raw"), []

    def watched(key, label, classes):
        drawn = rule(key, label, classes)
        jax.debug.callback(lambda old, new: seen.append((int(old), int(new))), label, drawn)
        return label

    data = chosen.data(batch_size=100).replace(targets=jnp.arange(22, dtype=jnp.int32))
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
    # In training mode no batch is filled up, of which nothing should be seen here.
    options = {"protocol": protocol, "epochs": epochs, "training_mode": True}
    unlearn = mu.random_labels(model, SGD, label_rule=watched, **options)
    forget, retain = mu.split(data, [3, 4, 5, 6, 7, 8])
    mu.watched(unlearn, False)(KEY, mu.Variables(jnp.ones((5, 22))), forget, retain)
    jax.effects_barrier()
    return {i: {new for old, new in seen if old == i} for i in range(3, 9)}


@pytest.mark.quick("union", "alternating")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_labels_are_drawn_once_or_in_every_epoch(protocol):
    found = drawn_labels(protocol, uniform_other_label)
    assert all(i not in labels for i, labels in found.items())
    assert len(set().union(*found.values())) > 2
    several = [len(labels) > 1 for labels in found.values()]
    assert not any(several) if protocol == "union" else all(several)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_default_rule_is_the_published_one(protocol):
    chosen = setting("raw")
    rule = uniform_other_label if protocol == "union" else uniform_label
    assert_identical(
        run(chosen, protocol=protocol), run(chosen, protocol=protocol, label_rule=rule)
    )


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_streams_and_a_mesh_give_the_same(protocol):
    chosen = setting("raw")
    options = {"protocol": protocol, "label_rule": runner_up_label()}
    expected = run(chosen, chosen.sets(), **options)
    assert_close(run(chosen, chosen.streams(), **options), expected)
    mesh = mu.data_mesh()
    sharded = [mu.shard(part, mesh) for part in chosen.sets()]
    assert_close(run(chosen, sharded, **options), expected, rtol=1e-4, atol=2e-6)


def regression():
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    return model, mu.split(mu.batches(jnp.eye(3), jnp.ones(3), batch_size=2), [2])


@pytest.mark.quick("union")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_regression_is_refused(protocol):
    model, sets = regression()
    with pytest.raises(ValueError, match="expected integer labels") as error:
        mu.random_labels(model, SGD, protocol=protocol)(KEY, mu.Variables(jnp.ones(3)), *sets)
    assert is_one_sentence(str(error.value))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"protocol": "turns"}, "among union, redrawn_union, alternating, found 'turns'"),
        ({"epochs": -1}, "epochs as a whole number >= 0"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options, says):
    with pytest.raises(ValueError, match=says) as error:
        mu.random_labels(setting("raw").model, SGD, **options)
    assert is_one_sentence(str(error.value))


def test_a_fixed_label_that_is_no_class_is_refused():
    with pytest.raises(ValueError, match="from 0 to 2, a class of the model, found 3") as error:
        run(setting("raw"), label_rule=fixed_label(3))
    assert is_one_sentence(str(error.value))
    assert np.isfinite(run(setting("raw"), label_rule=fixed_label(2))[1].details.loss).all()
