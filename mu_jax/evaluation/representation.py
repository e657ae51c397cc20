"""How far two models' features are apart: linear CKA, and k-nearest-neighbor transfer."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from mu_jax._at_once import as_array, holds, wide
from mu_jax.evaluation.accuracy import as_float, is_concrete


def _check_features(name: str, features: ArrayLike) -> jax.Array:
    features = as_float(features)
    if features.ndim != 2 or features.size == 0:
        raise ValueError(
            f"expected {name} [n, d], found shape {features.shape}: flatten or average the "
            "features of every example, one model at a time"
        )
    if is_concrete(features) and not holds(lambda xp, found: xp.isfinite(found).all(), features):
        raise ValueError(
            f"expected finite {name}, found NaN or infinity: a model that diverged has no "
            "features to compare, so report it as failed"
        )
    return features


def _centered(name: str, features: ArrayLike) -> jax.Array:
    """Features less their mean, scaled to mean square 1, which CKA does not see."""
    centered, constant = _scaled(_check_features(name, features))
    if is_concrete(constant) and bool(constant):
        raise ValueError(
            f"expected {name} that differ between examples, found one vector for all of them: a "
            "collapsed model has no representation to compare"
        )
    return centered


@jax.jit
def _scaled(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Centered features of mean square 1, NaN where they are constant; whether they are."""
    centered = features - features.mean(0, keepdims=True)
    size = jnp.sqrt(jnp.mean(centered**2))
    # The mean of equal numbers is rounded, so constant features need not be exactly 0 here.
    constant = size <= 1e-6 * jnp.max(jnp.abs(features))
    return centered / jnp.where(constant, jnp.nan, size), constant


def _product(first: jax.Array, second: jax.Array) -> jax.Array:
    return jnp.matmul(first, second, precision="highest")


def _hsic(first: jax.Array, second: jax.Array) -> jax.Array:
    """Biased estimate from centered features, up to a factor that cancels: `|X^T Y|_F^2`."""
    return jnp.sum(_product(first.T, second) ** 2)


def _unbiased_hsic(first: jax.Array, second: jax.Array) -> jax.Array:
    """Song's estimate, times n (n - 3), without an n x n array.

    With K = X X^T and L = Y Y^T whose diagonals are set to 0, it is `tr(K L) + (1^T K 1)(1^T L 1)
    / ((n - 1)(n - 2)) - 2 / (n - 2) 1^T K L 1`.
    """
    n = first.shape[0]
    diagonals = [jnp.sum(features**2, 1) for features in (first, second)]
    trace = _hsic(first, second) - jnp.dot(*diagonals)
    sums = [
        _product(features, features.sum(0)) - diagonal
        for features, diagonal in zip((first, second), diagonals)
    ]
    corner = sums[0].sum() * sums[1].sum() / ((n - 1) * (n - 2))
    return trace + corner - 2 / (n - 2) * jnp.dot(*sums)


def linear_cka(
    reference_features: ArrayLike, features: ArrayLike, *, unbiased: bool | None = None
) -> jax.Array:
    """Centered kernel alignment with linear kernels: similarity of two models' features.

    `HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y))`, with the biased estimate `|X^T Y|_F^2` of centered
    features or with the unbiased one. It does not change when features are rotated, shifted or
    scaled as a whole. The biased form is near 1 for *unrelated* features as soon as there are more
    of them than examples; the unbiased one is then near 0, and may be slightly negative.

    On forget examples, the unlearned model is to be as similar to the retrained one as two
    retrained ones are to each other (`pairwise_floor(linear_cka, ...)`, here a ceiling), and no
    more similar to the original than the retrained one is. Direction: closer to retrain.

    Args:
        reference_features: float `[n, d1]`.
        features: float `[n, d2]` of the same examples; the dimensions may differ.
        unbiased: which estimate; None takes the unbiased one for fewer than 1,000 examples.

    Returns:
        f32 scalar, at most 1 for the biased form; NaN under `jax.jit` for constant features.

    Raises:
        ValueError: numbers of examples disagree, fewer than four of them (two for the biased
            form), non-finite or constant features.

    Cost:
        O(n d1 d2) time, O(d1 d2) memory besides the features.

    Example:
        >>> features = jax.random.normal(jax.random.key(0), (50, 8))
        >>> other = jax.random.normal(jax.random.key(1), (50, 8))
        >>> round(float(linear_cka(features, 3 * features[:, ::-1] + 1)), 4)
        1.0
        >>> [round(float(linear_cka(features, other, unbiased=u)), 1) for u in (True, False)]
        [0.0, 0.2]

    Reference:
        Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network Representations Revisited",
        ICML 2019; Song, Smola, Gretton, Bedo, Borgwardt, "Feature Selection via Dependence
        Maximization", JMLR 2012.
    """
    first = _centered("reference features", reference_features)
    second = _centered("features", features)
    n = first.shape[0]
    unbiased = n < 1000 if unbiased is None else unbiased
    if second.shape[0] != n or n < (4 if unbiased else 2):
        raise ValueError(
            f"expected features of the same {4 if unbiased else 2} or more examples, found {n} and "
            f"{second.shape[0]}: score both models on one set, with more examples"
        )
    return _alignment(first, second, unbiased)


@partial(jax.jit, static_argnames="unbiased")
def _alignment(first: jax.Array, second: jax.Array, unbiased: bool) -> jax.Array:
    hsic = _unbiased_hsic if unbiased else _hsic
    norms = [jnp.sqrt(hsic(features, features)) for features in (first, second)]
    return hsic(first, second) / (norms[0] * norms[1])


def knn_predict(
    train_features: ArrayLike, train_labels: ArrayLike, features: ArrayLike, *, k: int = 5
) -> jax.Array:
    """Majority class among the k training examples with the largest cosine similarity.

    Args:
        train_features: float `[n_train, d]`.
        train_labels: int `[n_train]`, at least 0.
        features: float `[n, d]`.
        k: number of neighbors, at most n_train; 5 in the published program.

    Returns:
        int32 `[n]`; of classes with as many votes, the lower number.

    Raises:
        ValueError: shapes disagree, k outside [1, n_train], non-finite features, negative labels.

    Cost:
        O(n n_train d) time; similarities are held for 256 examples at a time.

    Example:
        >>> knn_predict([[1.0, 0.0], [0.0, 2.0]], [7, 3], [[9.0, 1.0], [0.1, 0.2]], k=1).tolist()
        [7, 3]
    """
    train = _check_features("training features", train_features)
    features, labels = _check_features("features", features), wide(as_array(train_labels))
    if labels.shape != train.shape[:1] or train.shape[1] != features.shape[1]:
        raise ValueError(
            f"expected training features [m, d], labels [m] and features [n, d], found "
            f"{train.shape}, {labels.shape} and {features.shape}: take them from one model"
        )
    if not 1 <= k <= train.shape[0]:
        raise ValueError(f"expected k in [1, {train.shape[0]}], found {k}: 5 is usual")
    if not jnp.issubdtype(labels.dtype, jnp.integer) or np.min(labels) < 0:
        raise ValueError(
            f"expected labels that are class numbers from 0, found {labels.dtype} from "
            f"{np.min(labels)}: renumber the classes"
        )
    return _majority(_unit(train), labels, _unit(features), k, int(np.max(labels)) + 1)


@jax.jit
def _unit(features: jax.Array) -> jax.Array:
    norm = jnp.linalg.norm(features, axis=1, keepdims=True)
    return features / jnp.where(norm > 0, norm, 1)


@partial(jax.jit, static_argnames=("k", "classes"))
def _majority(
    train: jax.Array, labels: jax.Array, features: jax.Array, k: int, classes: int
) -> jax.Array:
    def predict(query: jax.Array) -> jax.Array:
        _, nearest = jax.lax.top_k(_product(train, query), k)
        return jnp.argmax(jnp.bincount(labels[nearest], length=classes)).astype(jnp.int32)

    return jax.lax.map(predict, features, batch_size=256)


def knn_transfer(
    train_features: ArrayLike,
    train_labels: ArrayLike,
    test_features: ArrayLike,
    test_labels: ArrayLike,
    *,
    k: int = 5,
) -> jax.Array:
    """Accuracy of a cosine k-nearest-neighbor classifier on a frozen model's features.

    On a downstream data set it measures what the representation still knows, whatever the
    classifier on top says. Direction: closer to the retrained model's accuracy on the same data;
    the spread of that between retrained models is the floor. Errors and cost as `knn_predict`.

    Args:
        train_features: float `[n_train, d]` of the downstream training set.
        train_labels: int `[n_train]`.
        test_features: float `[n_test, d]`.
        test_labels: int `[n_test]`.
        k: number of neighbors.

    Returns:
        f32 scalar in [0, 1].

    Example:
        >>> float(knn_transfer([[1.0, 0.0], [0.0, 1.0]], [0, 1], [[2.0, 1.0]], [0], k=1))
        1.0

    Reference:
        Kim, Cha, Kim, "Are We Truly Forgetting? A Critical Re-examination of Machine Unlearning
        Evaluation Protocols", 2025.
    """
    predictions = knn_predict(train_features, train_labels, test_features, k=k)
    test_labels = jnp.asarray(test_labels)
    if test_labels.shape != predictions.shape:
        raise ValueError(
            f"expected one label per test example, {predictions.shape}, found {test_labels.shape}: "
            "pass the labels of the same set"
        )
    return jnp.mean((predictions == test_labels).astype(jnp.float32))
