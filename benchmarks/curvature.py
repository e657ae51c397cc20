"""K-FAC and EK-FAC: the price of their passes, and their scores beside the exact curvature.

Scores `g_q^T (C + damping I)^-1 g_i` of pairs of examples are compared with those of the whole
Gauss-Newton matrix, which small networks allow: solved densely, in float64. With torch and
kronfluence installed, its scores of the same network and its time stand beside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

import mu_jax as mu
from benchmarks import importance, torch_curvature
from benchmarks.timing import in_turn, table
from launch_tpu.compile.operations import count
from mu_jax import datasets
from mu_jax.attribution import influence_scores, spearman
from mu_jax.statistics import curvature

PyTree = Any
GRADIENT, KFAC, EKFAC = "gradient", "K-FAC factors", "EK-FAC eigenvalues"
GOAL = 2.0
TARGETS, SCORED, DAMPINGS, SEEDS = 40, 500, (1e-1, 1e-2, 1e-3), range(3)


class SmallCNN(nn.Module):
    """Two convolutions by strides, the mean over pixels, a linear head; no normalization."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for width in (8, 16):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2, padding=1)(x))
        return nn.Dense(10)(x.mean((1, 2)))


class SmallMLP(nn.Module):
    """One hidden layer on flattened images."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(16)(x.reshape(len(x), -1)))
        return nn.Dense(10)(x)


NETWORKS = {"mlp": SmallMLP(), "cnn": SmallCNN()}
CASES = [
    ("MLP 64-512-512-10, 256 rows", partial(importance.classifier, importance.MLP, 256, 64)),
    (
        "Transformer block, 64 rows of 16 x 64",
        partial(importance.classifier, importance.BLOCK, 64, 16, 64),
    ),
    (
        "CNN of 3 convolutions with BatchNorm, 64 rows of 16 x 16 x 3",
        partial(importance.classifier, importance.CNN, 64, 16, 16, 3),
    ),
]


def run() -> str:
    """Both tables."""
    return "\n".join([*(cost(*case) for case in CASES), *map(scores, NETWORKS)])


def passes(problem: importance.Problem) -> dict[str, tuple[mu.Statistic, Any]]:
    """A gradient and the two passes over one batch, as statistics and what they are collected at.

    Returns:
      By name, the statistic and its variables.
    """
    model, variables, batch = problem
    layers = curvature.kronecker_layers(model, variables, [batch])
    bases = tuple(
        tuple(jnp.tile(jnp.eye(size), (layer.shape[0], 1, 1)) for size in layer.matrices[1:])
        for layer in layers.layers
    )
    return {
        GRADIENT: (mu.statistics.mean_gradient(model), variables),
        KFAC: (curvature.kfac(model, layers), variables),
        EKFAC: (curvature.ekfac(model, layers), (variables, bases)),
    }


def operations(problem: importance.Problem) -> dict[str, float]:
    """Operations of each pass relative to those of a gradient."""
    counts = {}
    for name, (statistic, given) in passes(problem).items():
        program = jax.jit(statistic.update).trace(statistic.init(given), given, problem.batch)
        counts[name] = count(program.jaxpr)
    return {name: value / counts[GRADIENT] for name, value in counts.items()}


def cost(title: str, make: Callable[[], importance.Problem]) -> str:
    """Time and operations of each pass beside a gradient."""
    problem = make()
    alternatives = {
        name: importance.one_batch(statistic, given, problem.batch)
        for name, (statistic, given) in passes(problem).items()
    }
    lines = table(title, in_turn(alternatives), GRADIENT, {KFAC: GOAL})
    found = ", ".join(f"{name} {value:.2f}" for name, value in operations(problem).items())
    return f"{lines}\n  operations, of those of a gradient: {found}"


class Trained(NamedTuple):
    """A trained network, its training set, the part of it that is scored, and targets."""

    name: str
    model: mu.Model
    variables: PyTree
    data: mu.Batches
    scored: mu.Batches
    targets: mu.Batches


def trained(name: str, epochs: int = 20) -> Trained:
    """A small network on digits, and digits that it has not seen as targets."""
    digits, others = datasets.load("digits"), datasets.load("digits", split="test", limit=TARGETS)
    data = mu.batches(digits.inputs, digits.targets, batch_size=250)
    targets = mu.batches(others.inputs, others.targets, batch_size=TARGETS)
    model = mu.from_linen(NETWORKS[name], mu.losses.cross_entropy)
    variables = NETWORKS[name].init(jax.random.key(0), data.inputs[:1])
    fitted = data.replace(batch_size=50)
    state, _ = mu.fit(
        model,
        mu.supervised(model),
        optax.adam(1e-2),
        variables,
        fitted,
        key=jax.random.key(1),
        epochs=epochs,
    )
    variables = state.variables
    return Trained(name, model, variables, data, data.take(np.arange(SCORED)), targets)


def exact(case: Trained) -> Callable[[float], np.ndarray]:
    """Scores of the whole damped Gauss-Newton matrix in float64, [n, T], for any damping."""
    model, params = case.model, case.model.params(case.variables)
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def jacobian(inputs):
        def logits(flat, x):
            return model.apply(model.with_params(case.variables, unravel(flat)), x[None])[0]

        return jax.vmap(jax.jacrev(logits), in_axes=(None, 0))(flat, inputs)

    matrix, size = 0.0, case.data.num_examples
    for batch in case.data.replace(batch_size=100):
        rows = np.asarray(jacobian(batch.inputs), np.float64)
        p = np.asarray(jax.nn.softmax(model.apply(case.variables, batch.inputs)), np.float64)
        root = np.sqrt(p)[:, :, None] * (rows - np.einsum("nk,nkp->np", p, rows)[:, None])
        root = root.reshape(-1, flat.size) * np.repeat(np.asarray(batch.weight) ** 0.5, 10)[:, None]
        matrix = matrix + root.T @ root / size

    def gradients(data):
        p = np.asarray(jax.nn.softmax(model.apply(case.variables, data.inputs)), np.float64)
        errors = p - np.eye(10)[np.asarray(data.targets)]
        return np.einsum("nk,nkp->np", errors, np.asarray(jacobian(data.inputs), np.float64))

    own, theirs = gradients(case.scored), gradients(case.targets)
    values, vectors = np.linalg.eigh(matrix)
    own, theirs = own @ vectors, theirs @ vectors
    return lambda damping: (own / (np.maximum(values, 0) + damping)) @ theirs.T


def ours(case: Trained, damping: float, seed: int, **options: Any) -> Any:
    """Factors over all data and scores, from nothing."""
    factors = curvature.kronecker_factors(
        case.model, case.variables, case.data, seed=seed, **options
    )
    return influence_scores(
        case.model, case.variables, factors, case.scored, case.targets, damping=damping
    )


def scores(name: str) -> str:
    """Correlation with exact scores, and time, of each way to scores; means over drawn labels."""
    case = trained(name)
    truth = exact(case)
    ways = {
        "EK-FAC": partial(ours, case),
        "EK-FAC, expected labels": partial(ours, case, labels="expected"),
        "K-FAC": partial(ours, case, eigenvalues=False),
        "no curvature": lambda damping, seed: truth(1e6),
    }
    if torch_curvature.AVAILABLE:
        ways["kronfluence: EK-FAC"] = partial(torch_curvature.scores, case)
    lines = [f"\nScores of {SCORED} x {TARGETS} digits, {name}: correlation with exact ones"]
    lines.append(f"  {'damping':38s} " + " ".join(f"{d:>17g}" for d in DAMPINGS))
    for way, compute in ways.items():
        seeds = SEEDS if way.endswith("FAC") else SEEDS[:1]  # the others draw nothing
        found = {
            d: [_correlations(np.asarray(compute(d, s)), truth(d)) for s in seeds] for d in DAMPINGS
        }
        cells = [np.mean(found[d], axis=0) for d in DAMPINGS]
        lines.append(f"  {way:38s} " + " ".join(f"{p:8.3f}/{s:8.3f}" for p, s in cells))
    lines.append(f"  (Pearson / Spearman, means over targets and {len(SEEDS)} draws of labels)")
    timed = {way: partial(run, 1e-2, 0) for way, run in ways.items() if "EK-FAC" in way}
    base = list(timed)[-1]  # kronfluence, if it is there
    times = in_turn(timed, repeats=5)
    lines.append(table("  factors and scores, compiled", times, base, {}))
    return "\n".join(lines)


def _correlations(found: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Means over targets of Pearson's and Spearman's correlation over examples."""
    pearson = [np.corrcoef(*pair)[0, 1] for pair in zip(found.T, wanted.T)]
    ranks = spearman(jnp.asarray(found), jnp.asarray(wanted))
    return float(np.mean(pearson)), float(np.mean(ranks))
