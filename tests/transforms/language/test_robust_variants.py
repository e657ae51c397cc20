"""Language methods with SAM on the forget term, random smoothing, and averaged weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import counted_compilations
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu
from mu_jax.data.partners import partners, whole
from mu_jax.loops import average_weights, micro_batches, plain, random_smoothing, sam, total
from mu_jax.loops.recording import record
from mu_jax.objectives.segments import erase, keep
from mu_jax.token_losses import sequence_nll, token_kl

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, SGD = jax.random.key(3), optax.sgd(0.1)
METHODS = sorted(mu.transforms.LANGUAGE - {"code_eraser"})
OPTIONS = {"pdu": {"tolerance": 1.0, "warmup_epochs": 0}, "rmu": {"layer": "logits"}}
RECIPE = mu.PairingRecipe(epochs=2, retain_rows=2)


def chosen_for(name):
    return setting("preferences" if name == "dpo" else "tokens")


def run(name, seam=None, sets=None, optimizer=SGD, recipe=RECIPE):
    chosen = chosen_for(name)
    unlearn = getattr(mu, name)(
        chosen.model, optimizer, recipe=recipe._replace(gradients=seam), **OPTIONS.get(name, {})
    )
    return unlearn(KEY, chosen.variables, *(sets or chosen.sets()))


@pytest.mark.quick("dpo", "npo")
@pytest.mark.parametrize("name", METHODS)
def test_no_step_is_plain_and_a_step_is_not(name):
    expected = run(name)[0]
    assert_close(run(name, sam(0.0, "forget"))[0], expected)
    found = run(name, sam(0.5, "forget"))[0].params
    assert not np.allclose(found["bias"], expected.params["bias"], atol=1e-4)


@pytest.mark.quick("rmu")
@pytest.mark.parametrize("name", ["npo", "pdu", "rmu"])
def test_smoothing_by_nothing_is_plain(name):
    assert_close(run(name, random_smoothing(0.0, 2, "forget"))[0], run(name)[0])


@pytest.mark.quick("npo")
@pytest.mark.parametrize("name", METHODS)
def test_averaged_weights_of_every_method(name):
    first, last = (run(name, recipe=RECIPE._replace(steps=n))[0].params for n in (1, 3))
    averaged = optax.chain(SGD, average_weights(1, 2))
    found = run(name, optimizer=averaged, recipe=RECIPE._replace(steps=3))[0].params
    assert_close(found, jax.tree.map(lambda x, y: (x + y) / 2, first, last))


@pytest.mark.slow
def test_a_step_of_npo_by_hand():
    """The forget gradient at the moved parameters, that of the retained rows where they are."""
    rho, beta = 0.4, 0.3
    chosen = setting("tokens")
    forget, retain = chosen.sets()
    recipe = mu.PairingRecipe("kl", gamma=0.5, alpha=2.0, retain_rows=3, epochs=2, batch_size=100)
    seam = sam(rho, term="forget")
    unlearn = mu.npo(chosen.model, SGD, beta=beta, recipe=recipe._replace(gradients=seam))
    found, info = unlearn(KEY, chosen.variables, forget, retain)
    first, rows = chosen.variables.params, forget.replace(batch_size=forget.num_examples).at(0)

    def logits(params, batch):
        return chosen.model.apply(chosen.variables._replace(params=params), batch.inputs)

    def forgetting(params):
        sums = [sequence_nll(logits(p, forget), forget.targets)[0] for p in (params, first)]
        return 0.5 * (-2 / beta * jax.nn.log_sigmoid(beta * (sums[0] - sums[1]))).mean()

    def retaining(params, drawn):
        apart = token_kl(logits(params, drawn), logits(first, drawn))
        return 2 * (apart * drawn.targets.mask).sum() / drawn.targets.mask.sum()

    params = first
    for step in range(2):
        key = jax.random.fold_in(jax.random.fold_in(KEY, step), 1)
        drawn = partners(key, rows, whole(retain), 3)
        loss = forgetting(params) + retaining(params, drawn)
        np.testing.assert_allclose(info.details.loss[step], loss, rtol=1e-5)
        grads = jax.grad(forgetting)(params)
        length = np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in grads.values()))
        moved = {name: p + rho * grads[name] / length for name, p in params.items()}
        steps = jax.grad(forgetting)(moved), jax.grad(retaining)(params, drawn)
        params = jax.tree.map(lambda p, f, r: p - 0.1 * (f + r), params, *steps)
    assert_close(found.params, params)


SEAMS = {
    "sam": lambda **inner: sam(0.3, "forget", **inner),
    "smoothing": lambda **inner: random_smoothing(0.2, 2, "forget", **inner),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seam"), [("npo", "smoothing"), ("dpo", "sam"), ("undial", "sam"), ("pdu", "sam")]
)
def test_parts_of_a_batch_give_the_same(name, seam):
    recipe = RECIPE._replace(batch_size=6)
    expected = run(name, SEAMS[seam](), recipe=recipe)[0]
    in_parts = run(name, SEAMS[seam](gradients=micro_batches(3)), recipe=recipe)[0]
    assert_close(in_parts, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seam", "explicit"),
    [("plain", False), ("sam", False), ("sam", True), ("smoothing", True), ("averaged", True)],
)
def test_devices_do_not_matter(seam, explicit):
    chosen, kinds = setting("tokens"), jax.sharding.AxisType

    def unlearned(sets=None):
        if seam == "averaged":
            return run("npo", sets=sets, optimizer=optax.chain(SGD, average_weights(1, 2)))[0]
        return run("npo", SEAMS[seam]() if seam in SEAMS else None, sets)[0]

    expected = unlearned()
    for number in (1, 2, 8):
        kind = (kinds.Explicit if explicit else kinds.Auto,)
        mesh = jax.make_mesh((number,), ("data",), kind, devices=jax.devices()[:number])
        found = unlearned(tuple(mu.shard(x, mesh) for x in chosen.sets()))
        assert_close(found, expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("seam", [sam, random_smoothing])
def test_a_grid_of_sizes_is_one_program(seam):
    chosen = setting("tokens")
    sets = chosen.sets()

    def unlearned(size):
        recipe = RECIPE._replace(gradients=seam(size, term="forget"))
        return mu.npo(chosen.model, SGD, recipe=recipe)(KEY, chosen.variables, *sets)[0]

    sizes = jnp.array([0.1, 0.5])
    grid = jax.vmap(unlearned)(sizes)
    for number, size in enumerate(sizes.tolist()):
        assert_close(jax.tree.map(lambda x, n=number: x[n], grid), unlearned(size))
    with counted_compilations() as compilations:
        unlearned(0.2)
        unlearned(0.3)
    assert not compilations


def test_a_chain_of_masked_methods_keeps_frozen_leaves():
    averaged = optax.chain(optax.adamw(0.1, weight_decay=0.5), average_weights(0, 2))
    chosen = setting("tokens")
    recipe = RECIPE._replace(gradients=sam(0.3, "forget"))
    unlearn = mu.masked(mu.npo(chosen.model, averaged, recipe=recipe), lambda name: name == "head")
    after, _ = unlearn(KEY, chosen.variables, *chosen.sets())
    for name in ("bias", "hidden"):
        assert_identical(after.params[name], chosen.variables.params[name])
    assert not np.array_equal(after.params["head"], chosen.variables.params["head"])


@pytest.mark.slow
def test_code_eraser_with_sharp_forget_steps_by_hand():
    """One forget step at the moved parameters, one retain step where they are."""
    chosen, rho = setting("tokens"), 0.4
    forget, retain = (x.replace(batch_size=100) for x in chosen.sets())
    unlearn = mu.code_eraser(chosen.model, SGD, epochs=1, gradients=sam(rho))
    found, _ = unlearn(KEY, chosen.variables, forget, retain)
    first = chosen.variables.params

    def logits(params, data):
        return chosen.model.apply(chosen.variables._replace(params=params), data.inputs)

    def forgetting(params):
        rows = logits(params, forget), logits(first, forget), forget.targets, forget.weight
        return total(erase(*rows, gamma=0.1, strength=0.1))

    def retaining(params):
        rows = logits(params, retain), logits(first, retain), retain.targets, retain.weight
        return total(keep(*rows, strength=0.1))

    grads = jax.grad(forgetting)(first)
    moved = optax.tree.add_scale(first, rho / optax.tree.norm(grads), grads)
    params = optax.tree.add_scale(first, -0.1, jax.grad(forgetting)(moved))
    params = optax.tree.add_scale(params, -0.1, jax.grad(retaining)(params))
    assert_close(found.params, params)


def products(name, seam):
    """Operations of one step's products, from its traced program."""
    chosen = chosen_for(name)
    recipe = mu.PairingRecipe(steps=1, gradients=seam)
    unlearn = getattr(mu, name)(chosen.model, SGD, recipe=recipe, **OPTIONS.get(name, {}))
    with record() as programs:
        jax.eval_shape(unlearn, KEY, chosen.variables, *chosen.sets())
    step = programs[-1]
    compiled = jax.jit(step.function).lower(*step.arguments).compile()
    return compiled.cost_analysis()["flops"]


def test_sharpness_costs_one_more_pass_of_the_rows_to_forget():
    """Of two kinds of rows, as many of each: 1.5 times; with both kinds at the moved point, 2."""
    whole = products("npo", plain)
    assert 1.4 < products("npo", sam(0.1, "forget")) / whole < 1.6
    assert 1.8 < products("npo", sam(0.1)) / whole < 2.1


def test_a_term_that_is_not_there_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="a term among forget, retain, found 'secret'") as error:
        run("npo", sam(0.1, "secret"))
    assert is_one_sentence(str(error.value))
