"""Models of which adapters alone are trained, in every framework; adapters that are kept."""

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

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, SGD = jax.random.key(3), optax.sgd(0.1)
NAMES = ["raw", "bfloat16", "linen", "nnx", "cnn", "tokens"]


@pytest.mark.quick("raw")
@pytest.mark.parametrize("name", NAMES)
def test_new_adapters_change_nothing_and_merged_ones_compute_the_same(name):
    base, chosen = setting(name), setting(f"adapted {name}")
    inputs = base.data().at(0).inputs
    new = lora.attach(KEY, base.model, base.variables)
    assert_identical(chosen.model.apply(new, inputs), base.model.apply(base.variables, inputs))
    moved = chosen.variables
    found = chosen.model.apply(moved, inputs)
    merged = lora.merge(base.model, moved)
    assert jax.tree.structure(merged) == jax.tree.structure(base.variables)
    assert_close(found, base.model.apply(merged, inputs), rtol=1e-4, atol=1e-5)
    assert not np.allclose(found, base.model.apply(moved.base, inputs), atol=1e-2)


@pytest.mark.quick("nnx")
@pytest.mark.parametrize("name", ["linen", "nnx", "tokens"])
def test_a_gate_gives_each_row_of_any_model_its_share(name):
    base, chosen = setting(name), setting(f"adapted {name}")
    inputs, start = base.data().at(0).inputs, chosen.variables
    weight = jnp.array([0.0, 0.3, 1.0, 1.2])
    found = chosen.model.apply(start, lora.Gated(inputs, weight))
    for k, share in enumerate(weight):
        alone = lora.merge(base.model, start._replace(scale=share * start.scale))
        wanted = base.model.apply(alone, inputs)[k]
        assert_close(found[k], wanted, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found[2], base.model.apply(start.base, inputs)[2], atol=1e-2)


def test_the_factored_form_of_a_raw_model_is_the_merged_one():
    base, chosen = setting("raw"), setting("adapted raw")
    inputs, start = base.data().at(0).inputs, chosen.variables
    thin = lora.adapted(base.model, factored=True)
    assert_close(thin.apply(start, inputs), chosen.model.apply(start, inputs), rtol=1e-4)
    for weight in (jnp.zeros(4), jnp.array([0.0, 0.3, 1.0, 1.2])):
        gated = lora.Gated(inputs, weight)
        assert_close(thin.apply(start, gated), chosen.model.apply(start, gated), rtol=1e-4)


@pytest.mark.parametrize("name", ["raw", "linen", "nnx"])
def test_a_transform_moves_the_adapters_and_no_bit_of_the_base(name):
    chosen = setting(f"adapted {name}")
    after, _ = mu.neg_grad_plus(chosen.model, SGD, forget_weight=0.3, epochs=1)(
        KEY, chosen.variables, *chosen.sets()
    )
    assert_identical(after.base, chosen.variables.base)
    assert_identical(after.scale, chosen.variables.scale)
    for old, new in zip(
        jax.tree.leaves(chosen.variables.adapters), jax.tree.leaves(after.adapters)
    ):
        assert (np.asarray(old) != np.asarray(new)).any()


@pytest.mark.parametrize("name", ["linen", "nnx"])
def test_training_mode_moves_statistics_of_the_base_alone(name):
    base, chosen = setting(name), setting(f"adapted {name}")
    start = chosen.variables
    _, after = chosen.model.apply_train(start, base.data().at(0).inputs, KEY)
    assert_identical(base.model.params(after.base), base.model.params(start.base))
    assert_identical(after.adapters, start.adapters)
    merged = lora.merge(base.model, start)
    _, wanted = base.model.apply_train(merged, base.data().at(0).inputs, KEY)
    found, wanted = (base.model.split(v)[1] for v in (after.base, wanted))
    numbers = [x for x in jax.tree.leaves(found) if jnp.issubdtype(x.dtype, jnp.floating)]
    expected = [x for x in jax.tree.leaves(wanted) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert_close(numbers, expected, rtol=1e-4)


def test_the_reference_of_npo_is_the_base_with_its_adapters():
    chosen = setting("adapted tokens")
    _, info = mu.npo(chosen.model, SGD, beta=0.5, recipe=mu.PairingRecipe("none", epochs=1))(
        KEY, chosen.variables, *chosen.sets()
    )
    np.testing.assert_allclose(info.details.loss[0], 4 * np.log(2), rtol=1e-6)


def test_importance_of_adapters_is_that_of_a_loop_over_examples():
    chosen = setting("adapted raw")
    start, data = chosen.variables, chosen.data()
    found = mu.collect(mu.statistics.importance(chosen.model), start, data).value

    def loss(adapters, batch):
        return chosen.model.losses(start._replace(adapters=adapters), batch)[0]

    total = jax.tree.map(jnp.zeros_like, start.adapters)
    for k in range(data.num_examples):
        one = data.take([k]).replace(batch_size=1).at(0)
        grads = jax.grad(loss)(start.adapters, one)
        total = jax.tree.map(lambda s, g: s + g**2 / data.num_examples, total, grads)
    assert_close(found, total, rtol=1e-4)


def test_equal_arguments_give_one_model():
    model = setting("raw").model
    assert lora.adapted(model) == lora.adapted(model) != lora.adapted(model, factored=True)


# --- one program for the subspace ---


def test_low_rank_changes_chosen_kernels_by_matrices_of_that_rank():
    chosen = setting("raw")
    unlearn = mu.low_rank(
        mu.neg_grad_plus(chosen.model, SGD, epochs=2), rank=2, chosen=lambda name: name == "hidden"
    )
    after, info = jax.jit(unlearn)(KEY, chosen.variables, *chosen.sets())
    change = np.asarray(after.params["hidden"] - chosen.variables.params["hidden"])
    assert np.linalg.matrix_rank(change, tol=1e-4) == 2
    for name in ("head", "bias"):
        assert_identical(after.params[name], chosen.variables.params[name])
    share = {name: float(x) for name, x in info.edit.changed_by_leaf.items()}
    assert share == {"bias": 0, "head": 0, "hidden": 1}
    assert_close(unlearn(KEY, chosen.variables, *chosen.sets())[0], after)


def test_low_rank_is_the_fit_of_adapters_and_their_merger():
    chosen = setting("raw")
    start = lora.attach(jax.random.fold_in(KEY, 0), chosen.model, chosen.variables, rank=3, alpha=6)
    fit = mu.finetune(lora.adapted(chosen.model), SGD, epochs=2)
    wanted, _ = fit(jax.random.fold_in(KEY, 1), start, *chosen.sets())
    unlearn = mu.low_rank(mu.finetune(chosen.model, SGD, epochs=2), rank=3, alpha=6)
    found, _ = unlearn(KEY, chosen.variables, *chosen.sets())
    assert_close(found, lora.merge(chosen.model, wanted))


def test_masked_kernels_get_no_adapters():
    chosen = setting("raw")
    unlearn = mu.masked(
        mu.low_rank(mu.finetune(chosen.model, SGD), rank=2), lambda name: name != "head"
    )
    after, _ = unlearn(KEY, chosen.variables, *chosen.sets())
    assert_identical(after.params["head"], chosen.variables.params["head"])
    assert (after.params["hidden"] != chosen.variables.params["hidden"]).any()


def test_alpha_may_be_traced_and_counts():
    chosen = setting("raw")

    def unlearned(alpha):
        unlearn = mu.low_rank(mu.finetune(chosen.model, SGD), rank=2, alpha=alpha)
        return unlearn(KEY, chosen.variables, *chosen.sets())[0].params["hidden"]

    many = jax.vmap(unlearned)(jnp.array([2.0, 8.0]))
    assert_close(many[1], unlearned(8.0), rtol=1e-4)
    assert not np.allclose(*many)


def test_a_chain_is_refused_in_one_sentence():
    with pytest.raises(TypeError, match="found a chain") as error:
        mu.low_rank(mu.chain(mu.finetune(setting("raw").model, SGD)))
    assert is_one_sentence(str(error.value))


# --- kept as data ---


@pytest.mark.parametrize("name", ["raw", "linen", "nnx"])
def test_adapters_come_back_for_their_base_alone(name, tmp_path):
    chosen = setting(f"adapted {name}")
    lora.keep_adapters(chosen.variables).save(tmp_path / "one.npz")
    kept = lora.load_adapters(tmp_path / "one.npz")
    assert_identical(kept.attach(chosen.variables.base), chosen.variables)
    other = jax.tree.map(lambda x: x, setting(name).init(jax.random.key(1)))
    with pytest.raises(ValueError, match="expected the base of these adapters, found other") as e:
        kept.attach(other)
    assert is_one_sentence(str(e.value))


def test_other_files_and_numbers_are_refused_in_one_sentence(tmp_path):
    start = setting("adapted raw").variables
    np.savez(tmp_path / "other.npz", x=np.ones(2))
    with pytest.raises(ValueError, match="found another or a damaged file") as error:
        lora.load_adapters(tmp_path / "other.npz")
    assert is_one_sentence(str(error.value))
    bad = start._replace(adapters=jax.tree.map(lambda x: x * jnp.nan, start.adapters))
    with pytest.raises(ValueError, match="found NaN or infinity in head") as error:
        lora.keep_adapters(bad)
    assert is_one_sentence(str(error.value))
    with pytest.raises(FileNotFoundError):
        lora.load_adapters(tmp_path / "none.npz")


def test_variables_without_adapters_are_refused_in_one_sentence():
    base = setting("raw")
    with pytest.raises(TypeError, match="expected Adapted variables, found Variables") as error:
        lora.adapted(base.model).apply(base.variables, base.inputs)
    assert is_one_sentence(str(error.value))
