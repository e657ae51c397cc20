"""Loss functions of every kind, with the route that each of their leaves should take."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from per_example_models import (
    MLP,
    SIZE,
    Block,
    ConvNet,
    LanguageModel,
    ScannedLayers,
    carried,
    clipped_product,
    experts,
    im2col,
    integers,
    nhwc_convolution,
    normal,
    recurrent,
    stacked_recurrent,
    standardized,
    straight_through,
)

TOKENS = {"kernel": "tokens dense", "bias": "small"}
DENSE = {"kernel": "dense", "bias": "small"}
NORMALIZED = {"kernel": "tokens dense", "bias": "small", "scale": "small"}
PATCHES = {"kernel": "patches dense", "bias": "small", "scale": "small"}


class Case(NamedTuple):
    losses: Any
    params: Any
    rows: Any
    routes: dict[str, str]  # by the leaf's last name, words of all leaves of that name


def linen_case(net, inputs, **routes):
    """A linen classifier with random parameters and statistics."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), inputs[:1])
    state = jax.tree.map(lambda x: 0.2 + 0.5 * np.abs(normal(x.size, *x.shape)), shapes)
    params = state.pop("params")

    def losses(params, rows):
        logits = net.apply({"params": params, **state}, rows[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[1])

    return Case(losses, params, (inputs, integers(9, 0, 3, SIZE)), routes)


def raw_case(function, params, inputs=None, **routes):
    """`function(params, x)` of [B, 5] inputs; the loss is a nonlinear function of its outputs."""
    inputs = normal(1, SIZE, 5) if inputs is None else inputs

    def losses(params, x):
        return jnp.sin(function(params, x)).reshape(len(x), -1).sum(axis=1)

    return Case(losses, params, inputs, routes)


def nnx_case():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(5, 7, rngs=rngs)
            self.last = nnx.Linear(7, 3, rngs=rngs)

        def __call__(self, x):
            return self.last(jax.nn.relu(self.first(x)))

    net = nnx.eval_shape(lambda: Net(nnx.Rngs(0)))
    graph, params, rest = nnx.split(net, nnx.Param, ...)
    params = jax.tree.map(lambda x: normal(x.size, *x.shape), params)

    def losses(params, rows):
        logits = nnx.merge(graph, params, rest)(rows[0])
        return optax.softmax_cross_entropy_with_integer_labels(logits, rows[1])

    rows = normal(1, SIZE, 5), integers(9, 0, 3, SIZE)
    return Case(losses, params, rows, DENSE)


def convolution_case(kernel, inputs, dimension_numbers, padding, **options):
    numbers = {"dimension_numbers": dimension_numbers, "padding": padding}

    def convolve(params, x):
        return lax.conv_general_dilated(x, params["kernel"], **numbers, **options)

    return raw_case(convolve, {"kernel": kernel}, inputs, kernel="patches")


def tied_case(size, width, length, last=False):
    """A table of words, some of which lie beyond it, that is the output layer as well."""

    def logits(params, words):
        x = params["w"].at[words].get(mode="fill", fill_value=0.5)
        x = jnp.tanh(jnp.cumsum(x, axis=1))
        return (x[:, -1:] if last else x) @ params["w"].T

    params = {"w": normal(2, size, width)}
    return raw_case(logits, params, integers(3, 0, size + 2, SIZE, length), w="tied")


CASES = {
    "mlp": lambda: linen_case(MLP(), normal(1, SIZE, 5), **DENSE),
    "conv": lambda: linen_case(ConvNet(), normal(1, SIZE, 7, 6, 2), **PATCHES),
    "conv im2col": lambda: linen_case(ConvNet(im2col), normal(1, SIZE, 7, 6, 2), **NORMALIZED),
    "block": lambda: linen_case(Block(), normal(1, SIZE, 5, 4), **NORMALIZED),
    "remat": lambda: linen_case(nn.remat(MLP)(), normal(1, SIZE, 5), **DENSE),
    "scanned layers": lambda: linen_case(ScannedLayers(), normal(1, SIZE, 4), **DENSE),
    "scanned remat": lambda: linen_case(ScannedLayers(True), normal(1, SIZE, 4), **DENSE),
    "lookup": lambda: linen_case(
        LanguageModel(), integers(1, 0, 8, SIZE, 5), embedding="lookup", **TOKENS
    ),
    "tied embedding": lambda: linen_case(
        LanguageModel(True),
        integers(1, 0, 8, SIZE, 5),
        embedding="tied",
        kernel="tokens",
        bias="small",
    ),
    "nnx": nnx_case,
    "recurrent": lambda: raw_case(
        recurrent,
        {"hidden": normal(1, 5, 5), "input": normal(2, 5, 5)},
        hidden="tokens",
        input="tokens",
    ),
    "stacked recurrent": lambda: raw_case(
        stacked_recurrent, {"kernel": normal(1, 3, 5, 5)}, kernel="tokens"
    ),
    "kernel twice": lambda: raw_case(
        lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"], {"w": normal(2, 5, 5)}, w="tokens"
    ),
    "kernel and transpose": lambda: raw_case(
        lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T, {"w": normal(2, 5, 4)}, w="tokens"
    ),
    "square kernel and transpose": lambda: raw_case(
        lambda p, x: jnp.tanh(x @ p["w"]) @ p["w"].T, {"w": normal(2, 5, 5)}, w="tokens"
    ),
    "scanned kernels and transposes": lambda: raw_case(
        lambda p, x: lax.scan(lambda h, w: (jnp.tanh(h @ w) @ w.T, None), x, p["w"])[0],
        {"w": normal(2, 3, 5, 4)},
        w="tokens",
    ),
    "kernel and kernel flattened": lambda: raw_case(
        lambda p, x: (
            nhwc_convolution(x, p["w"]) + (x.reshape(len(x), -1) @ p["w"].reshape(18, 4)).sum()
        ),
        {"w": normal(2, 3, 3, 2, 4)},
        normal(1, SIZE, 3, 3, 2),
        w="small",
    ),
    "tied, norms by comparison": lambda: tied_case(30, 8, 3),
    "tied, many lookups": lambda: tied_case(4, 3, 9),
    "tied, one position": lambda: tied_case(9, 2, 4, last=True),
    "tied, one position, many lookups": lambda: tied_case(4, 2, 9, last=True),
    "tied in parts": lambda: raw_case(
        lambda p, i: lax.map(
            jax.checkpoint(lambda h: h @ p["w"].T), jnp.tanh(p["w"][i]).swapaxes(0, 1)
        ).swapaxes(0, 1),
        {"w": normal(2, 9, 4)},
        integers(3, 0, 9, SIZE, 5),
        w="tied",
    ),
    "tied table of heads": lambda: raw_case(
        lambda p, i: jnp.einsum("bthk,vhk->btv", jnp.tanh(p["w"][i]), p["w"]),
        {"w": normal(2, 9, 2, 3)},
        integers(3, 0, 9, SIZE, 5),
        w="tied",
    ),
    "kernel first": lambda: raw_case(
        lambda p, x: jnp.einsum("oi,bi->ob", p["w"].reshape(4, 5), x).T,
        {"w": normal(2, 20)},
        w="dense",
    ),
    "kernel first, tokens": lambda: raw_case(
        lambda p, x: jnp.tensordot(p["w"], x, ((1, 2), (3, 1))),
        {"w": normal(2, 4, 3, 2)},
        normal(1, SIZE, 2, 5, 3),
        w="tokens",
    ),
    "experts": lambda: raw_case(
        lambda p, x: jnp.einsum("beti,eio->beto", x, p["w"]),
        {"w": normal(2, 3, 4, 2)},
        normal(1, SIZE, 3, 2, 4),
        w="tokens",
    ),
    "ragged experts": lambda: raw_case(
        lambda p, x: jnp.tanh(experts(p, jnp.tanh(x @ p["in"]))) @ p["out"],
        {"in": normal(3, 5, 4), "w": normal(2, 2, 4, 3), "out": normal(4, 3, 2)},
        normal(1, SIZE, 6, 5),
        **{"in": "tokens", "w": "small", "out": "tokens"},
    ),
    "no entries": lambda: raw_case(
        lambda p, x: x @ p["w"] + (x @ p["none"]).sum() + p["bias"].sum(),
        {"w": normal(2, 5, 4), "none": normal(3, 5, 0), "bias": normal(4, 0), "v": normal(5, 0, 2)},
        w="dense",
        none="unused",
        bias="unused",
        v="unused",
    ),
    "adapter": lambda: raw_case(
        lambda p, x: x @ p["a"] @ p["b"] + x @ (p["c"] @ p["d"]),
        {k: normal(ord(k), *((5, 2) if k in "ac" else (2, 5))) for k in "abcd"},
        a="dense",
        b="dense",
        c="small",
        d="small",
    ),
    "changed": lambda: raw_case(
        lambda p, x: x @ jnp.cos(p["w"]), {"w": normal(2, 5, 4)}, w="small"
    ),
    "standardized": lambda: raw_case(
        lambda p, x: x @ standardized(p["w"]), {"w": normal(2, 5, 4)}, w="small"
    ),
    "standardized convolution": lambda: raw_case(
        lambda p, x: nhwc_convolution(x, standardized(p["w"])),
        {"w": normal(2, 3, 3, 2, 4)},
        normal(1, SIZE, 5, 5, 2),
        w="small",
    ),
    "rows of a table": lambda: raw_case(
        lambda p, i: (
            jnp.take(p["w"], i[:, :, 0], axis=0, mode="clip")
            * p["w"].at[i[:, :, 1]].get(mode="fill", fill_value=0.0)
        ),
        {"w": normal(2, 9, 2, 2)},
        integers(3, -12, 12, SIZE, 3, 2),
        w="lookup",
    ),
    "many rows of a small table": lambda: raw_case(
        lambda p, i: jnp.cos(p["w"].at[i].get(mode="fill", fill_value=0.5)),
        {"w": normal(2, 4, 3)},
        integers(3, -6, 6, SIZE, 9),
        w="lookup",
    ),
    "entries of a table": lambda: raw_case(
        lambda p, i: p["w"][i[:, 0], i[:, 1]],
        {"w": normal(2, 9, 9)},
        integers(3, 0, 9, SIZE, 2),
        w="small",
    ),
    "custom rules": lambda: raw_case(
        lambda p, x: clipped_product(straight_through(3 * x @ p["a"]), p["b"]),
        {"a": normal(2, 5, 4), "b": normal(3, 4, 3)},
        a="dense",
        b="small",
    ),
    "branches": lambda: raw_case(
        lambda p, x: lax.cond(x[0, 0] > 0, lambda w: x @ w, lambda w: jnp.cos(x @ w), p["w"]),
        {"w": normal(2, 5, 4)},
        w="small",
    ),
    "carried": lambda: raw_case(
        carried,
        {"carried": normal(2, 5, 5), "handed": normal(3, 2, 5, 5)},
        carried="small",
        handed="small",
    ),
    "is the loss": lambda: Case(
        lambda p, x: jnp.broadcast_to(p["w"], len(x)),
        {"w": normal(2, 1)},
        normal(1, SIZE),
        {"w": "small"},
    ),
    "also in the output": lambda: raw_case(
        lambda p, x: x @ p["w"] + p["w"].sum(), {"w": normal(2, 5, 4)}, w="small"
    ),
    "unused": lambda: raw_case(
        lambda p, x: x @ p["w"], {"w": normal(2, 5, 4), "v": normal(3, 7)}, w="dense", v="unused"
    ),
    "one axis": lambda: convolution_case(
        normal(2, 3, 2, 4),
        normal(1, SIZE, 8, 2),
        ("NWC", "WIO", "NWC"),
        [(2, -1)],
        window_strides=(2,),
    ),
    "three axes": lambda: convolution_case(
        normal(2, 3, 2, 2, 1, 2),
        normal(1, SIZE, 2, 4, 3, 3),
        ("NCDHW", "OIDHW", "NCDHW"),
        "SAME",
        window_strides=(1, 2, 1),
    ),
    "dilations": lambda: convolution_case(
        normal(2, 3, 2, 4, 2),
        normal(1, SIZE, 5, 6, 2),
        ("NHWC", "HWOI", "NCHW"),
        [(0, 1), (3, 2)],
        window_strides=(1, 2),
        lhs_dilation=(2, 1),
        rhs_dilation=(1, 3),
    ),
    "groups": lambda: convolution_case(
        normal(2, 6, 2, 3),
        normal(1, SIZE, 4, 7),
        ("NCW", "OIW", "CWN"),
        "VALID",
        window_strides=(1,),
        feature_group_count=2,
    ),
    "transposed": lambda: raw_case(
        lambda p, x: lax.conv_transpose(x, p["kernel"], (2, 2), "SAME", transpose_kernel=True),
        {"kernel": normal(2, 3, 2, 4, 2)},
        normal(1, SIZE, 3, 4, 2),
        kernel="patches",
    ),
}


@functools.cache
def case_of(name: str) -> Case:
    """The one case of that name: what is compiled for its losses, all tests share."""
    return CASES[name]()
