"""Subspaces of the parameters: exact at the start, whole at full rank, and what they refuse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu
from mu_jax.subspaces import SSF, FLoRA, Held, LoRA, SaRA, attach, lifted, merge

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)
SUBSPACES = {
    "lora": LoRA(rank=2),
    "ssf": SSF(),
    "flora": FLoRA(rank=2),
    "sara": SaRA(0.3),
}


@pytest.mark.quick("*-raw", "ssf-linen")
@pytest.mark.parametrize("name", ["raw", "bfloat16", "linen", "nnx", "cnn"])
@pytest.mark.parametrize("kind", SUBSPACES)
def test_the_start_is_the_model_and_a_transform_moves_the_coordinates_alone(kind, name):
    chosen, subspace = setting(name), SUBSPACES[kind]
    start = attach(KEY, chosen.model, chosen.variables, subspace)
    model, inputs = lifted(chosen.model, subspace), chosen.data().at(0).inputs
    assert_identical(model.apply(start, inputs), chosen.model.apply(chosen.variables, inputs))
    assert_identical(merge(chosen.model, start, subspace), chosen.variables)
    after, _ = mu.gradient_ascent(model, optax.sgd(0.1))(KEY, start, *chosen.sets())
    assert_identical(after.base, start.base)
    merged = merge(chosen.model, after, subspace)
    assert jax.tree.structure(merged) == jax.tree.structure(chosen.variables)
    found, expected = model.apply(after, inputs), chosen.model.apply(merged, inputs)
    assert_close(found, expected, rtol=1e-2 if name == "bfloat16" else 1e-4)
    assert not np.array_equal(expected, chosen.model.apply(chosen.variables, inputs))


def convex():
    """Least squares of three outputs: every descent that reaches the bottom has one loss."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(24, 4)), rng.normal(size=(24, 3))
    data = mu.batches(x.astype(np.float32), noise.astype(np.float32), batch_size=24)
    model = mu.from_function(
        lambda p, state, x: x @ p["w"], lambda y, t: jnp.square(y - t).mean(-1)
    )
    start = mu.Variables({"w": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)})
    return model, start, mu.split(data, [1, 2, 3])


@pytest.mark.quick("lora")
@pytest.mark.parametrize("kind", ["lora", "flora", "sara", "thin"])
def test_the_full_rank_reaches_the_loss_of_the_unrestricted_edit(kind):
    full = {"lora": LoRA(3, 3.0), "flora": FLoRA((4, 3), 1.0), "sara": SaRA(9.0), "thin": LoRA(1)}
    model, start, sets = convex()
    tune = mu.finetune(model, optax.adam(0.02), epochs=600)

    def loss(unlearn):
        after, _ = mu.watched(unlearn, False)(KEY, start, *sets)
        return float(model.losses(after, sets[1].at(0))[:21].mean())

    whole, within = loss(tune), loss(mu.low_rank(tune, full[kind]))
    if kind == "thin":
        assert within > 1.05 * whole
    else:
        np.testing.assert_allclose(within, whole, rtol=1e-4)


def test_all_entries_of_sara_are_the_transform():
    chosen = setting("raw")
    tune = mu.finetune(chosen.model, optax.adamw(0.01), epochs=2)
    given = KEY, chosen.variables, *chosen.sets()
    found, _ = mu.low_rank(tune, SaRA(1e9))(*given)
    expected, _ = tune(jax.random.fold_in(KEY, 1), *given[1:])
    assert_close(found, expected)


def test_others_than_the_small_entries_keep_every_bit():
    chosen = setting("raw")
    tune = mu.finetune(chosen.model, optax.adamw(0.05, weight_decay=0.5), epochs=2)
    after, _ = jax.jit(mu.low_rank(tune, SaRA(0.4)))(KEY, chosen.variables, *chosen.sets())
    for name, leaf in chosen.variables.params.items():
        moved = np.asarray(after.params[name]) != np.asarray(leaf)
        np.testing.assert_array_equal(moved, np.abs(np.asarray(leaf)) < 0.4)


def test_a_bias_beside_one_kernel_is_scaled_and_beside_two_is_shifted():
    two = SSF()
    params = {"a": jnp.ones((2, 3)), "bias": jnp.ones(3), "b2": jnp.ones((3, 3))}
    z = two.init(KEY, params)
    assert (set(z.scale), set(z.shift)) == ({"a", "b2"}, {"bias"})
    doubled = z._replace(scale={name: 2 * x for name, x in z.scale.items()})
    assert two.expand(doubled, params)["bias"].tolist() == [1, 1, 1]
    one = {"layer": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}, "norm": {}}
    one["norm"] = {"scale": jnp.full(3, 5.0), "bias": jnp.ones(3)}
    z = two.init(KEY, one)
    doubled = z._replace(scale={name: 2 * x for name, x in z.scale.items()})
    assert jax.tree.map(lambda x: float(x.max()), two.expand(doubled, one)) == {
        "layer": {"kernel": 2, "bias": 2},
        "norm": {"scale": 10, "bias": 2},
    }


def test_a_layer_without_a_bias_is_scaled_alone_and_choices_count():
    params = {"one": {"kernel": jnp.ones((2, 3))}, "two": {"kernel": jnp.ones((3, 4))}}
    z = SSF(lambda name: name.startswith("one")).init(KEY, params)
    assert jax.tree.map(jnp.shape, z) == ({"one/kernel": (3,)}, {})


def test_a_window_keeps_its_shape_in_the_core():
    z = FLoRA(rank=(2, 3)).init(KEY, {"conv": jnp.ones((3, 3, 4, 5))})
    assert jax.tree.map(jnp.shape, z["conv"]) == ((3, 3, 2, 3), ((3, 3), (3, 3), (4, 2), (5, 3)))


@pytest.mark.parametrize("merged", [True, False])
def test_merged_or_kept_apart(merged):
    chosen, subspace = setting("raw"), SSF()
    tune = mu.gradient_ascent(chosen.model, optax.sgd(0.1))
    given = KEY, chosen.variables, *chosen.sets()
    unlearn = mu.low_rank(tune, subspace, merge=merged)
    assert unlearn.aim == ("removal" if merged else "suppression")
    found, _ = unlearn(*given)
    whole = found if merged else merge(chosen.model, found, subspace)
    expected, _ = mu.low_rank(tune, subspace)(*given)
    assert_identical(whole, expected)
    if not merged:  # and without the patch it knows all again
        assert_identical(found.base, chosen.variables)


def test_adapters_that_are_kept_apart_are_stored_as_adapters():
    chosen = setting("raw")
    tune = mu.gradient_ascent(chosen.model, optax.sgd(0.1))
    found, _ = mu.low_rank(tune, rank=2, merge=False)(KEY, chosen.variables, *chosen.sets())
    kept = mu.adapters.keep_adapters(found)
    assert_identical(kept.attach(chosen.variables).adapters, found.adapters)


@pytest.mark.quick("flora")
@pytest.mark.parametrize("kind", ["lora", "flora", "sara"])
def test_numbers_of_a_subspace_may_be_traced_and_count(kind):
    chosen = setting("raw")
    make = {"lora": lambda x: LoRA(2, x), "flora": lambda x: FLoRA(2, x), "sara": SaRA}[kind]

    def unlearned(number):
        tune = mu.finetune(chosen.model, optax.sgd(0.1))
        return mu.low_rank(tune, make(number))(KEY, chosen.variables, *chosen.sets())[0].params

    many = jax.vmap(unlearned)(jnp.array([0.3, 2.0]))
    assert_close(jax.tree.map(lambda x: x[1], many), unlearned(2.0), rtol=1e-4)
    assert not np.allclose(*many["hidden"])


@pytest.mark.slow
@pytest.mark.quick("flora")
@pytest.mark.parametrize("kind", SUBSPACES)
def test_inside_a_chain_pruned_weights_stay_0_in_every_step(kind):
    chosen = setting("raw")
    tune = mu.finetune(chosen.model, optax.adamw(0.05, weight_decay=0.5), epochs=2)
    subspace = SaRA(2.0) if kind == "sara" else SUBSPACES[kind]
    chain = mu.chain(mu.magnitude_prune(chosen.model, 0.5), mu.low_rank(tune, subspace))
    after, infos = chain(KEY, chosen.variables, *chosen.sets(batch_size=100))
    zeros = sum(int((leaf == 0).sum()) for leaf in after.params.values())
    assert zeros == 24
    again = mu.chain(mu.magnitude_prune(chosen.model, 0.5), mu.finetune(chosen.model, optax.sgd(0)))
    pruned, _ = again(KEY, chosen.variables, *chosen.sets(batch_size=100))
    _, retain = chosen.sets(batch_size=100)
    loss = chosen.model.losses(pruned, retain.at(0))[: retain.num_examples].mean()
    np.testing.assert_allclose(infos[1].details.loss[0], loss, rtol=1e-5)
    last = mu.finetune(chosen.model, optax.sgd(0.0))(KEY, after, *chosen.sets(batch_size=100))
    assert last[1].details.loss[0] < infos[1].details.loss[1]


@pytest.mark.slow
@pytest.mark.quick("explicit-flora")
@pytest.mark.parametrize("kind", ["ssf", "flora", "sara"])
@pytest.mark.parametrize("axes", ["automatic", "explicit"])
def test_divided_parameters_give_the_same(axes, kind):
    chosen = setting("raw")
    unlearn = mu.low_rank(mu.finetune(chosen.model, optax.sgd(0.1), epochs=2), SUBSPACES[kind])
    sets = chosen.sets(batch_size=8)
    expected, _ = unlearn(KEY, chosen.variables, *sets)
    axis = {"explicit": AxisType.Explicit, "automatic": AxisType.Auto}[axes]
    devices = jax.devices()[:4]
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(axis,) * 2, devices=devices)
    divided = mu.shard_params(chosen.variables, mesh, smallest=1)
    found, _ = jax.jit(unlearn)(KEY, divided, *(mu.shard(part, mesh) for part in sets))
    assert_close(found, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("subspace", "says"),
    [
        (LoRA(rank=4), "rank from 1 to 3 for head of 6 x 3, found 4"),
        (LoRA(rank=0), "found 0"),
        (FLoRA(rank=6), "rank from 1 to 3 for head of 6 x 3, found 6"),
        (FLoRA(rank=(1, 2, 3)), "at most 2 ranks for head of 2 axes, found 3"),
        (FLoRA(chosen=lambda name: False), "none chosen of bias, head"),
        (SSF(chosen=lambda name: False), "none chosen of bias, head"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(subspace, says):
    chosen = setting("raw")
    unlearn = mu.low_rank(mu.finetune(chosen.model, optax.sgd(0.1)), subspace)
    with pytest.raises(ValueError, match=says) as error:
        unlearn(KEY, chosen.variables, *chosen.sets())
    assert is_one_sentence(str(error.value))


def test_wrong_variables_bases_and_arguments_are_refused_in_one_sentence():
    chosen, inputs = setting("raw"), setting("raw").inputs
    with pytest.raises(TypeError, match="expected Lifted variables, found Variables") as error:
        lifted(chosen.model, SSF()).apply(chosen.variables, inputs)
    assert is_one_sentence(str(error.value))
    z = FLoRA(rank=1).init(KEY, {"other": jnp.ones((2, 2))})
    with pytest.raises(ValueError, match="found one of other, which it lacks") as error:
        FLoRA(rank=1).expand(z, chosen.variables.params)
    assert is_one_sentence(str(error.value))
    with pytest.raises(TypeError, match="found rank beside it") as error:
        mu.low_rank(mu.finetune(chosen.model, optax.sgd(0.1)), SSF(), rank=2)
    assert is_one_sentence(str(error.value))


def test_equal_subspaces_are_one_model_whatever_their_numbers_and_names():
    model = setting("raw").model
    assert lifted(model, FLoRA(2, 4.0)) == lifted(model, FLoRA(2, 8.0, lambda name: True))
    assert lifted(model, FLoRA(2)) != lifted(model, FLoRA(3))
    first, second = (Held(FLoRA(2), ("head",), (mask,)) for mask in (jnp.ones(3), jnp.zeros(3)))
    assert lifted(model, first) == lifted(model, second)
