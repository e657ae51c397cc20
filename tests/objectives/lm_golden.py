"""The golden numbers of objectives on language models, and their tiny model."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from golden_files import load

import mu_jax as mu
from mu_jax.data.tokens import TokenTargets


@functools.cache
def golden():
    """All arrays of the file."""
    return load("lm_objectives.npz")


def hp(name):
    """A hyper-parameter."""
    return float(golden()[f"hp/{name}"])


def targets_of(name, **changes):
    """The targets of the rows `forget`, `retain` or `alternate`, with the reference's sums."""
    found = golden()
    mask = (found[f"{name}/labels"] != -100).astype(float)
    reference, tokens = found[f"seq_nll/{name}_ref"], found[f"{name}/tokens"]
    return TokenTargets(tokens, mask, reference=reference)._replace(**changes)


def logits_of(name):
    """Logits of the model and of the reference model."""
    return tuple(golden()[f"{name}/{part}"] for part in ("logits", "ref_logits"))


def predict(params, state, tokens):
    """The tiny model, `tanh(E[x_t] A + c) W + b`."""
    return hidden(params, tokens) @ params["W"] + params["b"]


def hidden(params, tokens):
    """Its hidden states."""
    return jnp.tanh(params["E"][tokens] @ params["A"] + params["c"])


def params_of(prefix):
    """Parameters of the tiny model, such as `tiny`, `tiny_ref` or `npo/tiny_after3`."""
    found = golden()
    names = [name for name in "EAcWb" if f"{prefix}/{name}" in found]
    return {name: found[f"{prefix}/{name}"] for name in names}


MODEL = mu.from_function(
    predict,
    mu.token_losses.TokenCrossEntropy(),
    observe=lambda p, s, x: (predict(p, s, x), {"hidden": hidden(p, x)}),
)


def tiny_targets(name):
    """The targets of rows, with the sums of the tiny reference model."""
    found = targets_of(name)

    @jax.jit
    def sums(params, targets):
        logits = predict(params, (), targets.tokens)
        return mu.token_losses.sequence_nll(logits, targets)[0]

    return found._replace(reference=sums(params_of("tiny_ref"), found))


def adam_run(value, params, steps=3, **betas):
    """Losses before each step and parameters after each, by Adam at the rate of the file."""
    import optax

    optimizer = optax.adam(hp("lr"), **betas)
    state, losses, after = jax.jit(optimizer.init)(params), [], []

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(value)(params)
        updates, state = optimizer.update(grads, state, params)
        return loss, optax.apply_updates(params, updates), state

    for _ in range(steps):
        loss, params, state = step(params, state)
        losses.append(loss)
        after.append(params)
    return np.stack(losses), after
