"""What metrics cost, and what they say of two ensembles that are the same."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks.timing import in_turn, table
from mu_jax import evaluation


def klom() -> str:
    """KLoM of 100 against 100 models on 60,000 examples."""
    oracle = jax.random.normal(jax.random.key(0), (100, 60_000))
    unlearned = 1.0 + jax.random.normal(jax.random.key(1), (100, 60_000))
    times = in_turn({"100 against 100 models": lambda: evaluation.klom(oracle, unlearned)})
    return table(
        "KLoM over 60,000 examples (goal: less than a second)", times, next(iter(times)), {}
    )


def floors() -> str:
    """Metrics of two ensembles of one distribution: what a perfect unlearner scores."""
    lines = ["\nTwo ensembles of the same distribution: what a perfect unlearner scores (5 seeds)"]
    for models in (50, 100, 200):
        found = [_floors(models, seed) for seed in range(5)]
        for name in found[0]:
            values = np.array([values[name] for values in found])
            label = f"{name}, {models} models"
            lines.append(f"  {label:44s} {values.mean():7.3f} ± {values.std(ddof=1):.3f}")
    found = np.array([_u_lira(seed) for seed in range(5)])
    label = "U-LiRA accuracy, 24 bases x 20 runs"
    lines.append(f"  {label:44s} {found[:, 0].mean():7.3f} ± {found[:, 0].std(ddof=1):.3f}")
    label = "U-LiRA floor of the same runs"
    lines.append(f"  {label:44s} {found[:, 1].mean():7.3f} ± {found[:, 1].std(ddof=1):.3f}")
    return "\n".join(lines)


def _floors(models: int, seed: int) -> dict[str, float]:
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(2, models, 200))
    klom = np.asarray(evaluation.klom(first, second))
    quality = evaluation.forgetting_quality(first, second)
    return {
        "KLoM, mean": klom.mean(),
        "KLoM, 95th percentile": np.percentile(klom, 95),
        "forgetting quality (NeurIPS 2023)": float(quality.score),
    }


def _u_lira(seed: int) -> tuple[float, float]:
    random = np.random.default_rng(seed)
    trained = random.random((24, 200)) < 0.5
    forgotten = trained[:, None] & (random.random((24, 20, 200)) < 0.4)
    margins = random.normal(size=(24, 20, 200))
    options = evaluation.ULiraOptions(targets=20, min_shadows=10)
    found = evaluation.u_lira(margins, trained, forgotten, seed=seed, options=options)
    floor = evaluation.u_lira_floor(margins, trained, forgotten, seed=seed, options=options)
    return float(found.accuracy), float(floor.accuracy)
