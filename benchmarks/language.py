"""What a step of unlearning a language model costs beside one of fine-tuning on the same rows."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import mu_jax as mu
from benchmarks import torch_language
from benchmarks.timing import in_turn, ratios
from launch_tpu.compile.operations import count
from mu_jax.data.tokens import Preference, TokenTargets
from mu_jax.loops.recording import record
from mu_jax.models import Decoder, DecoderConfig

PyTree = Any
LOSS, ADAMW = mu.token_losses.TokenCrossEntropy(), optax.adamw(1e-5)
FINETUNE, FINETUNE_PAIRS = "fine-tuning", "fine-tuning, three rows a pair"
GOALS = {"NPO": 1.05, "DPO": 1.05, "RMU": 0.25}
BASE = {"NPO": FINETUNE, "DPO": FINETUNE_PAIRS, "RMU": FINETUNE}
REPEATS = 30


class Setup(NamedTuple):
    """A decoder with random parameters, and rows to forget and to retain, a batch for each step."""

    decoder: Decoder
    variables: PyTree
    forget: mu.Batches
    retain: mu.Batches
    steps: int


@dataclasses.dataclass(frozen=True)
class States:
    """The states behind a block; no block behind it is computed."""

    decoder: Decoder
    layer: int

    def __call__(self, variables: PyTree, inputs: PyTree) -> jax.Array:
        """[B, T, d]."""
        return self.decoder.hidden(variables.params, inputs, stop=self.layer)


def setup(
    *,
    words: int = 2048,
    width: int = 128,
    depth: int = 12,
    length: int = 64,
    rows: int = 8,
    steps: int = 2,
    scan_layers: bool = False,
) -> Setup:
    """A problem in which half of the rows of each step are to be forgotten."""
    config = DecoderConfig(
        "llama",
        vocab_size=words,
        width=width,
        depth=depth,
        num_heads=4,
        num_kv_heads=2,
        head_dim=width // 4,
        mlp_width=4 * width,
        max_positions=length,
    )
    decoder = Decoder(config, scan_layers=scan_layers)
    start = decoder.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    tokens = rng.integers(words, size=(2 * rows * steps, length)).astype(np.int32)
    mask = np.ones(tokens.shape, np.float32)
    mask[:, 0] = 0
    targets = TokenTargets(tokens, mask)
    data = mu.batches(tokens, targets, batch_size=rows)
    return Setup(decoder, start, *mu.split(data, np.arange(rows * steps)), steps)


def with_scores(given: Setup) -> mu.Batches:
    """The rows to forget with what the model says of them, computed once."""
    nll = mu.objectives.reference_nll(given.decoder.model(LOSS), given.variables, given.forget)
    targets = given.forget.targets._replace(reference=nll)
    return given.forget.replace(targets=targets)


def pairs(forget: mu.Batches) -> mu.Batches:
    """The rows to forget beside other answers."""
    other = forget.targets._replace(tokens=forget.targets.tokens[:, ::-1])
    inputs = Preference(other.tokens, forget.inputs)
    return forget.replace(inputs=inputs, targets=Preference(other, forget.targets))


def transforms(given: Setup) -> dict[str, tuple[Callable, mu.Batches, mu.Batches]]:
    """Every method with its sets; each takes as many steps, a base as many rows a step."""
    decoder, steps = given.decoder, given.steps
    model, rows = decoder.model(LOSS), given.retain.batch_size
    recipe = mu.PairingRecipe(epochs=1)
    scored, last = with_scores(given), decoder.config.depth // 4 - 1
    names = {f"block_{k}/mlp/down" for k in range(last - 1, last + 1)}

    def tuned(per_step: int) -> tuple[Callable, mu.Batches, mu.Batches]:
        data = repeated(given.retain, per_step * steps).replace(batch_size=per_step)
        return mu.finetune(model, ADAMW, epochs=1), given.forget, data

    states = States(decoder, last)
    steer = mu.rmu(model, ADAMW, layer=states, trainable=names.__contains__, recipe=recipe)
    return {
        FINETUNE: tuned(2 * rows),
        FINETUNE_PAIRS: tuned(3 * rows),
        "NPO": (mu.npo(model, ADAMW, recipe=recipe), scored, given.retain),
        "DPO": (mu.dpo(model, ADAMW, recipe=recipe), pairs(scored), given.retain),
        "RMU": (steer, given.forget, given.retain),
    }


def repeated(data: mu.Batches, number: int) -> mu.Batches:
    """So many rows, those of the data again and again, with ids of their own."""
    found = data.take(np.arange(number) % data.num_examples)
    return found.replace(index=np.arange(number, dtype=np.int32))


class Cost(NamedTuple):
    """Of one compiled step.

    Attributes:
      operations: of matrix products, counted in the traced program. flops: of the compiler's cost
        analysis, loops counted once. traffic: bytes accessed, of the same.
      arguments, temporaries: bytes of memory.
      parameters: bytes of the model's. data: bytes of rows among the arguments.
    """

    operations: float
    flops: float
    traffic: float
    arguments: int
    temporaries: int
    parameters: int
    data: int

    @property
    def model_bytes(self) -> int:
        """Bytes of arguments that are no rows: parameters, of which trees, and the optimizer's."""
        return self.arguments - self.data


def cost(given: Setup, name: str) -> Cost:
    """What the compiled step of a method takes; a fit is one step, compiled alone."""
    transform, *sets = transforms(given)[name]
    with record() as programs:
        jax.eval_shape(transform, jax.random.key(0), given.variables, *sets)
    (program,) = programs
    donated = (0,) if program.donates else ()
    traced = jax.jit(program.function, donate_argnums=donated).trace(*program.arguments)
    compiled = traced.lower().compile()
    memory, known = compiled.memory_analysis(), compiled.cost_analysis()
    return Cost(
        count(traced.jaxpr),
        known["flops"],
        known["bytes accessed"],
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        n_bytes(given.variables),
        n_bytes([x for x in jax.tree.leaves(program.arguments) if is_rows(x, given)]),
    )


def is_rows(leaf: Any, given: Setup) -> bool:
    """Whether an argument has an entry for each row of a batch or of a set."""
    rows, length = given.retain.batch_size, given.decoder.config.max_positions
    sizes = {rows * k for k in (1, 2, 3)} | {given.retain.num_examples}
    return leaf.shape[:1] != () and leaf.shape[0] in sizes and leaf.shape[1:] in ((), (length,))


def n_bytes(tree: PyTree) -> int:
    """Bytes of arrays or shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def run() -> str:
    """The lines of the section."""
    given = setup()
    costs = {name: cost(given, name) for name in transforms(given)}
    calls = {}
    for name, (transform, *sets) in transforms(given).items():
        compiled = jax.jit(transform)
        arguments = (jax.random.key(0), given.variables, *sets)
        calls[name] = lambda compiled=compiled, arguments=arguments: compiled(*arguments)
    times = in_turn(calls, repeats=REPEATS, seconds=600.0)
    lines = [
        "\nA step of unlearning against one of fine-tuning on the same rows: decoder, 12 blocks of "
        "width 128",
        f"  {'':6s}{'operations':>12s}{'compiler: flops':>18s}{'bytes':>8s}{'memory':>8s}"
        f"{'time':>8s}",
    ]
    for name, base in BASE.items():
        one, other = costs[name], costs[base]
        memory = (one.model_bytes + one.temporaries) / (other.model_bytes + other.temporaries)
        lines.append(
            f"  {name:6s}{one.operations / other.operations:12.3f}"
            f"{one.flops / other.flops:18.4f}{one.traffic / other.traffic:8.3f}{memory:8.3f}"
            f"{ratios(times, base)[name]:8.3f}  (goal of the time: at most {GOALS[name]})"
        )
    return "\n".join([*lines, beside_torch()])


def beside_torch() -> str:
    """Time a token of NPO with retained rows here, and in PyTorch with a live reference."""
    if not torch_language.AVAILABLE:
        return "  PyTorch with transformers is not installed: no comparison of NPO"
    given = setup(depth=4)
    transform, *sets = transforms(given)["NPO"]
    compiled = jax.jit(transform)
    arguments = (jax.random.key(0), given.variables, *sets)
    calls: dict[str, Callable] = {"here": lambda: compiled(*arguments)}
    rows = (given.forget, given.retain)
    for threads in sorted({1, os.cpu_count() or 1}):
        calls[f"in PyTorch with {threads} thread{'s' * (threads > 1)}"] = torch_language.npo_steps(
            given.decoder, given.variables, *rows, threads=threads
        )
    times = in_turn(calls, repeats=REPEATS, seconds=600.0)
    tokens = 2 * given.forget.num_examples * given.decoder.config.max_positions
    found = ratios(times, "here")
    lines = [
        "  NPO with retained rows, 4 blocks, microseconds a token; PyTorch's reference is live:"
    ]
    for name, time in times.items():
        least, share = 1e6 * min(time.seconds) / tokens, 1 / found[name]
        lines.append(f"    {name:28s} median {1e6 * time.median / tokens:8.2f}, least {least:8.2f}")
        if name != "here":
            lines[-1] += f", ours {share:.2f} times that (goal: at most 0.5)"
    return "\n".join(lines)
