"""Small models of every framework, and data for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import mu_jax as mu
from mu_jax.models import CNN

LOSS = optax.softmax_cross_entropy_with_integer_labels
EXAMPLES, CLASSES = 22, 3
FORGET_IDS = [1, 4, 5, 9, 13, 16]


class Setting(NamedTuple):
    """A model with the arrays it starts from, and data of its shape."""

    model: mu.Model
    init: Callable[[jax.Array], Any]
    inputs: Any
    targets: Any = None

    @property
    def variables(self) -> Any:
        return _started(self.init, jnp.result_type(float))

    def data(self, *, batch_size: int = 4, seed: int = 0) -> mu.Batches:
        """The examples; another seed gives other values of the same shapes."""
        targets = np.random.default_rng(seed).integers(CLASSES, size=EXAMPLES)
        if self.targets is not None:
            targets = _rolled(self.targets, seed)
        return mu.batches(_rolled(self.inputs, seed), targets, batch_size=batch_size)

    def sets(self, **options: int) -> tuple[mu.Batches, mu.Batches]:
        """Forget and retain set."""
        return mu.split(self.data(**options), FORGET_IDS)

    def streams(self) -> list[mu.Stream]:
        """The same two sets, read batch by batch."""
        return [mu.stream(pairs_of(x), batch_size=4, index=x.index) for x in self.sets()]


@functools.cache
def _started(init: Callable[[jax.Array], Any], precision: Any) -> Any:
    """Variables that are made once in a precision, by one program, also while JAX traces."""
    del precision
    with jax.ensure_compile_time_eval():
        key = jax.random.key(7)
    return jax.jit(init).lower(key).compile()(key)


@functools.cache
def setting(name: str) -> Setting:
    """A setting by name.

    raw, bfloat16; linen, nnx and cnn with batch normalization; tokens and preferences, rows of
    tokens and pairs of them; "adapted raw" and so on, the same with low-rank adapters; "classes of
    raw" and so on, with a whole class to forget.
    """
    if name.startswith("classes of "):
        return _OfClasses(*setting(name.removeprefix("classes of ")))
    if name.startswith("adapted "):
        return _adapted(setting(name.removeprefix("adapted ")))
    return {
        "raw": lambda: _raw(jnp.float32),
        "bfloat16": lambda: _raw(jnp.bfloat16),
        "linen": lambda: _linen(_Network(), _normal(EXAMPLES, 5)),
        "nnx": _nnx,
        "tokens": _tokens,
        "preferences": _preferences,
        "cnn": lambda: _linen(CNN((3,), CLASSES), _normal(EXAMPLES, 4, 4, 2)),
    }[name]()


def _adapted(base: Setting) -> Setting:
    """The adapters of rank 2 of a setting, none of them zero, on a base that is always the same."""

    def init(key):
        start = mu.adapters.attach(key, base.model, base.init(jax.random.key(9)), rank=2, alpha=1)
        return start._replace(adapters=_no_leaf_constant(start.adapters, key))

    model = mu.adapters.adapted(base.model)
    return base._replace(model=model, init=init)


def pairs_of(data: mu.Batches) -> list:
    """The inputs and targets of every example, to be read as a stream."""

    def rows(tree):
        tree = jax.tree.map(np.asarray, tree)
        return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(data.num_examples)]

    return list(zip(rows(data.inputs), rows(data.targets)))


def _rolled(tree: Any, seed: int) -> Any:
    return jax.tree.map(lambda x: np.roll(x, seed, axis=0), tree)


class _Network(nn.Module):
    """A linen network of one hidden layer, with batch normalization and dropout."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(6, use_bias=False)(x))
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
        return nn.Dense(CLASSES)(x)


class _NNXNetwork(nnx.Module):
    """The same in nnx."""

    def __init__(self, rngs: nnx.Rngs):
        self.hidden = nnx.Linear(5, 6, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(6, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


def _linen(module: nn.Module, inputs: np.ndarray) -> Setting:
    def init(key):
        return _no_leaf_constant(module.init(key, inputs[:1]), key)

    return Setting(mu.from_linen(module, LOSS), init, inputs)


def _nnx() -> Setting:
    def init(key):
        return _no_leaf_constant(nnx.state(_NNXNetwork(nnx.Rngs(key))), key)

    return Setting(mu.from_nnx(_NNXNetwork(nnx.Rngs(0)), LOSS), init, _normal(EXAMPLES, 5))


def _raw(dtype: Any) -> Setting:
    def predict(params, state, inputs):
        hidden = jnp.tanh(inputs.astype(dtype) @ params["hidden"] + params["bias"]) - state
        return hidden @ params["head"]

    def init(key):
        one, two, three = jax.random.split(key, 3)
        params = {
            "bias": jax.random.normal(one, (6,), dtype),
            "head": jax.random.normal(two, (6, CLASSES), dtype),
            "hidden": jax.random.normal(three, (5, 6), dtype),
        }
        return mu.Variables(params, jnp.asarray(0.25, dtype))

    return Setting(mu.from_function(predict, LOSS), init, _normal(EXAMPLES, 5))


def _tokens() -> Setting:
    """A tiny language model, `tanh(E[x_t] + mean_{s <= t} E[x_s] + b) W`, of eight words."""
    rng, words, length = np.random.default_rng(0), 8, 5

    def predict(params, state, tokens):
        embedded = params["hidden"][tokens]
        places = jnp.arange(1, tokens.shape[1] + 1, dtype=embedded.dtype)[:, None]
        past = jnp.cumsum(embedded, axis=1) / places
        return jnp.tanh(embedded + past + params["bias"] - state) @ params["head"]

    def observe(params, state, tokens):
        logits = predict(params, state, tokens)
        return logits, {"logits": logits}

    def init(key):
        one, two, three = jax.random.split(key, 3)
        params = {
            "bias": jax.random.normal(one, (6,)),
            "head": jax.random.normal(two, (6, words)),
            "hidden": jax.random.normal(three, (words, 6)),
        }
        return mu.Variables(params, jnp.asarray(0.25))

    tokens = rng.integers(words, size=(EXAMPLES, length)).astype(np.int32)
    mask = rng.integers(2, size=tokens.shape).astype(np.float32)
    mask[:, 0], mask[:, -1] = 0, 1
    secret = mask * rng.integers(2, size=tokens.shape).astype(np.float32)
    loss = mu.token_losses.TokenCrossEntropy()
    model = mu.from_function(predict, loss, observe=observe)
    return Setting(model, init, tokens, mu.data.TokenTargets(tokens, mask, secret))


class _OfClasses(Setting):
    """The last class is forgotten, and the others are retained."""

    def data(self, *, batch_size: int = 4, seed: int = 0) -> mu.Batches:
        """The examples; those to forget are of the last class."""
        found = super().data(batch_size=batch_size, seed=seed)
        rest = np.random.default_rng(seed).integers(CLASSES - 1, size=EXAMPLES)
        gone = np.isin(np.arange(EXAMPLES), FORGET_IDS)
        return found.replace(targets=jnp.asarray(np.where(gone, CLASSES - 1, rest)))


class _PairsToForget(Setting):
    """Rows of tokens to retain, and pairs of them to forget."""

    def sets(self, **options: int) -> tuple[mu.Batches, mu.Batches]:
        """Forget and retain set."""
        forget, retain = super().sets(**options)
        return preferences(forget), retain


def preferences(forget: mu.Batches) -> mu.Batches:
    """Rows of tokens as the losers, beside winners that say other words."""
    better = forget.targets._replace(tokens=7 - forget.targets.tokens)
    return forget.replace(
        inputs=mu.data.Preference(better.tokens, forget.inputs),
        targets=mu.data.Preference(better, forget.targets),
    )


def _preferences() -> Setting:
    return _PairsToForget(*_tokens())


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _no_leaf_constant(variables: Any, key: jax.Array) -> Any:
    """Moves every leaf off its initial constants, so that one left alone or reset shows."""
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(key, len(leaves))

    def moved(leaf, key):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return leaf + jax.random.uniform(key, leaf.shape, leaf.dtype, 0.1, 0.4)

    return structure.unflatten([moved(leaf, key) for leaf, key in zip(leaves, keys)])
