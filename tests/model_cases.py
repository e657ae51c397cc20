"""One small network through every adapter, for the tests of models."""

from __future__ import annotations

import functools
import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import mu_jax as mu
from mu_jax.model import path_name

X = np.asarray(jax.random.normal(jax.random.key(0), (6, 4))) * np.float32(3) + np.float32(1)
LABELS = np.array([0, 1, 2, 0, 1, 2], np.int32)
LOSS = optax.softmax_cross_entropy_with_integer_labels
DATA = mu.batches(X, LABELS, batch_size=4)


class Linen(nn.Module):
    """Dense, batch normalization, dropout, dense; the mode is a keyword called `flag`."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        return linen_body(self, x, train)


class LinenDeterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        return linen_body(self, x, not deterministic)


class LinenTraining(nn.Module):
    @nn.compact
    def __call__(self, x, *, training: bool):
        return linen_body(self, x, training)


class LinenIsTraining(nn.Module):
    @nn.compact
    def __call__(self, x, is_training: bool = True):
        return linen_body(self, x, is_training)


class LinenMode(nn.Module):
    @nn.compact
    def __call__(self, x, mode: str):
        return linen_body(self, x, mode == "fit")


def linen_body(module, x, train):
    del module  # submodules find their parent by themselves
    x = nn.Dense(5, name="hidden")(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
    x = nn.Dropout(0.5, deterministic=not train)(x)
    return nn.Dense(3, name="head")(x)


class NNX(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(5, 3, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(self.norm(self.hidden(x))))


def raw_apply(params, state, key, x, train):
    """The same network on plain dicts, in the order of arguments that haiku has."""
    h = x @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    mean, var = (h.mean(0), h.var(0)) if train else (state["mean"], state["var"])
    moved = {
        "mean": 0.9 * state["mean"] + 0.1 * mean if train else mean,
        "var": 0.9 * state["var"] + 0.1 * var if train else var,
    }
    h = (h - mean) * jax.lax.rsqrt(var + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    if key is not None:
        h = jnp.where(jax.random.bernoulli(key, 0.5, h.shape), h * 2, 0)
    return h @ params["head"]["kernel"] + params["head"]["bias"], moved


class HaikuStyle(NamedTuple):
    """What `hk.transform_with_state` gives: `init(rng, x)` and `apply(params, state, rng, x)`."""

    init: Any
    apply: Any


def linen_case(cls=Linen, flag="train", **arguments):
    module = cls()
    inference = arguments.get("inference_arguments", {flag: flag == "deterministic"})
    variables = _initialized(module, tuple(inference.items()))
    return mu.from_linen(module, LOSS, **arguments), variables


@functools.cache
def _initialized(module, arguments):
    return module.init(jax.random.key(1), X, **dict(arguments))


def nnx_case():
    net = NNX(nnx.Rngs(0))
    return mu.from_nnx(net, LOSS), nnx.state(net)


def raw_variables():
    params = dict(linen_case()[1]["params"])
    return mu.Variables(params, {"mean": jnp.zeros(5), "var": jnp.ones(5)})


@functools.cache  # the functions are those of one model, whose programs are shared
def raw_case():
    model = mu.from_function(
        lambda params, state, x: raw_apply(params, state, None, x, False)[0],
        LOSS,
        predict_train=lambda params, state, x, key: raw_apply(params, state, key, x, True),
    )
    return model, raw_variables()


@functools.cache
def haiku_case():
    transformed = HaikuStyle(
        init=lambda key, x: tuple(raw_variables()),
        apply=lambda params, state, rng, x, is_training: raw_apply(
            params, state, rng, x, is_training
        ),
    )
    model = mu.from_function(
        lambda params, state, x: transformed.apply(params, state, None, x, False)[0],
        LOSS,
        predict_train=lambda params, state, x, key: transformed.apply(params, state, key, x, True),
    )
    return model, mu.Variables(*transformed.init(jax.random.key(0), X))


STATEFUL = {
    "linen train": linen_case,
    "linen deterministic": lambda: linen_case(LinenDeterministic, "deterministic"),
    "linen training": lambda: linen_case(LinenTraining, "training"),
    "linen is_training": lambda: linen_case(LinenIsTraining, "is_training"),
    "linen explicit": lambda: linen_case(
        LinenMode, train_arguments={"mode": "fit"}, inference_arguments={"mode": "predict"}
    ),
    "nnx": nnx_case,
    "raw": raw_case,
    "haiku style": haiku_case,
}


def same(first, second):
    first, second = (jax.tree.leaves(as_data(tree)) for tree in (first, second))
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def as_data(tree):
    def data(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(leaf) if is_key else leaf

    return jax.tree.map(data, tree)


def assert_one_sentence(raised, *parts):
    message = str(raised.value)
    assert re.fullmatch(r"expected [^\n]+ found [^\n]+: [^\n]+[^.\n]", message), message
    for part in parts:
        assert part in message, message


def leaf_names(tree):
    return [path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
