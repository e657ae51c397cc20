"""The four definitions of importance against loops over examples, in float64."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_files import load

import mu_jax as mu
from mu_jax.losses import cross_entropy
from mu_jax.statistics import importance

N, CLASSES = 11, 3
WEIGHT = np.array([1, 0.5, 2, 1, 0, 0.25, 3, 1, 1, 0.75, 1])  # exact in float32, sum too
CASES = [
    ("per_example", None),
    ("grouped", 3),
    ("grouped", 4),
    ("loss_free", None),
    ("loss_free", 4),
    ("fisher", None),
]


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.Conv(3, (3, 3))(x)
        x = nn.tanh(nn.BatchNorm(use_running_average=not train)(x))
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=not train)(x.mean((1, 2))))


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.head = nnx.Linear(3, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.tanh(self.norm(self.conv(x))).mean((1, 2)))


def spread(tree):
    """Arrays that are all different from their initial zeros and ones, float64 in x64."""

    def leaf(path, x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        noise = np.random.default_rng(len(str(path))).uniform(0.1, 0.5, x.shape)
        return jnp.asarray(np.asarray(x) + noise, float)

    return jax.tree_util.tree_map_with_path(leaf, tree)


def once(make):
    """The same model and variables for all tests of a precision, so that these share programs."""
    return functools.wraps(make)(lambda: _made(make, jax.config.jax_enable_x64))


@functools.cache
def _made(make, wide):
    assert jax.config.jax_enable_x64 == wide
    return make()


@once
def linen_case():
    variables = jax.jit(Linen().init)(jax.random.key(0), np.zeros((1, 4, 4, 2)))
    return mu.from_linen(Linen(), cross_entropy), spread(variables)


@once
def nnx_case():
    net = NNX(nnx.Rngs(0))
    return mu.from_nnx(net, cross_entropy), spread(nnx.state(net))


def predict(params, state, x):
    """A kernel that is used twice, a scale, and a bias on a flattened image."""
    h = jnp.tanh(x.reshape(-1, 8, 4) @ params["shared"])
    h = jnp.tanh(h @ params["shared"]) * params["scale"]
    return h.reshape(-1, 32) @ params["head"] + params["bias"] + state["shift"]


@once
def raw_case():
    params = {
        "shared": np.zeros((4, 4)),
        "scale": np.zeros(()),
        "head": np.zeros((32, CLASSES)),
        "bias": np.zeros(CLASSES),
    }
    variables = mu.Variables(spread(params), {"shift": jnp.asarray(np.arange(3.0), float)})
    return mu.from_function(predict, cross_entropy), variables


def data(batch_size=4, weight=WEIGHT):
    inputs = np.random.default_rng(3).normal(size=(N, 4, 4, 2))
    targets = np.random.default_rng(4).integers(0, CLASSES, N)
    return mu.batches(jnp.asarray(inputs, float), targets, batch_size=batch_size, weight=weight)


@functools.cache
def gradient_of(model, losses):
    """The gradient at one example, one program for all tests."""

    def loss(params, state, x, y):
        return losses(model.predict(params, state, x), y)[0]

    return jax.jit(jax.grad(loss))


def squared_outputs(outputs, _):
    return jnp.square(outputs).sum(axis=1)


def gradients(model, variables, batches, losses):
    """One gradient per example: a list of flat lists of arrays."""
    params, state = model.split(variables)
    gradient = gradient_of(model, losses)
    inputs, targets = np.asarray(batches.inputs), np.asarray(batches.targets)
    pairs = [(inputs[i : i + 1], targets[i : i + 1]) for i in range(N)]
    return [
        [np.asarray(g) for g in jax.tree.leaves(gradient(params, state, x, y))] for x, y in pairs
    ]


def weighted(rows, weight):
    return [sum(w * g for w, g in zip(weight, leaf)) for leaf in zip(*rows, strict=True)]


def by_hand(model, variables, batches, definition, size):
    """Mean over groups of consecutive examples, then the square or the magnitude."""
    weight = np.asarray(batches.weight, np.float64)
    if definition == "fisher":
        return fisher_by_hand(model, variables, batches, weight)
    losses = squared_outputs if definition == "loss_free" else model.loss
    rows = gradients(model, variables, batches, losses)
    power = np.abs if definition == "loss_free" else np.square
    if size in (None, 1):
        powers = [[power(g) for g in row] for row in rows]
        return [x / weight.sum() for x in weighted(powers, weight)]
    groups = [slice(first, first + size) for first in range(0, N, size)]
    groups = [group for group in groups if weight[group].any()]
    means = [weighted(rows[g], weight[g] / weight[g].sum()) for g in groups]
    return [np.mean([power(m[leaf]) for m in means], axis=0) for leaf in range(len(rows[0]))]


def fisher_by_hand(model, variables, batches, weight):
    scores = np.exp(np.asarray(jax.jit(model.apply)(variables, batches.inputs)))
    probabilities = scores / scores.sum(1, keepdims=True)
    total = 0
    for label in range(CLASSES):
        labeled = batches.replace(targets=np.full(N, label))
        rows = gradients(model, variables, labeled, model.loss)
        squares = [[np.square(g) for g in row] for row in rows]
        part = weighted(squares, weight * probabilities[:, label])
        total = part if label == 0 else [a + b for a, b in zip(total, part, strict=True)]
    return [x / weight.sum() for x in total]


def close(value, expected, tolerance):
    for found, wanted in zip(jax.tree.leaves(value), expected, strict=True):
        assert found.shape == wanted.shape
        assert wanted.any()
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance * wanted.max())


# Every definition on raw functions; on frameworks those whose programs differ.
@pytest.mark.quick(
    "raw_case-*", "linen_case-per_example-*", "linen_case-fisher-*", "nnx_case-grouped-4"
)
@pytest.mark.parametrize(("definition", "size"), CASES)
@pytest.mark.parametrize("make", [linen_case, nnx_case, raw_case])
def test_against_a_loop_over_examples(make, definition, size):
    with jax.enable_x64(True):
        model, variables = make()
        acc = mu.collect(importance(model, definition, size), variables, data())
        close(acc.value, by_hand(model, variables, data(), definition, size), 1e-12)
        assert jax.tree.structure(acc.value) == jax.tree.structure(model.params(variables))
        expected = WEIGHT.sum() if size in (None, 1) else -(-N // size)
        assert acc.weight == expected


@pytest.mark.quick("per_example-None", "grouped-3", "loss_free-4")
@pytest.mark.parametrize(("definition", "size"), CASES)
def test_the_batch_size_does_not_matter(definition, size):
    """Neither one that groups do not divide, nor one above the number of examples."""
    with jax.enable_x64(True):
        model, variables = raw_case()
        statistic = importance(model, definition, size)
        expected = by_hand(model, variables, data(), definition, size)
        for batch_size in (5, 50):
            acc = mu.collect(statistic, variables, data(batch_size))
            close(acc.value, expected, 1e-12)


@pytest.mark.parametrize(("definition", "size"), CASES[:2])
def test_lists_of_batches_of_whole_groups(definition, size):
    with jax.enable_x64(True):
        model, variables = raw_case()
        rows = 2 * (size or 2)
        batches = data(rows)
        kept = [np.asarray(b.index) >= 0 for b in batches]
        ragged = [jax.tree.map(lambda x, k=k: np.asarray(x)[k], b) for b, k in zip(batches, kept)]
        assert ragged[-1].weight.shape[0] < rows
        acc = mu.collect(importance(model, definition, size), variables, ragged)
        close(acc.value, by_hand(model, variables, batches, definition, size), 1e-12)


@pytest.mark.quick("per_example-*", "grouped-4", "fisher-*")
@pytest.mark.parametrize(("definition", "size"), CASES)
def test_in_float32(definition, size):
    with jax.enable_x64(True):
        model, variables = linen_case()
        expected = by_hand(model, variables, data(), definition, size)
    narrow = jax.tree.map(lambda x: jax.device_put(np.asarray(x, np.float32)), variables)
    value = mu.collect(importance(model, definition, size), narrow, data()).value
    assert {leaf.dtype for leaf in jax.tree.leaves(value)} == {jnp.dtype("float32")}
    close(value, expected, 2e-5)
    assert all(leaf.min() >= 0 for leaf in jax.tree.leaves(value))


@pytest.mark.parametrize("definition", ["per_example", "loss_free", "fisher"])
def test_order_does_not_matter_without_groups(definition):
    with jax.enable_x64(True):
        model, variables = raw_case()
        statistic = importance(model, definition)
        first, second = (
            mu.collect(statistic, variables, batches).value
            for batches in (data(), data().shuffled(jax.random.key(0)))
        )
        close(first, jax.tree.leaves(jax.tree.map(np.asarray, second)), 1e-12)


def test_groups_depend_on_the_order():
    """Why the grouped form is a parity mode and not the default."""
    model, variables = raw_case()
    statistic = importance(model, "grouped", 4)
    first, second = (
        mu.collect(statistic, variables, batches).value["head"]
        for batches in (data(), data().shuffled(jax.random.key(0)))
    )
    assert np.abs(first - second).max() > 0.05 * np.abs(first).max()


def test_groups_of_one_are_examples():
    model, variables = raw_case()
    batches = data(weight=None)
    grouped = mu.collect(importance(model, "grouped", 1), variables, batches).value
    single = mu.collect(importance(model), variables, batches).value
    close(grouped, jax.tree.leaves(jax.tree.map(np.asarray, single)), 1e-5)


def test_a_group_of_everything_is_the_square_of_the_mean_gradient():
    with jax.enable_x64(True):
        model, variables = raw_case()
        gradient = mu.collect(mu.statistics.mean_gradient(model), variables, data()).value
        value = mu.collect(importance(model, "grouped", N), variables, data()).value
        close(value, [np.square(g) for g in jax.tree.leaves(gradient)], 1e-12)


@pytest.mark.parametrize("definition", ["loss_free", "fisher"])
def test_labels_are_not_read(definition):
    model, variables = raw_case()
    batches = data()
    values = [
        mu.collect(importance(model, definition), variables, batches.replace(targets=t)).value
        for t in (batches.targets, (batches.targets + 1) % CLASSES, ())
    ]
    for other in values[1:]:
        jax.tree.map(np.testing.assert_array_equal, values[0], other)


def test_loss_free_takes_outputs_of_any_shape():
    def branches(w, state, x):
        return {"a": jnp.tensordot(x, w, 1), "b": x.sum((1, 2)) @ w}

    with jax.enable_x64(True):
        model = mu.from_function(branches, lambda outputs, targets: None)
        variables = mu.Variables(jnp.array([[1.0, -0.5], [0.25, 2.0]]))
        value = mu.collect(importance(model, "loss_free"), variables, data(weight=None)).value

        def size(w, x):
            outputs = branches(w, (), x[None])
            return jnp.square(outputs["a"]).sum() + jnp.square(outputs["b"]).sum()

        gradient = jax.jit(jax.grad(size))
        rows = [np.abs(gradient(variables.params, x)) for x in np.asarray(data().inputs)]
        close([value], [np.mean(rows, axis=0)], 1e-12)


@pytest.fixture(scope="module")
def golden():
    return load("ssd_mlp_f64.npz")


def mlp(params, state, x):
    for name in ("fc1", "fc2"):
        x = jax.nn.relu(x @ params[f"{name}.weight"].T + params[f"{name}.bias"])
    return x @ params["fc3.weight"].T + params["fc3.bias"]


@pytest.mark.quick(
    "forget-shuffled-grouped-64",
    "forget-lossfree-loss_free-64",
    "full-ref-grouped-64",
    "full-per_example-per_example-None",
)
@pytest.mark.parametrize(
    ("variant", "definition", "size"),
    [
        ("ref", "grouped", 64),
        ("shuffled", "grouped", 64),
        ("per_example", "per_example", None),
        ("lossfree", "loss_free", 64),
    ],
)
@pytest.mark.parametrize("part", ["forget", "full"])
def test_against_the_published_program(golden, part, variant, definition, size):
    with jax.enable_x64(True):
        names = [str(name) for name in golden["param_names"]]
        params = {name: jnp.asarray(golden[f"w_before/{name}"]) for name in names}
        rows = golden["forget_idx"] if part == "forget" else np.arange(len(golden["x"]))
        if variant == "shuffled" and part == "full":
            rows = golden["shuffle_perm"]
        batches = mu.batches(golden["x"][rows], golden["y"][rows], batch_size=200)
        model = mu.from_function(mlp, cross_entropy)
        acc = mu.collect(importance(model, definition, size), mu.Variables(params), batches)
        for name in names:
            expected = golden[f"imp_{part}/{variant}/{name}"]
            np.testing.assert_allclose(
                acc.value[name], expected, rtol=1e-9, atol=1e-9 * expected.max(), err_msg=name
            )


@pytest.mark.parametrize(
    ("definition", "size", "sentence"),
    [
        ("hessian", None, "definition among .*per_example.*, found 'hessian': choose"),
        ("grouped", None, "a group_size for grouped importance, found none: the published"),
        ("grouped", 0, "group_size >= 1, found 0: give"),
        ("loss_free", -1, "group_size >= 1, found -1: give"),
        ("per_example", 64, "no group_size for per_example importance, found 64: use"),
        ("fisher", 2, "no group_size for fisher importance, found 2: use"),
    ],
)
def test_definitions_that_are_refused(definition, size, sentence):
    model, _ = raw_case()
    with pytest.raises(ValueError, match=sentence) as raised:
        importance(model, definition, size)
    assert str(raised.value).startswith("expected ") and "\n" not in str(raised.value)


def test_batches_that_cut_groups_are_refused():
    model, variables = raw_case()
    batches = list(data(4))
    with pytest.raises(ValueError, match="whole groups of 3 examples, found a batch of 4: give"):
        mu.collect(importance(model, "grouped", 3), variables, batches)


def test_fisher_refuses_what_is_not_logits():
    model = mu.from_function(lambda w, state, x: x.sum(-1) @ w, lambda o, t: o.sum((1, 2)))
    with pytest.raises(ValueError, match=r"shape \[examples, classes\] for the exact Fisher"):
        mu.collect(importance(model, "fisher"), mu.Variables(jnp.ones((4, 3))), data())


def test_the_same_arguments_have_one_statistic():
    model, _ = raw_case()
    assert importance(model) is importance(model)
    assert importance(model, "grouped", 2) is importance(model, "grouped", 2)
