"""What users give by mistake, in one list: each is refused by one sentence, or warned of."""

from __future__ import annotations

import functools
import inspect
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import mu_jax as mu
from mu_jax import transforms

N = 8
X = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
LABELS = np.arange(N) % 2
KEY, SGD, LOSS = jax.random.key(0), optax.sgd(0.1), mu.losses.cross_entropy
MODEL = mu.from_function(lambda w, state, x: jnp.tanh(x) @ w, LOSS)
VARIABLES = mu.Variables(jnp.asarray(X[:3, :2]))
DATA = mu.batches(X, LABELS, batch_size=4)
FORGET, RETAIN = mu.split(DATA, [1, 2])


class Loader:
    """Has the fields of a torch `DataLoader` and gives what one gives."""

    dataset, batch_size, sampler = list(zip(X, LABELS, strict=True)), 4, None

    def __len__(self):
        return 2

    def __iter__(self):
        return iter([[X[:4], LABELS[:4]], [X[4:], LABELS[4:]]])


class Fixed(nn.Module):
    train: bool = False

    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.Dropout(0.5, deterministic=not self.train)(x))


class Averaging(nn.Module):
    @nn.compact
    def __call__(self, x, averages):
        return nn.Dense(2)(nn.BatchNorm(use_running_average=averages)(x))


class Normalized(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.head = nnx.BatchNorm(3, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.norm(x))


def finetune(model=MODEL, variables=VARIABLES, sets=(FORGET, RETAIN), key=KEY, **options):
    return mu.finetune(model, SGD, **options)(key, variables, *sets)


def train_state():
    module = nn.Dense(2)
    state = TrainState.create(apply_fn=None, params=module.init(KEY, X)["params"], tx=SGD)
    finetune(mu.from_linen(module, LOSS), state)


def param_only():
    net = Normalized(nnx.Rngs(0))
    finetune(mu.from_nnx(net, LOSS), nnx.state(net, nnx.Param))


def unpartitioned():
    model = mu.from_function(lambda p, state, x: p["f"](x @ p["w"]), LOSS)
    finetune(model, mu.Variables({"w": jnp.ones((3, 2)), "f": jax.nn.relu}))


def stream_under_jit():
    sets = mu.split(mu.stream(Loader.dataset, batch_size=4), [1, 2])
    jax.jit(mu.finetune(MODEL, SGD))(KEY, VARIABLES, *sets)


def averaging():
    variables = Averaging().init(KEY, X, False)
    finetune(mu.from_linen(Averaging(), LOSS), variables)


def fixed():
    finetune(mu.from_linen(Fixed(), LOSS), Fixed().init(KEY, X), training_mode=True)


def other_shape():
    mu.dmm(MODEL, lambda *_: jnp.ones((2,)), SGD)(KEY, VARIABLES, FORGET, RETAIN)


def shared_ids():
    mu.ssd(MODEL, 1.5)(KEY, VARIABLES, iter(FORGET), iter(DATA))


def token_ids():
    tokens = np.arange(3 * N).reshape(N, 3) % 5
    model = mu.from_function(lambda w, state, x: w[x], lambda out, y: LOSS(out, y).mean(-1))
    sets = mu.split(mu.batches(tokens, tokens, batch_size=4), [1])
    mu.gaussian_amnesiac(model, SGD)(KEY, mu.Variables(jnp.eye(5)), *sets)


REFUSED = {
    "TrainState as variables": (train_state, "found TrainState: pass {'params': state.params}"),
    "key and variables swapped": (
        lambda: finetune(variables=KEY, key=VARIABLES),
        "a key first and the variables second",
    ),
    "forget and retain swapped": (
        lambda: finetune(sets=(RETAIN, FORGET)),
        "has 6 examples and the retain set 2: if they are swapped",
    ),
    "a DataLoader": (
        lambda: mu.collect(mu.statistics.mean_gradient(MODEL), VARIABLES, Loader()),
        "an iterable of mu.Batch, found one of list",
    ),
    "Param-only nnx state": (param_only, "found Param only .*: pass nnx.state(module), whole"),
    "equinox module unpartitioned": (unpartitioned, "at 'f': .*eqx.partition"),
    "a stream under jit": (stream_under_jit, "call the transform without jit"),
    "a list of models": (lambda: finetune(variables=[VARIABLES] * 2), "found list: "),
    "ids as a set": (lambda: mu.split(DATA, {"a", "b"}), "expected integer ids to forget"),
    "use_running_average without train_arguments": (averaging, "train_arguments"),
    "training_mode=True on a module fixed to inference": (fixed, "found Fixed with train=False"),
    "negative or NaN hyper-parameters": (
        lambda: mu.iau(MODEL, SGD, retain_weight=math.nan),
        "expected retain_weight >= 0, found nan",
    ),
    "an attribution of the wrong shape": (other_shape, "an effect of shape (8, 2)"),
    "shared ids between iterables": (shared_ids, "without a common example, found 2"),
    "labels for token ids": (token_ids, "such as token ids: choose another method"),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_a_mistake_is_answered_by_one_sentence(mistake):
    give, says = REFUSED[mistake]
    says = re.escape(says).replace(r"\.\*", ".*")
    if mistake == "forget and retain swapped":
        with pytest.warns(mu.UnlearningWarning, match=says):
            give()
        return
    with pytest.raises((TypeError, ValueError), match=says) as raised:
        give()
    sentence = str(raised.value)
    assert re.fullmatch(r"expected [^\n]+ found [^\n]+: [^\n]+[^.\n]", sentence), sentence


def test_a_set_of_integers_is_taken():
    assert mu.split(DATA, {5, 2})[0].index.tolist() == [2, 5]


NEEDED = {
    "optimizer": SGD,
    "init": lambda key: VARIABLES,
    "initial": VARIABLES,
    "alpha": 1.0,
    "attribution": lambda *_: jnp.zeros((N, 2)),
    "oracles": [VARIABLES],
    "concepts": {"w": [0]},
    "tolerance": 1.0,
    "layer": "block_0",
}
# An effect may be scaled by any number, a loss be capped and a margin lie at any.
SIGNED = ("multiplier", "cap", "delta", "factor")
FRACTION = re.compile(r"^(?!tuple).*\bfloat\b")


def numbers():
    """Each number of each transform: `(factory, name, whether whole, field of its recipe)`."""
    for name in transforms.__all__:
        factory = getattr(transforms, name)
        if not inspect.isfunction(factory):
            continue
        for parameter in inspect.signature(factory).parameters.values():
            fields = {parameter.name: parameter.annotation}
            if parameter.name == "recipe":
                fields = type(parameter.default).__annotations__
            for field, annotation in fields.items():
                whole = re.match(r"int\b", str(annotation).replace("ForwardRef('", ""))
                if whole or FRACTION.search(str(annotation)):
                    yield name, parameter.name, field, bool(whole)


@pytest.mark.parametrize(("name", "parameter", "field", "whole"), list(numbers()))
def test_numbers_that_cannot_be_are_refused(name, parameter, field, whole):
    factory = getattr(transforms, name)
    parameters = inspect.signature(factory).parameters
    given = {key: value for key, value in NEEDED.items() if key in parameters}
    for bad in (-1, math.nan, "1", *([1.5, True] if whole else [True])):
        if bad == -1 and field in SIGNED:
            continue
        value = bad
        if parameter == "recipe":
            value = parameters["recipe"].default._replace(**{field: bad})
        with pytest.raises((TypeError, ValueError), match=r"^expected .* found .*: ") as raised:
            factory(MODEL, **{**given, parameter: value})
        assert "\n" not in str(raised.value)


def test_there_are_numbers_to_try():
    assert len(list(numbers())) > 45


@pytest.mark.parametrize("kind", ["generators", "an iterable", "only the retain set"])
def test_iterables_are_refused_at_the_first_batch_that_shares(kind):
    """And no batch behind this one is read."""
    read = []

    def reading(data):
        for number, batch in enumerate(data):
            read.append(number)
            yield batch

    class Sized:
        def __len__(self):
            return DATA.num_batches

        def __iter__(self):
            return reading(DATA)

    forget = FORGET if kind == "only the retain set" else iter(list(FORGET))
    retain = Sized() if kind == "an iterable" else reading(DATA)
    with pytest.raises(ValueError, match=r"found 2 of a batch in both .first id 1.: make them"):
        mu.iau(MODEL, SGD)(KEY, VARIABLES, forget, retain)
    assert read in ([0], [0, 1])  # the forget set may be read second


@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
def test_iterables_that_share_nothing_give_what_arrays_give():
    for unlearn in (mu.iau(MODEL, SGD), mu.finetune(MODEL, SGD, epochs=2)):
        listed = unlearn(KEY, VARIABLES, list(FORGET), list(RETAIN))[0].params
        sized = unlearn(KEY, VARIABLES, list(FORGET), dict(enumerate(RETAIN)).values())[0].params
        np.testing.assert_array_equal(listed, sized)


def test_positions_are_no_ids_of_a_loader_that_shuffles():
    class RandomSampler:
        pass

    loader = Loader()
    loader.sampler = RandomSampler()
    read = functools.partial(mu.datasets.from_iterable, batched=True)
    with pytest.raises(ValueError, match="a loader that reads by RandomSampler: give it to"):
        read(loader, ids=mu.datasets.by_position)
    assert len(read(Loader(), ids=mu.datasets.by_position)) == N
