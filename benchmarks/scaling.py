"""What must not grow: memory with the number of examples, time with a grid of edits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

import mu_jax as mu
from benchmarks.timing import in_turn, table
from mu_jax import models


def memory() -> str:
    """Temporary memory of a compiled statistic over 1k, 10k and 100k rows."""
    module = models.MLP((256,), 10)
    model = mu.from_linen(module, mu.losses.cross_entropy)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 32)))
    lines = ["\nMemory of per-example importance beside its inputs (MLP 32-256-10, batches of 256)"]
    for rows in (1_000, 10_000, 100_000):
        data = mu.batches(np.zeros((rows, 32), np.float32), np.zeros(rows, int), batch_size=256)
        program = jax.jit(lambda v, d: mu.collect(mu.statistics.importance(model), v, d)).lower(
            variables, data
        )
        found = program.compile().memory_analysis()
        lines.append(
            f"  {rows:>7,} rows: temporary {found.temp_size_in_bytes / 2**20:7.2f} MiB, "
            f"result {found.output_size_in_bytes / 2**20:.2f} MiB, "
            f"inputs {found.argument_size_in_bytes / 2**20:7.2f} MiB"
        )
    return "\n".join(lines)


def grid() -> str:
    """A grid of 100 (alpha, dampening) beside one SSD run."""
    module = models.MLP((128, 64), 10)
    model = mu.from_linen(module, mu.losses.cross_entropy)
    rng = np.random.RandomState(0)
    x, y = rng.normal(size=(2_000, 64)).astype(np.float32), rng.randint(0, 10, 2_000)
    data = mu.batches(x, y, batch_size=256)
    forget, retain = mu.split(data, np.arange(200))
    variables = module.init(jax.random.key(0), x[:1])

    @jax.jit
    def edit(alpha, dampening, forget, retain):
        return mu.ssd(model, alpha, dampening)(jax.random.key(0), variables, forget, retain)[0]

    many = jax.jit(jax.vmap(edit, in_axes=(0, 0, None, None)))
    alphas, dampenings = jnp.linspace(1.2, 6.0, 100), jnp.linspace(0.1, 1.0, 100)
    times = in_turn(
        {
            "one SSD run": lambda: edit(2.0, 0.5, forget, retain),
            "100 of (alpha, dampening)": lambda: many(alphas, dampenings, forget, retain),
        }
    )
    goals = {"100 of (alpha, dampening)": 1.5}
    return table("SSD on 2,000 rows (MLP 64-128-64-10)", times, "one SSD run", goals)
