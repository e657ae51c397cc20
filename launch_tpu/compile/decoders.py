"""The programs of a run on rows of tokens: methods and evaluation of a decoder, as shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

import mu_jax as mu
from experiments.lib.configurations import Fields, check_fields
from experiments.lib.tasks import lookup, make_optimizer
from launch_tpu.compile.programs import Inputs, at, recorded
from mu_jax.data.tokens import Tokens, TokenTargets
from mu_jax.loops.recording import Program
from mu_jax.models.decoder import Decoder, DecoderConfig, sharding_rules

PyTree = Any
_FIELDS: Fields = {
    "decoder": ((Mapping, ConfigDict), None),
    "computation": ((Mapping, ConfigDict), None),
    "computation.dtype": ((str,), None),
    "computation.parameters": ((str,), None),
    "computation.chunk": ((int,), 1),
    "rows": ((Mapping, ConfigDict), None),
    "rows.examples": ((int,), 2),
    "rows.forget": ((int,), 1),
    "rows.length": ((int,), 2),
    "batch_size": ((int,), 1),
    "fsdp": ((int,), 1),
    "methods": ((Mapping, ConfigDict), None),
}


def check(config: ConfigDict) -> None:
    """Refuse a configuration of a decoder that lacks a field, or has a value not allowed."""
    check_fields(config, _FIELDS)
    make_decoder(config)


def make_decoder(config: ConfigDict, **fields: Any) -> Decoder:
    """The decoder of a configuration, its blocks under a scan.

    Raises:
      ValueError: sizes that do not fit together, or a field that a decoder does not have.
    """
    try:
        sizes = DecoderConfig(**config.decoder.to_dict())
    except TypeError as error:
        raise ValueError(
            f"expected the fields of a decoder, found that {error}; correct config.decoder"
        ) from None
    known = config.computation
    computed = {"dtype": jnp.dtype(known.dtype), "remat": known.remat, "chunk": known.chunk}
    return Decoder(sizes, **{"scan_layers": True, **computed, **fields})


def streamed(
    config: ConfigDict,
    method: str,
    mesh: Mesh,
    *,
    batch_size: int,
    forget: int,
    platform: str = "tpu",
) -> list[Program]:
    """The programs of a method, or of evaluation, over streams of rows of tokens.

    Args:
      config: of a decoder. method: a name among its methods.
      mesh: of `programs.make_mesh`; parameters are divided over its axis `fsdp`.
      batch_size: rows per batch over all devices. forget: rows to forget.
      platform: for which they are traced.
    """
    arguments = dict(config.methods[method])
    name = arguments.pop("method", method)
    make = lookup(METHODS, name, "method")
    rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    decoder = make_decoder(config, rows=rows, scan_layers=name != "rmu")
    if name == "finetune":  # a step reads as many rows as one beside drawn retained rows
        batch_size *= 2
    inputs = lay_out(config, decoder, mesh, batch_size=batch_size, forget=forget)
    return recorded(make(decoder, arguments), inputs, mesh, platform=platform)


def lay_out(
    config: ConfigDict, decoder: Decoder, mesh: Mesh, *, batch_size: int, forget: int
) -> Inputs:
    """What a method is given, as shapes on the mesh; every row has a score of the reference."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    key = jax.eval_shape(jax.random.key, 0)
    kind = jnp.dtype(config.computation.parameters)
    variables = jax.eval_shape(lambda key: decoder.init(key, dtype=kind), key)
    where = mu.param_shardings(variables, mesh, rules=sharding_rules("fsdp"))
    examples, length = config.rows.examples, config.rows.length

    def rows(number: int) -> mu.Batches:
        def column(dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
            return at((number, *shape), dtype, everywhere)

        tokens = column(jnp.int32, length)
        targets = TokenTargets(tokens, column(jnp.float32, length), reference=column(jnp.float32))
        return mu.data.Batches(
            Tokens(tokens, tokens, tokens),
            targets,
            column(jnp.float32),
            column(jnp.int32),
            batch_size=batch_size,
            mesh=mesh,
            axis=mesh.axis_names,
        )

    return Inputs(
        at(key.shape, key.dtype, everywhere),
        jax.tree.map(lambda x, place: at(x.shape, x.dtype, place), variables, where),
        rows(forget),
        rows(examples - forget),
    )


@dataclasses.dataclass(frozen=True)
class States:
    """The states behind a block; what lies behind it is not computed."""

    decoder: Decoder
    layer: int

    def __call__(self, variables: PyTree, tokens: Tokens) -> jax.Array:
        """[B, T, d]."""
        return self.decoder.hidden(variables.params, tokens, stop=self.layer)


def _model(decoder: Decoder) -> mu.Model:
    return decoder.model(mu.token_losses.TokenCrossEntropy())


def _optimizer(arguments: dict[str, Any]) -> optax.GradientTransformation:
    return make_optimizer(arguments.pop("optimizer"), arguments.pop("learning_rate"))


def _paired(factory: Callable) -> Callable:
    def make(decoder: Decoder, arguments: dict[str, Any]) -> Callable:
        optimizer, rest = _optimizer(arguments), dict(arguments)
        fields = mu.PairingRecipe._fields
        recipe = mu.PairingRecipe(**{k: rest.pop(k) for k in fields if k in rest})
        return factory(_model(decoder), optimizer, recipe=recipe, **rest)

    return make


def _finetune(decoder: Decoder, arguments: dict[str, Any]) -> Callable:
    optimizer = _optimizer(arguments)
    return mu.finetune(_model(decoder), optimizer, **arguments)


def _ssd(decoder: Decoder, arguments: dict[str, Any]) -> Callable:
    return mu.ssd(_model(decoder), **arguments)


def _rmu(decoder: Decoder, arguments: dict[str, Any]) -> Callable:
    """Three matrices are trained, as published: those behind which the states are steered."""
    last = arguments.pop("layer")
    names = {f"block_{k}/mlp/down" for k in range(last - 2, last + 1)}
    arguments |= {"layer": States(decoder, last), "trainable": names.__contains__}
    return _paired(mu.rmu)(decoder, arguments)


def _evaluation(decoder: Decoder, arguments: dict[str, Any]) -> Callable:
    """Token statistics of all rows, of which every teacher-forced metric is a function."""
    model, statistics = _model(decoder), mu.evaluation.language.statistics_of

    def evaluate(key, variables, forget, retain):
        return statistics(model, variables, forget), statistics(model, variables, retain)

    return evaluate


METHODS: dict[str, Callable[[Decoder, dict[str, Any]], Callable]] = {
    "finetune": _finetune,
    "npo": _paired(mu.npo),
    "rmu": _rmu,
    "ssd": _ssd,
    "evaluation": _evaluation,
}
