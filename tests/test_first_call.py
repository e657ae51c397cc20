"""What is compiled: little at the first call, nothing at a second one that differs in numbers."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import counted_compilations

import mu_jax as mu
from mu_jax import edits
from mu_jax.data.batches import pad
from mu_jax.models import MLP

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
MODULE = MLP((8,), 3)
MODEL = mu.from_linen(MODULE, mu.losses.cross_entropy)


def init(key):
    return MODULE.init(key, np.ones((1, 4), np.float32))


def fresh_init():
    return lambda key: MODULE.init(key, np.ones((1, 4), np.float32))


def given(seed, examples, forgotten, *, start=None):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(examples, 4)).astype(np.float32)
    data = mu.batches(inputs, rng.integers(3, size=examples), batch_size=8)
    start = VARIABLES if start is None else start
    variables = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.1 * seed), start)
    key = jax.random.wrap_key_data(np.array([0, seed], np.uint32))
    return key, jax.device_put(variables), *mu.split(data, range(forgotten))


VARIABLES = jax.jit(init)(jax.random.key(0))
ORACLES = jax.tree.map(lambda x: jnp.stack([x, 1.1 * x]), VARIABLES)
OTHERS = given(5, 30, 10)[3]
ATTRIBUTION = mu.attribution.trak(
    MODEL, [VARIABLES], OTHERS, key=jax.random.key(0), dim=None, weight_decay=0.1
)


def never_seen(width):
    """A model of a size that no other test has, and where it starts: no program of it is there.

    `jax.clear_caches` would be surer, but all later tests of the process would compile again.
    """
    module = MLP((width,), 3)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.ones((1, 4), np.float32))
    rng = np.random.default_rng(width)
    start = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
    return mu.from_linen(module, mu.losses.cross_entropy), given(0, 40, 16, start=start)


def of_the_last_class(unlearn):
    """A call whose forget set is the last class, of which no example is retained."""

    def call(key, variables, forget, retain):
        forget = forget.replace(targets=jax.device_put(np.full(forget.num_examples, 2)))
        others = np.minimum(np.asarray(retain.targets), 1)
        return unlearn(key, variables, forget, retain.replace(targets=jax.device_put(others)))

    return call


RECIPES = {
    "ssd": lambda x: mu.ssd(MODEL, 1.0 + x, x),
    "adaptive ssd": lambda x: mu.ssd(MODEL, "adaptive", x),
    "iau": lambda x: mu.iau(MODEL, optax.adam(x), retain_weight=x),
    "scaled iau": lambda x: mu.iau(MODEL, optax.sgd(x), scale_by_fraction=True),
    "finetune": lambda x: mu.finetune(MODEL, optax.sgd(x, momentum=x)),
    "epochs": lambda x: mu.finetune(MODEL, optax.adamw(x, weight_decay=x), epochs=round(4 * x)),
    "gradient_ascent": lambda x: mu.gradient_ascent(MODEL, optax.sgd(x), cap=x),
    "neg_grad_plus": lambda x: mu.neg_grad_plus(MODEL, optax.sgd(x), forget_weight=x, cap=x),
    "magnitude_prune": lambda x: mu.magnitude_prune(MODEL, x),
    "retrain": lambda x: mu.retrain(MODEL, optax.sgd(x), init=init),
    "blindspot": lambda x: mu.blindspot(
        MODEL, init=init, optimizer=optax.adam(x), teacher_optimizer=optax.adam(x)
    ),
    "oracle_matching": lambda x: mu.oracle_matching(
        MODEL, optax.adam(x), oracles=ORACLES, recipe=mu.MatchingRecipe(proximity=x)
    ),
    "dmm": lambda x: mu.dmm(MODEL, ATTRIBUTION, optax.adam(x), multiplier=x),
    "gaussian_amnesiac": lambda x: mu.gaussian_amnesiac(MODEL, optax.adam(x), clip=(0, 4 * x)),
    "scrub": lambda x: mu.scrub(
        MODEL, optax.sgd(x), epochs=round(8 * x), temperature=1 + x, gamma=x, alpha=x, rewind=OTHERS
    ),
    "salun": lambda x: mu.salun(MODEL, optax.sgd(x), fraction=x, epochs=round(8 * x)),
    "random_labels": lambda x: mu.random_labels(MODEL, optax.sgd(x), epochs=round(8 * x)),
    "random labels of near classes in turn": lambda x: mu.random_labels(
        MODEL,
        optax.chain(optax.sgd(x), mu.loops.pull_back(x)),
        protocol="alternating",
        label_rule=mu.objectives.nearest_class_label(),
    ),
    "bad_teacher": lambda x: mu.bad_teacher(
        MODEL, optax.adam(x), init=init, temperature=1 + x, scale=x
    ),
    "unsir": lambda x: of_the_last_class(mu.unsir(MODEL, optax.adam(x), penalty=x, copies=3)),
    "l1_sparse": lambda x: mu.l1_sparse(MODEL, optax.sgd(x), gamma=x / 100, epochs=round(8 * x)),
    "synflow_prune": lambda x: mu.synflow_prune(MODEL, x, rounds=5),
    "salient": lambda x: mu.salient(mu.gradient_ascent(MODEL, optax.sgd(x)), x),
    "pruned": lambda x: mu.chain(
        mu.magnitude_prune(MODEL, x), mu.finetune(MODEL, optax.adamw(x), epochs=round(8 * x))
    ),
    "flora": lambda x: mu.low_rank(
        mu.finetune(MODEL, optax.sgd(x)), mu.subspaces.FLoRA(2, x, lambda name: "kernel" in name)
    ),
    "masked": lambda x: mu.masked(mu.ssd(MODEL, 1.0 + x), lambda name: name.endswith("kernel")),
    "masked twice": lambda x: mu.masked(
        mu.finetune(mu.restrict(MODEL, lambda name: "head" in name), optax.sgd(x)),
        lambda name: name.endswith("kernel"),
    ),
    "watched": lambda x: mu.watched(
        mu.masked(mu.iau(MODEL, optax.sgd(x)), lambda name: name.endswith("bias"))
    ),
    "scaled": lambda x: mu.scaled(mu.ssd(MODEL, 1.5), x),
    "through": lambda x: mu.through(
        mu.ssd(MODEL, 1.5), optax.chain(optax.apply_if_finite(optax.clip(1.0), 1), optax.scale(x))
    ),
    "chain": lambda x: mu.chain(mu.ssd(MODEL, x), mu.finetune(MODEL, optax.sgd(x))),
}


@pytest.mark.quick("ssd", "epochs", "dmm", "scrub", "masked twice", "through")
@pytest.mark.parametrize("name", RECIPES)
def test_other_sizes_seeds_optimizers_and_numbers_compile_nothing(name):
    RECIPES[name](0.25)(*given(0, 40, 12))
    others = [given(1, 40, 5), given(2, 53, 20)]
    with counted_compilations() as compilations:
        for number, other in zip((0.5, 0.75), others):
            RECIPES[name](number)(*other)
    assert compilations == []


def test_the_sets_themselves_compile_nothing():
    with counted_compilations() as compilations:
        given(3, 61, 17)
    assert compilations == []


FIRST = {
    "ssd": (2, lambda model: mu.ssd(model, 1.5, 0.5)),
    "iau": (3, lambda model: mu.iau(model, optax.adam(0.5), retain_weight=0.5)),
    "finetune": (5, lambda model: mu.finetune(model, optax.sgd(0.5, momentum=0.5))),
}


@pytest.mark.parametrize(("number", "name"), enumerate(FIRST))
def test_a_first_call_is_few_programs(number, name):
    model, one = never_seen(37 + number)
    most, recipe = FIRST[name]
    with counted_compilations() as compilations:
        recipe(model)(*one)
    assert 1 <= len(compilations) <= most


def test_a_first_call_on_a_mesh_is_few_programs():
    model, (key, variables, *sets) = never_seen(41)
    sets = [mu.shard(part, mu.data_mesh()) for part in sets]
    with counted_compilations() as compilations:
        mu.ssd(model, 1.5)(key, variables, *sets)
    assert 1 <= len(compilations) <= 6


@pytest.mark.quick("ssd")
@pytest.mark.parametrize("name", ["ssd", "finetune"])
def test_other_sizes_and_numbers_compile_nothing_on_a_mesh(name):
    mesh = mu.data_mesh()

    def unlearn(number, *given):
        key, variables, *sets = given
        sets = [mu.shard(part, mesh) for part in sets]
        return RECIPES[name](number)(key, variables, *sets)[0]

    unlearn(0.25, *given(0, 40, 12))
    one, other = given(1, 40, 5), given(2, 53, 20)
    with counted_compilations() as compilations:
        unlearn(0.5, *one)
        found = unlearn(0.75, *other)
    assert compilations == []
    expected = RECIPES[name](0.75)(*other)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, expected)


@pytest.mark.slow
def test_a_first_call_of_a_process_is_few_programs():
    for most, recipe in FIRST.values():
        unlearn, one = recipe(MODEL), given(0, 40, 12)
        jax.clear_caches()
        with counted_compilations() as compilations:
            unlearn(*one)
        assert 1 <= len(compilations) <= most


def test_walking_through_batches_compiles_nothing():
    data = given(0, 43, 12)[3]
    with counted_compilations() as compilations:
        batches = list(data)
        pad(batches[0], 13)
    assert compilations == []
    assert len(batches) == data.num_batches


def test_walking_through_batches_on_a_mesh_is_one_program():
    data = mu.shard(given(0, 46, 12)[3], mu.data_mesh())
    with counted_compilations() as compilations:
        list(data)
    assert len(compilations) == 1


@pytest.mark.quick("one_by_one")  # "together" below, on other sizes
@pytest.mark.parametrize("layout", ["together", "one_by_one"])
def test_training_an_ensemble_again_compiles_nothing(layout):
    data = given(0, 40, 12)[3]
    keys = jax.random.split(jax.random.key(0), 2)

    def train(rate):
        options = {"init": fresh_init(), "epochs": 1, "layout": layout}
        return mu.ensembles.train(MODEL, optax.sgd(rate), data, keys, **options)

    first = train(0.1)
    with counted_compilations() as compilations:
        again, other = train(0.1), train(0.2)
    assert compilations == []
    jax.tree.map(np.testing.assert_array_equal, first, again)
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True)
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in pairs)


@pytest.mark.quick("together-weighted")
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("layout", ["together", "one_by_one"])
def test_training_an_ensemble_on_other_sizes_compiles_nothing(layout, weighted):
    keys = an_ensemble(0)[0]

    def train(data, keys=keys):
        rows = np.arange(2 * data.num_examples).reshape(2, -1) % 3 if weighted else None
        options = {"init": init, "epochs": 3, "layout": layout}
        return mu.ensembles.train(MODEL, optax.sgd(0.1, momentum=0.9), data, keys, rows, **options)

    first, *others = (given(seed, 30 + size, size)[3] for seed, size in enumerate((9, 21, 14)))
    others = [others[0].take(range(8)), others[1].take(range(23))]
    train(first)
    with counted_compilations() as compilations:
        found = list(map(train, others))
    assert compilations == []
    for data, variables in zip(others, found):  # inside jit the rows are those of the set alone
        expected = jax.jit(train)(data, keys)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), variables, expected
        )


def an_ensemble(seed):
    rng = np.random.default_rng(seed)
    keys = jax.random.wrap_key_data(np.arange(4, dtype=np.uint32).reshape(2, 2) + seed)
    return keys, jax.device_put(
        jax.tree.map(lambda x: rng.normal(size=(2, *x.shape)).astype(np.float32), VARIABLES)
    )


@pytest.mark.quick("together-finetune")
@pytest.mark.parametrize(
    ("layout", "name"),
    [("together", "finetune"), ("together", "scrub"), ("one_by_one", "ssd")],
)
def test_unlearning_an_ensemble_again_compiles_nothing(layout, name):
    def unlearn(number, seed):
        _, _, forget, retain = given(seed, 40, 12)
        keys, ensemble = an_ensemble(seed)
        transform = RECIPES[name](number)
        return mu.ensembles.unlearn(transform, keys, ensemble, forget, retain, layout=layout)[0]

    unlearn(0.2, 0)
    with counted_compilations() as compilations:
        found = unlearn(0.3, 1)
    assert compilations == []
    _, _, forget, retain = given(1, 40, 12)
    keys, ensemble = an_ensemble(1)
    for member in range(2):
        start = jax.tree.map(lambda x, k=member: x[k], ensemble)
        expected = RECIPES[name](0.3)(keys[member], start, forget, retain)[0]
        jax.tree.map(
            lambda a, b, k=member: np.testing.assert_allclose(a[k], b, rtol=1e-4, atol=1e-5),
            found,
            expected,
        )


@pytest.mark.parametrize("layout", ["together", "one_by_one"])
def test_outputs_of_an_ensemble_of_other_sizes_compile_nothing(layout):
    def outputs(seed, size):
        data = given(seed, size, 9)[3]
        return mu.ensembles.ensemble_outputs(MODEL, an_ensemble(seed)[1], data, layout=layout), data

    outputs(0, 40)
    with counted_compilations() as compilations:
        found, data = outputs(1, 77)
    assert compilations == []
    expected = jax.vmap(lambda v: MODEL.apply(v, data.inputs))(an_ensemble(1)[1])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_grid_outside_jit_compiles_once():
    def grid(numbers):
        return jax.vmap(lambda x: mu.ssd(MODEL, 1.0 + x)(*one)[0])(numbers)

    one = given(0, 40, 12)
    numbers = np.float32([0.1, 0.2]), np.float32([0.3, 0.4])
    grid(numbers[0])
    with counted_compilations() as compilations:
        grid(numbers[1])
    assert compilations == []


@pytest.mark.quick("scaled iau")  # the laws of methods check the others
@pytest.mark.parametrize("name", ["ssd", "scaled iau", "finetune", "neg_grad_plus"])
def test_no_cache_keeps_what_is_traced(name):
    one = given(0, 40, 12)
    with jax.checking_leaks():
        jax.vmap(lambda x: RECIPES[name](x)(*one)[0])(np.array([0.1, 0.2], np.float32))


@pytest.mark.slow  # of every way to put a method together, a law of methods
def test_numbers_that_are_traced_are_those_of_the_loop():
    one = given(0, 40, 12)
    rates = np.array([0.1, 0.3], np.float32)
    found = jax.vmap(lambda x: mu.finetune(MODEL, optax.sgd(x))(*one)[0])(rates)
    for number, rate in enumerate((0.1, 0.3)):
        expected = mu.finetune(MODEL, optax.sgd(rate))(*one)[0]
        jax.tree.map(
            lambda a, b, i=number: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-6),
            found,
            expected,
        )


def test_a_loop_knows_its_steps_outside_and_inside_jit():
    one = given(0, 40, 12)
    unlearn = mu.finetune(MODEL, optax.sgd(0.1), epochs=3)
    outside, inside = (f(*one)[1].details for f in (unlearn, jax.jit(unlearn)))
    assert outside.loss.shape == inside.loss.shape == (12,)
    np.testing.assert_allclose(outside.loss, inside.loss, rtol=1e-5)


def as_numpy_and_compiled(function, *args):
    return function(*args), jax.jit(function)(*args)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_an_edit_is_the_same_in_numpy_and_compiled(dtype):
    rng = np.random.default_rng(0)
    theta, forget, full = (
        {"a": jnp.asarray(np.square(rng.normal(size=(4, 3))), kind), "b": jnp.zeros(2, kind)}
        for kind in (dtype, jnp.float32, jnp.float32)
    )

    def edit(theta, forget, full):
        updates = edits.dampen(theta, forget, full, alpha=1.2, dampening=0.5)
        after = edits.apply(theta, updates)
        return updates, after, edits.summarize(theta, after)

    host, compiled = as_numpy_and_compiled(edit, theta, forget, full)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), host, compiled)
    kinds = [[(x.dtype, x.shape) for x in jax.tree.leaves(tree)] for tree in (host, compiled)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int8])
def test_a_fingerprint_is_the_same_in_numpy_and_compiled(dtype):
    values = np.random.default_rng(0).normal(size=(300, 301)) * 9
    tree = {"a": jnp.asarray(values, dtype), "b": jnp.ones((), dtype)}
    host, compiled = as_numpy_and_compiled(mu.statistics.fingerprint, tree)
    np.testing.assert_array_equal(host, compiled)
