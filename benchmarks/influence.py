"""How the error of influence steps grows with the number k of removed examples: slopes, not points.

    python -m benchmarks.influence
    python -m benchmarks.influence docs/influence.svg

Logistic regression with an l2 penalty on pairs of digits, in float64: convex, so that retraining
has one answer, which Newton's method finds to rounding. For k = 1, 2, 4, ... near copies of one
image the script measures how far each step ends from the retrained parameters. An error of second
order has slope 2 on logarithmic axes; a step without curvature misses a share of the move itself,
which has slope 1. The published rank-one recursion is given the best step size for every k.

It takes about a minute on two cores and prints slopes over four pairs of digits.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import mu_jax as mu
from mu_jax import plots, solvers

PAIRS = ((3, 8), (4, 9), (1, 7), (5, 6))
KS = (1, 2, 4, 8, 16, 32)
ROWS, COPIES, L2 = 300, 64, 0.05
MODEL = mu.from_function(lambda w, state, x: x @ w, optax.sigmoid_binary_cross_entropy)
MOVE, RANK_ONE = "the move itself", "rank-one reference"
STEPS = {
    "classic": {"formula": "classic"},
    "reweighted influence": {"formula": "reweighted_influence"},
    "reweighted Newton": {"formula": "reweighted_newton"},
    RANK_ONE: {"formula": "reweighted_newton", "solver": solvers.rank_one_reference()},
}
EXACT = solvers.conjugate_gradients(iterations=300, tolerance=1e-13)


class Problem(NamedTuple):
    """Rows of two digits, f64[n, 65] with a column of ones and f64[n], and the rows to remove."""

    inputs: np.ndarray
    targets: np.ndarray
    order: np.ndarray


def problem(pair: tuple[int, int]) -> Problem:
    """Digits of a pair, and one image of the first digit many times over, a little different.

    These are what is removed, as the examples of one person would be. They resemble one another, so
    that k of them move the parameters k times as far as one, and a slope over k says something.
    """
    images, labels = load_digits(return_X_y=True)
    rows = np.flatnonzero(np.isin(labels, pair))[:ROWS]
    own = rows[labels[rows] == pair[0]][0]
    noise = 0.05 * np.random.RandomState(own).normal(size=(COPIES, images.shape[1]))
    x = np.concatenate([images[rows] / 16, images[own] / 16 + noise])
    x = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    targets = np.append(labels[rows] == pair[0], np.ones(COPIES, bool)).astype(np.float64)
    return Problem(x, targets, len(rows) + np.arange(COPIES))


def minimum(case: Problem, weight: np.ndarray) -> np.ndarray:
    """The parameters of least `sum w_i l_i / sum w_i + L2/2 |theta|^2`, by Newton's method."""
    theta, share = np.zeros(case.inputs.shape[1]), weight / weight.sum()
    for _ in range(50):
        p = 0.5 * (1 + np.tanh(0.5 * case.inputs @ theta))
        gradient = case.inputs.T @ (share * (p - case.targets)) + L2 * theta
        curved = (case.inputs * (share * p * (1 - p))[:, None]).T @ case.inputs
        step = np.linalg.solve(curved + L2 * np.eye(len(theta)), gradient)
        theta = theta - step
        if np.linalg.norm(step) < 1e-14:
            break
    return theta


def sets(case: Problem, k: int) -> tuple[mu.Batches, mu.Batches]:
    """The first k rows to remove, and the others: all rows twice, weighted, in one shape."""
    gone = np.isin(np.arange(len(case.targets)), case.order[:k])

    def part(kept):
        index = np.arange(len(kept))
        return mu.batches(
            case.inputs,
            case.targets,
            batch_size=len(kept),
            weight=kept.astype(float),
            index=np.where(kept, index, -1 - index),  # padding has ids of its own
        )

    return part(gone), part(~gone)


@functools.cache
def step(name: str) -> Any:
    """`(theta, forget, retain) -> theta after the step`, compiled once for all k."""
    options: dict[str, Any] = {"solver": EXACT, "damping": 0.0, "l2": L2, **STEPS[name]}
    unlearn = mu.watched(mu.influence(MODEL, **options), False)

    @jax.jit
    def run(theta, forget, retain):
        return unlearn(jax.random.key(0), mu.Variables(theta), forget, retain)[0].params

    return run


def errors(
    pair: tuple[int, int], ks: tuple[int, ...] = KS, names: tuple[str, ...] = tuple(STEPS)
) -> dict[str, np.ndarray]:
    """`|theta_step - theta_retrained| / |theta|` of the steps for every k, f64[len(ks)]."""
    case = problem(pair)
    start = minimum(case, np.ones(len(case.targets)))
    found: dict[str, list[float]] = {name: [] for name in (MOVE, *names)}
    with jax.enable_x64(True):
        for k in ks:
            forget, retain = sets(case, k)
            move = minimum(case, np.asarray(retain.weight, np.float64)) - start
            for name in found:
                made = np.zeros_like(move)
                if name != MOVE:
                    made = np.asarray(step(name)(jnp.asarray(start), forget, retain)) - start
                if name == RANK_ONE:
                    made = made * (move @ made) / (made @ made)
                found[name].append(float(np.linalg.norm(made - move) / np.linalg.norm(start)))
    return {name: np.array(values) for name, values in found.items()}


def slope(ks: tuple[int, ...], values: np.ndarray) -> float:
    """The slope of a curve on logarithmic axes, by least squares."""
    return float(np.polyfit(np.log(ks), np.log(values), 1)[0])


def draw(path: str, found: dict[str, np.ndarray]) -> None:
    """The curves as a picture: `log10` of the error over k, with the range over pairs."""
    curves = {name: np.log10(values) for name, values in found.items()}
    title = "Distance to the retrained parameters"
    panel = plots.Panel(
        title, "removed examples k", "log10 of |error| / |theta|", curves, tuple(map(str, KS))
    )
    plots.save(plots.panels([panel]), path)


def main(arguments: list[str]) -> int:
    """Print the slopes, and draw the curves where a path is given."""
    every = [errors(pair) for pair in PAIRS]
    found = {name: np.stack([each[name] for each in every]) for name in every[0]}
    print(f"{'step':24}{'slope (range over pairs)':28}" + "".join(f"k={k:<9}" for k in KS))
    for name, values in found.items():
        fits = [slope(KS, row) for row in values]
        text = f"{np.mean(fits):.2f} ({min(fits):.2f} to {max(fits):.2f})"
        print(f"{name:24}{text:28}" + "".join(f"{x:<11.1e}" for x in values.mean(axis=0)))
    if arguments:
        draw(arguments[0], found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
