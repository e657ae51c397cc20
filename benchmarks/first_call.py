"""What a first call costs: each in a fresh process, without a cache of compiled programs.

Processor time is compared, which other work on the machine disturbs less than the clock, and the
number of programs that are compiled is counted.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

PROCESSES = 3


class Case(NamedTuple):
    """A network, what is called, and what it may cost: `factor` gradients and `extra` seconds."""

    title: str
    network: str
    calls: tuple[str, ...]
    factor: float
    extra: float


CASES = [
    Case(
        "MLP 64-32-10, 512 rows in batches of 64",
        "mlp",
        ("importance", "ssd", "iau", "finetune", "ensemble"),
        3.0,
        0.5,
    ),
    Case("ResNet-18, one batch of 16 images", "resnet", ("importance", "ssd", "iau"), 2.0, 0.0),
]
GOALS = ("ssd", "iau")


class Cost(NamedTuple):
    """Of one call: processor seconds, programs compiled, seconds spent compiling them."""

    seconds: float
    programs: int
    compiling: float


def run(case: Case) -> str:
    """Measure one network; returns the lines of its table."""
    found = {
        call: [_in_a_process(case.network, call) for _ in range(PROCESSES)]
        for call in ("gradient", *case.calls)
    }
    seconds = {
        call: statistics.median(first.seconds for first, _ in costs)
        for call, costs in found.items()
    }
    goal = case.factor * seconds["gradient"] + case.extra
    lines = [
        f"\n{case.title}: first call, median of {PROCESSES} processes",
        f"  {'':12s} {'CPU s':>7s} {'ratio':>6s} {'compiling':>10s} {'programs':>9s} "
        f"{'again: CPU s':>13s} {'programs':>9s}",
    ]
    for call, costs in found.items():
        (first, again), ratio = costs[-1], seconds[call] / seconds["gradient"]
        again_seconds = statistics.median(second.seconds for _, second in costs)
        end = f"  (goal: at most {goal:.2f} s)" if call in GOALS else ""
        lines.append(
            f"  {call:12s} {seconds[call]:7.2f} {ratio:6.2f} {compiling(costs):10.2f} "
            f"{first.programs:9d} {again_seconds:13.2f} {again.programs:9d}{end}"
        )
    return "\n".join(lines)


def compiling(costs: Sequence[tuple[Cost, Cost]]) -> float:
    """Seconds of tracing and compiling alone: what a first call takes beyond a second one.

    Methods differ in how many batches they compute, which both calls do.
    """
    return statistics.median(first.seconds - again.seconds for first, again in costs)


def _in_a_process(network: str, call: str) -> tuple[Cost, Cost]:
    given = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-m", "benchmarks.first_call", network, call]
    done = subprocess.run(command, env=given, check=True, capture_output=True, text=True)
    first, again = json.loads(done.stdout.splitlines()[-1])
    return Cost(*first), Cost(*again)


def measure(network: str, call: str) -> list[Cost]:
    """The cost of a call, and of another with other sets, seed and numbers, in this process."""
    import jax

    events: list[float] = []

    def listen(event, duration, **_):
        if event.endswith("backend_compile_duration"):
            events.append(duration)

    given = [arguments(network, seed) for seed in range(2)]
    jax.block_until_ready(given)
    function = calls(network)[call]
    jax.monitoring.register_event_duration_secs_listener(listen)
    costs = []
    for seed, one in enumerate(given):
        del events[:]
        start = time.process_time()
        jax.block_until_ready(function(0.1 + 0.1 * seed, *one))
        costs.append(Cost(time.process_time() - start, len(events), sum(events)))
    return costs


def network_of(name: str) -> tuple[Any, tuple[int, ...], int, int]:
    """The module, the shape of an example, how many there are, and the batch size."""
    from mu_jax import models

    if name == "mlp":
        return models.MLP((32,), 10), (64,), 512, 64
    return models.ResNet18(num_outputs=10), (32, 32, 3), 16, 16


def arguments(network: str, seed: int) -> tuple:
    """Key, variables, forget and retain set; other seeds give other values and sizes."""
    import jax
    import numpy as np

    import mu_jax as mu

    module, shape, examples, batch_size = network_of(network)
    rng = np.random.RandomState(seed)
    inputs = rng.normal(size=(examples, *shape)).astype(np.float32)
    data = mu.batches(inputs, rng.randint(0, 10, examples), batch_size=batch_size)
    forget, retain = mu.split(data, range(examples // (10 - 2 * seed)))
    variables = jax.jit(module.init)(jax.random.key(seed), inputs[:1])
    return jax.random.key(seed), variables, forget, retain


def calls(network: str) -> dict[str, Callable[..., Any]]:
    """What is measured, by name: functions of a number and the arguments of a transform."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    import mu_jax as mu

    module, shape, _, batch_size = network_of(network)
    model = mu.from_linen(module, mu.losses.cross_entropy)

    @jax.jit
    def mean_gradient(variables, batch):
        params, state = model.split(variables)
        return jax.grad(lambda p: model.losses(model.join(p, state), batch).mean())(params)

    def gradient(number, key, variables, forget, retain):
        sets = [jax.device_get((x.inputs, x.targets, x.weight, x.index)) for x in (retain, forget)]
        rows = [jax.device_put(np.concatenate(pair)[:batch_size]) for pair in zip(*sets)]
        return mean_gradient(variables, mu.Batch(*rows))

    def importance(number, key, variables, forget, retain):
        return mu.collect(mu.statistics.importance(model), variables, forget).sum

    def ensemble(number, key, variables, forget, retain):
        def init(key):
            return module.init(key, jnp.zeros((1, *shape)))

        # Two batches: what is measured is compiling.
        data, keys = retain.take(range(2 * batch_size)), jax.random.split(key, 4)
        return mu.ensembles.train(model, optax.sgd(number), data, keys, init=init, epochs=1)

    return {
        "gradient": gradient,
        "importance": importance,
        "ssd": lambda number, *given: mu.ssd(model, 1 + number, number)(*given),
        "iau": lambda number, *given: mu.iau(model, optax.adam(number))(*given),
        "finetune": lambda number, *given: mu.finetune(model, optax.sgd(number))(*given),
        "ensemble": ensemble,
    }


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
