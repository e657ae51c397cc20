"""SalUn: its mask, its draws, and what may move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence, stack

import mu_jax as mu
from mu_jax.data.batches import pad
from mu_jax.objectives import relabeled, uniform_label
from mu_jax.transforms.general.salun import saliency_mask

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(0)
MOMENTUM = optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, momentum=0.9))


def tree(seed=0):
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=(4, 6)), "b": rng.normal(size=8).astype(np.float32)}


def largest(saliency, fraction):
    flat = np.concatenate([np.abs(x).ravel() for x in jax.tree.leaves(saliency)])
    chosen = np.zeros(flat.size, bool)
    chosen[np.argsort(-flat, kind="stable")[: int(fraction * flat.size)]] = True
    return {"a": chosen[:24].reshape(4, 6), "b": chosen[24:]}


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_the_mask_is_of_the_largest_over_all_leaves(fraction):
    assert_identical(saliency_mask(tree(), fraction), largest(tree(), fraction))


def test_equal_entries_are_chosen_in_order_and_in_number():
    saliency = {"a": jnp.zeros((2, 3)), "b": jnp.array([1.0, -1.0])}
    found = saliency_mask(saliency, 0.5)
    assert found["b"].all() and found["a"].ravel().tolist() == [True, True] + [False] * 4


@pytest.mark.slow
def test_a_grid_of_fractions_is_one_program():
    fractions = jnp.array([0.125, 0.25, 0.5])
    found = jax.vmap(lambda fraction: saliency_mask(tree(), fraction))(fractions)
    assert_identical(found, stack([largest(tree(), float(f)) for f in fractions]))

    chosen = setting("raw")
    given = KEY, chosen.variables, *chosen.sets()

    def unlearn(fraction):
        return mu.salun(chosen.model, MOMENTUM, fraction=fraction, epochs=2)(*given)

    assert_close(jax.vmap(unlearn)(fractions), stack([unlearn(float(f)) for f in fractions]))


def test_only_salient_weights_move():
    chosen = setting("raw")
    forget, retain = chosen.sets()
    gradient = mu.collect(mu.statistics.mean_gradient(chosen.model), chosen.variables, forget)
    expected = saliency_mask(gradient.value, 0.3)
    unlearn = mu.salun(chosen.model, MOMENTUM, fraction=0.3, epochs=2)
    after, info = unlearn(KEY, chosen.variables, forget, retain)
    moved = jax.tree.map(lambda a, b: a != b, after.params, chosen.variables.params)
    assert_identical(moved, expected)
    size = sum(leaf.size for leaf in jax.tree.leaves(expected))
    np.testing.assert_allclose(info.details.selected, int(0.3 * size) / size, rtol=1e-6)
    assert (info.steps, info.example_passes) == (2 * (2 + 4), 6 + 2 * 22)


def test_one_epoch_by_hand():
    chosen = setting("raw")
    forget, retain = chosen.sets(batch_size=100)
    options = {"fraction": 1.0, "epochs": 1, "label_rule": lambda key, label, n: (label + 1) % n}
    unlearn = mu.salun(chosen.model, optax.sgd(0.1), **options)
    after, _ = unlearn(KEY, chosen.variables, forget, retain)

    def loss(params, part, labels):
        outputs = chosen.model.apply(mu.Variables(params, 0.25), part.inputs)
        return chosen.model.loss(outputs, labels).mean()

    @jax.jit
    def epoch(params):
        for part, labels in ((forget, (forget.targets + 1) % 3), (retain, retain.targets)):
            params = optax.tree.add_scale(params, -0.1, jax.grad(loss)(params, part, labels))
        return params

    params = epoch(chosen.variables.params)
    assert_close(after.params, params, rtol=1e-4)


def test_labels_are_drawn_anew_at_every_visit_and_from_all_classes():
    drawn = jax.vmap(lambda key: uniform_label(key, jnp.int32(1), 3))(jax.random.split(KEY, 900))
    assert drawn.dtype == jnp.int32
    counts = np.bincount(drawn, minlength=3)
    assert (abs(counts - 300) < 60).all() and counts.size == 3

    chosen, seen = setting("raw"), []

    def draw(key, label, classes):
        jax.debug.callback(lambda x: seen.append(int(x)), uniform_label(key, label, classes))
        return label

    optimizer = optax.sgd(0.1)
    mu.salun(chosen.model, optimizer, epochs=9, label_rule=draw)(
        KEY, chosen.variables, *chosen.sets()
    )
    jax.effects_barrier()
    assert set(seen) == {0, 1, 2}


def test_every_example_draws_its_own_label_whatever_fills_the_batch_up():
    model = mu.from_function(
        lambda w, state, x: x @ w, lambda outputs, labels: labels.astype(jnp.float32)
    )
    batch = mu.batches(jnp.eye(6), jnp.zeros(6, int), batch_size=6, index=range(40, 46)).at(0)
    objective = relabeled(model, uniform_label)

    def labels(batch):
        def one(row):
            weight = jnp.zeros_like(batch.weight).at[row].set(1.0)
            found, _ = objective(
                mu.Variables(jnp.ones((6, 99))), batch._replace(weight=weight), {}, KEY
            )
            return int(found["loss"].sum)

        return [one(row) for row in range(6)]

    found = labels(batch)
    assert len(set(found)) > 3
    assert labels(pad(batch, 8)) == found
    reverse = jax.tree.map(lambda x: x[::-1], batch)
    assert labels(reverse) == found[::-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_divided_parameters(kind):
    chosen = setting("raw")
    sets, transform = chosen.sets(batch_size=8), mu.salun(chosen.model, MOMENTUM, epochs=2)
    expected = transform(KEY, chosen.variables, *sets)
    devices = jax.devices()[:4]
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(kind,) * 2, devices=devices)
    divided = mu.shard_params(chosen.variables, mesh, smallest=1)
    sets = [mu.shard(part, mesh) for part in sets]
    assert_close(transform(KEY, divided, *sets), expected, rtol=1e-4)


@pytest.mark.parametrize("fraction", [1.5, -0.1, float("nan")])
def test_a_wrong_fraction_is_refused_at_once(fraction):
    with pytest.raises(ValueError, match=f"from 0 to 1, found {fraction}") as error:
        mu.salun(setting("raw").model, MOMENTUM, fraction=fraction)
    assert is_one_sentence(str(error.value))


def test_labels_that_are_no_classes_are_refused():
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    sets = mu.split(mu.batches(jnp.eye(3), jnp.ones(3), batch_size=2), [2])
    with pytest.raises(ValueError, match="expected integer labels") as error:
        mu.salun(model, MOMENTUM)(KEY, mu.Variables(jnp.ones(3)), *sets)
    assert is_one_sentence(str(error.value))
