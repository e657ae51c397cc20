"""Arguments of a kind that the library does not take: a sentence says what to give."""

from __future__ import annotations

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

import mu_jax as mu
from mu_jax.transforms._shared.transform import Transform

N = 8
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
LABELS = np.arange(N) % 2
KEY, SGD = jax.random.key(0), optax.sgd(0.1)
MODEL = mu.from_function(lambda w, state, x: jnp.tanh(x) @ w, mu.losses.cross_entropy)
VARIABLES = mu.Variables(jnp.asarray(X[:3, :2]))
DATA = mu.batches(X, LABELS, batch_size=4)


def refused(sentence, function, *arguments, error=TypeError, **named):
    with pytest.raises(error, match=sentence) as raised:
        function(*arguments, **named)
    message = str(raised.value)
    assert re.fullmatch(r"expected [^\n]+ found [^\n]+: [^\n]+[^.\n]", message), message


class Loader:
    """What a loader of another library yields: lists of arrays."""

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return 2

    def __iter__(self):
        return iter([[X[:4], LABELS[:4]], [X[4:], LABELS[4:]]])


def test_loaders_of_other_libraries_are_refused():
    loader, (forget, retain) = Loader(list(zip(X, LABELS, strict=True))), mu.split(DATA, [1, 2])
    sentence = r"an iterable of mu.Batch, found one of list \(float32\[4,3\] int64\[4\]\)"
    for given in (loader, list(loader)):
        refused(sentence, mu.collect, mu.statistics.mean_gradient(MODEL), VARIABLES, given)
        refused(sentence, mu.finetune(MODEL, SGD), KEY, VARIABLES, forget, given)
        refused(sentence, mu.gaussian_amnesiac(MODEL, SGD), KEY, VARIABLES, given, retain)
    refused("found Loader: make one with mu.batches", mu.split, loader, [1])
    for make in (mu.stream, functools.partial(mu.batches, targets=LABELS)):
        refused("found Loader: read it by mu.datasets.from_loader", make, loader, batch_size=4)
    stream = mu.stream(loader.dataset, batch_size=4)
    np.testing.assert_allclose(
        mu.outputs(MODEL, VARIABLES, stream), mu.outputs(MODEL, VARIABLES, DATA)
    )


def test_a_key_in_the_place_of_the_variables_is_refused():
    for variables, kind in ((VARIABLES, "Variables"), ({"params": X}, "dict")):
        sentence = f"a key first and the variables second, found {kind} and"
        refused(sentence, mu.finetune(MODEL, SGD), variables, KEY, *mu.split(DATA, [1]))
    for key in (None, 0, KEY, jax.random.PRNGKey(0)):
        mu.iau(MODEL, SGD)(key, VARIABLES, *mu.split(DATA, [1]))


@pytest.mark.parametrize("key", [None, 0])
def test_a_method_that_draws_asks_for_a_key(key):
    sentence = rf"expected a key, since the method draws random numbers, found {key}: call unlearn"
    for method in (mu.scrub(MODEL, SGD), mu.neg_grad_plus(MODEL, SGD, forget_weight=0.1)):
        refused(sentence, method, key, VARIABLES, *mu.split(DATA, [1]))


def test_another_error_of_a_method_without_a_key_stays_as_it_is():
    def broken(model):
        def unlearn(key, variables, forget, retain):
            raise TypeError("no such thing")

        return unlearn

    with pytest.raises(TypeError, match=r"^no such thing$"):
        Transform(MODEL, broken)(None, VARIABLES, *mu.split(DATA, [1]))


def test_the_pair_that_a_method_returns_is_not_variables():
    sets = mu.split(DATA, [1])
    dense, module = nn.Dense(2), nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    cases = (
        (mu.from_linen(dense, mu.losses.cross_entropy), dense.init(KEY, X[:1]), "variables alone"),
        (mu.from_nnx(module, mu.losses.cross_entropy), nnx.state(module), "state alone"),
    )
    for model, variables, what in cases:
        pair = mu.iau(model, SGD)(None, variables, *sets)
        sentence = f"found Info: pass the {what}, the first of the two that a method returns"
        score = functools.partial(mu.evaluation.score, forget=sets[0], retain=sets[1])
        refused(sentence, score, model, {"iau": pair}, original=variables, retrained=[variables])


def test_a_class_is_asked_for_by_the_ids_of_its_rows():
    names = np.array([f"img_{k}" for k in range(N)])
    table = mu.id_table(names)
    data = mu.batches(X, LABELS, batch_size=4, index=table.numbers(names))
    sentence = r"found 'class:1': for a class, give the list of the ids of its rows"
    refused(sentence, mu.split, data, "class:1", ids=table, error=ValueError)
    forget, _ = mu.split(data, names[LABELS == 1], ids=table)
    assert forget.num_examples == 4


def test_sets_that_are_swapped_are_warned_of():
    forget, retain = mu.split(DATA, [0])
    unlearn = mu.watched(mu.magnitude_prune(MODEL, 0.5), False)
    with pytest.warns(mu.UnlearningWarning, match="has 7 examples and the retain set 1"):
        unlearn(None, VARIABLES, retain, forget)
    unlearn(None, VARIABLES, forget, retain)  # silent


def test_a_stream_under_jit_is_refused_by_a_sentence():
    stream = mu.stream(list(zip(X, LABELS, strict=True)), batch_size=4)
    for unlearn in (mu.ssd(MODEL, 1.5), mu.finetune(MODEL, SGD)):
        refused(
            "array-backed Batches under jit, found an iterable: call the transform without jit",
            jax.jit(unlearn),
            KEY,
            VARIABLES,
            *mu.split(stream, [1, 2]),
            error=ValueError,
        )


@pytest.mark.parametrize("data", [DATA, mu.stream(list(zip(X, LABELS)), batch_size=4)])
@pytest.mark.parametrize("ids", [{5, 2}, frozenset([2, 5]), {2: "a", 5: "b"}, iter([5, 2, 5])])
def test_ids_come_in_any_container(data, ids):
    ids = iter([5, 2, 5]) if not hasattr(ids, "__len__") else ids  # read once by each test
    forget, retain = mu.split(data, ids)
    assert forget.index.tolist() == [2, 5] and len(retain.index) == N - 2


def test_oracles_may_be_a_list():
    oracles = [mu.Variables(VARIABLES.params + shift) for shift in (0.5, -0.2, 1.0)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *oracles)
    found = []
    for given in (oracles, tuple(oracles), stacked):
        unlearn = mu.watched(mu.oracle_matching(MODEL, SGD, oracles=given), False)
        found.append(unlearn(KEY, VARIABLES, *mu.split(DATA, [1, 2]))[0].params)
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], found[2])


GRADIENTS = {
    "collect": lambda model, v: mu.collect(mu.statistics.importance(model), v, DATA),
    "mean": lambda model, v: mu.collect(mu.statistics.mean_gradient(model), v, DATA),
    "fit": lambda model, v: mu.fit(model, mu.supervised(model), SGD, v, DATA, key=KEY),
    "trak": lambda model, v: mu.attribution.trak(model, [v], DATA, key=KEY, dim=None),
}


def complex_model():
    """Real numbers as the modulus of complex ones."""
    predict = lambda p, state, x: jnp.abs(x @ p["z"]) + x @ p["w"]  # noqa: E731
    params = {"w": jnp.ones((3, 2)), "z": jnp.ones((3, 2)) * (1 + 2j)}
    return mu.from_function(predict, mu.losses.cross_entropy), mu.Variables(params)


@pytest.mark.parametrize("name", GRADIENTS)
def test_complex_parameters_are_refused_by_name_unless_frozen(name):
    model, variables = complex_model()
    refused("real parameters, found complex64 at 'z'", GRADIENTS[name], model, variables)
    GRADIENTS[name](mu.restrict(model, lambda name: name == "w"), variables)


@pytest.mark.parametrize("name", ["collect", "fit"])
def test_parameters_that_are_no_arrays_of_floats_are_refused_by_name(name):
    model = mu.from_function(lambda p, state, x: p["f"](x @ p["w"]), mu.losses.cross_entropy)
    variables = mu.Variables({"w": jnp.ones((3, 2)), "f": jax.nn.relu})
    refused(
        "arrays as parameters, found .* at 'f'.*eqx.partition", GRADIENTS[name], model, variables
    )
    whole = mu.Variables({"w": jnp.ones((3, 2)), "n": jnp.arange(3)})
    refused("floating-point parameters, found int32 at 'n'", GRADIENTS[name], model, whole)


@pytest.mark.parametrize(
    ("weights", "sentence", "error"),
    [
        (jnp.ones((3, 2), complex), "found complex64 as the only leaf", TypeError),
        (jnp.arange(6).reshape(3, 2), "found int32 as the only leaf", TypeError),
        (jax.nn.relu, "as parameters, found .* as the only leaf", TypeError),
        (jnp.full((3, 2), jnp.nan), "NaN or infinity in the only leaf", ValueError),
    ],
)
def test_parameters_that_are_one_leaf_have_no_name_in_a_sentence(weights, sentence, error):
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
    refused(sentence, GRADIENTS["collect"], model, mu.Variables(weights), error=error)


@pytest.mark.parametrize("shape", [(2,), (1, 2), (), (6, 1), (6,)])
def test_an_attribution_of_another_shape_is_not_broadcast(shape):
    unlearn = mu.dmm(MODEL, lambda model, v, forget, pool: jnp.ones(shape), SGD)
    sentence = r"an effect of shape \(8, 2\), .*, found " + re.escape(str(shape))
    refused(sentence, unlearn, KEY, VARIABLES, *mu.split(DATA, [1, 2]), error=ValueError)


def test_structured_targets():
    """TRAK says that it needs classes; new labels are drawn for each part of the targets."""
    targets = {"a": X[:, 0], "b": X[:, 1:]}
    data = mu.batches(X, targets, batch_size=4)
    refused(
        r"one integer label per example as targets, .* found float32\[.*in a dict",
        mu.attribution.trak,
        MODEL,
        [VARIABLES],
        data,
        key=KEY,
        dim=None,
        error=ValueError,
    )

    def loss(outputs, y):
        return jnp.square(outputs[:, 0] - y["a"]) + jnp.square(outputs - y["b"]).sum(1)

    model = mu.from_function(MODEL.predict, loss)
    pairs = [(x, {"a": y[0], "b": y[1:]}) for x, y in zip(X, X, strict=True)]
    found = []
    for given in (data, mu.stream(pairs, batch_size=4)):
        unlearn = mu.gaussian_amnesiac(model, SGD, epochs=2)
        found.append(unlearn(KEY, VARIABLES, *mu.split(given, [1, 2]))[0].params)
    np.testing.assert_allclose(*found, rtol=1e-6)
    assert not np.array_equal(found[0], VARIABLES.params)


def test_the_text_of_batches_does_not_print_the_data():
    text = repr(mu.batches({"x": X}, LABELS, batch_size=4))
    assert text == "Batches(8 examples, batch_size=4, inputs=float32[8,3], targets=int32[8])"
    assert repr(mu.batches(X, (), batch_size=3)).endswith("inputs=float32[8,3], targets=())")
    mesh = mu.data_mesh(jax.devices()[:2])
    assert repr(mu.shard(DATA, mesh)).endswith("over 'data')")
    jax.jit(lambda data: repr(data) and data.weight)(DATA)
