"""Score unlearned models in one call: the table, the records and the arrays behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax.data.forget_retain import check_sets
from mu_jax.data.ids import digest
from mu_jax.model import Model
from mu_jax.reporting.records import Cost, ForgetSet
from mu_jax.scoring import kinds
from mu_jax.scoring.collecting import ExampleSet, collect, example_set
from mu_jax.scoring.kinds import Kind
from mu_jax.scoring.result import Score
from mu_jax.scoring.rows import CONSTANT, NOTHING, RETRAIN, Asked, Rows, make_score
from mu_jax.scoring.single import Own

PyTree = Any
OwnMetrics = Mapping[str, Callable[..., Any] | tuple]


def score(
    model: Model,
    versions: Mapping[str, Any],
    *,
    forget: Any,
    retain: Any,
    test: Any = None,
    retrained: Any = (),
    original: Any = None,
    kind: Kind | None = None,
    metrics: OwnMetrics | None = None,
    paired: bool = False,
    seed: int = 0,
    forget_set: str | ForgetSet = "given ids",
    hyperparameters: Mapping[str, Mapping[str, Any]] | None = None,
    selection: Mapping[str, str] | None = None,
    costs: Mapping[str, Sequence[Cost]] | None = None,
) -> Score:
    """Scores unlearned models beside retrained ones, the original and a constant predictor.

    Models: each value of `versions`, `retrained` and `original` is the variables of one model; a
    list, a tuple or an iterator of those; or variables with a leading axis of N models, as
    `mu.ensembles` makes them.

    Every model has its accuracy (classes; of labels of yes and no their mean), its squared error
    (numbers) or its loss (all else) on the retain, forget and test examples, and "MIA", the
    accuracy of the loss attack that tells forget from test examples (`evaluation.loss_mia`). These
    are closer to retraining or further from it, neither lower nor higher is better, and the average
    gap, `100 / M sum_m |value_m - retrained_m|` over the fractions, says how far. The gap of the
    row "retrain" is between its own models: the floor, below which no difference counts. Test
    examples of classes of which nothing is retained do not count. A model that has collapsed
    (`evaluation.collapsed`) is marked and not ranked.

    KLoM stands in the table of a classification where every row has at least 20 models and
    `retrained` twice as many: then each row is one record over its first N models, N the least
    number of models of any row and at most half of the retrained ones. The last N of the retrained
    models are the row "retrain", so that its KLoM is the floor at this N; all others are the
    oracles. With fewer models each is a record of its own, and the table shows the mean and the
    standard deviation over them.

    Args:
        model: how to compute, and the loss of tasks that are neither classes nor numbers.
        versions: unlearned models by the name of their row.
        forget, retain, test: `Batches`, a `Stream`, or an iterable of `Batch`. Rows of weight 0, or
            with a label that the loss ignores, do not count. A sample of a large retain set serves
            as well; no test examples: no test accuracy and no membership attack.
        retrained: models trained on the retain set alone, three or more. None: the numbers stand
            alone, and the table says what cannot be said.
        original: the model before, for the row "do nothing".
        kind: "classification", "multilabel", "regression" or "other"; default by the shapes and
            types of outputs and targets.
        metrics: further metrics by name: `function(outputs, targets)` gives a number, or one for
            each example, on each set; or `(function, direction)` or `(function, direction, unit)`
            with the directions of `reporting.Metric` (default "closer to retrain").
        paired: whether model j of every row descends from the same training as retrained model j,
            so that each is compared with that one alone.
        seed: the seed of the first model of a row; seeds of the membership attack follow it.
        forget_set: what was to be forgotten, in words, for the title; or what records say of it.
        hyperparameters, selection, costs: by row, for the records; costs one for each model. They
            are read when the models have been scored.

    Returns:
        `Score`: its `repr` is the table; `records`, `rows`, `arrays` and `write` give the rest.

    Raises:
        ValueError: forget and retain sets that share examples, variables that the model does not
            take, rows named "retrain", "do nothing" or "constant", pairs that do not match.
        TypeError: versions that are no mapping.

    Cost:
        One forward pass over all sets for every model, ten small logistic regressions a model for
        the attack, and the outputs of all models in memory.

    Example:
        >>> import jax, jax.numpy as jnp, mu_jax as mu
        >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
        >>> x = jax.random.normal(jax.random.key(0), (300, 3))
        >>> data = mu.batches(x, jnp.argmax(x, 1), batch_size=64)
        >>> train_set, test_set = data.take(slice(0, 200)), data.take(slice(200, 300))
        >>> forget, retain = mu.split(train_set, range(20))
        >>> unlearned, retrained = mu.Variables(jnp.eye(3)), mu.Variables(2 * jnp.eye(3))
        >>> found = mu.evaluation.score(
        ...     model, {"mine": unlearned}, forget=forget, retain=retain, test=test_set,
        ...     retrained=[retrained])
        >>> [(row.label, row.seeds, row.cells[0].mean) for row in found.rows[::2]]
        [('retrain', 1, 1.0), ('mine', 1, 1.0)]
    """
    _check_names(versions, paired)
    check_sets(forget, retain)
    data = {"forget": forget, "retain": retain} | ({} if test is None else {"test": test})
    sets = {name: example_set(model, part) for name, part in data.items()}
    given = {RETRAIN: retrained, NOTHING: original, **versions}
    found = {
        name: collect(model, models, sets, name)
        for name, models in given.items()
        if models is not None and not _is_empty(models)
    }
    kind = _checked_kind(kind, sets, found)
    if kind == "multilabel":
        sets, found = _columns(sets, found)
    asked = Asked(
        model=model,
        sets=sets,
        kind=kind,
        own={name: _own(name, metric) for name, metric in (metrics or {}).items()},
        paired=paired,
        seed=seed,
        forget_set=_described(forget_set, sets["forget"].ids),
        fields={
            "hyperparameters": hyperparameters or {},
            "selection": selection or {},
            "cost": costs or {},
        },
    )
    return make_score(asked, found)


def _described(forget_set: str | ForgetSet, ids: np.ndarray) -> ForgetSet:
    if isinstance(forget_set, ForgetSet):
        return forget_set
    return ForgetSet(forget_set, ids.size, digest(ids))


def _is_empty(models: Any) -> bool:
    return type(models) in (list, tuple) and not models


def _check_names(versions: Any, paired: bool) -> None:
    if not isinstance(versions, Mapping) or not all(isinstance(name, str) for name in versions):
        raise TypeError(
            f"expected a mapping from names to variables, found {type(versions).__name__}: "
            'call score(model, {"ssd": variables}, forget=..., retain=...)'
        )
    taken = [name for name in versions if name in (RETRAIN, NOTHING, CONSTANT)]
    if taken:
        raise ValueError(
            f"expected other names of versions than {taken[0]!r}, which is the table's own: pass "
            "retrained= and original=, or choose another name"
        )


def _checked_kind(kind: Kind | None, sets: dict[str, ExampleSet], found: Rows) -> Kind:
    if kind is not None and kind not in kinds.KINDS:
        raise ValueError(
            f"expected a kind among {', '.join(kinds.KINDS)}, found {kind!r}: choose one"
        )
    if not found:
        raise ValueError("expected at least one model, found none: give versions to score")
    outputs = next(iter(found.values()))["retain"]
    one = outputs[0] if isinstance(outputs, np.ndarray) else outputs
    return kind or kinds.kind_of(one, sets["retain"].targets)


def _columns(sets: dict[str, ExampleSet], found: Rows) -> tuple[dict[str, ExampleSet], Rows]:
    """One label of yes and no an example, [n], as [n, 1] like several."""
    found = {
        row: {name: x.reshape(*x.shape[:2], -1) for name, x in outputs.items()}
        for row, outputs in found.items()
    }
    sets = {
        name: part._replace(targets=part.targets.reshape(part.ids.size, -1).astype(np.int32))
        for name, part in sets.items()
    }
    return sets, found


def _own(name: str, metric: Any) -> Own:
    parts = (metric,) if callable(metric) else tuple(metric)
    if not 1 <= len(parts) <= 3 or not callable(parts[0]):
        raise ValueError(
            f"expected a function for the metric {name!r}, or (function, direction, unit), found "
            f"{metric!r}: give a function of outputs and targets first"
        )
    return Own(*parts)
