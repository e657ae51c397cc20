"""Tune hyper-parameters in one call: choose on half of the oracles, report on the other half."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mu_jax.freezing import settled
from mu_jax.reporting.records import Record
from mu_jax.scoring import Score, score
from mu_jax.tuning import criteria
from mu_jax.tuning.drawing import Setting, Space, draw
from mu_jax.tuning.result import Trial, Tuned
from mu_jax.tuning.trying import Factory, unlearn_each

PyTree = Any
_WITHOUT = (
    "Without retrained models this is a guess: chosen is what keeps retain and test accuracy, "
    "treats the forget set like the test set, and hides membership; a forget set of another "
    "distribution, such as a class, needs retrained models."
)


def tune(
    factory: Factory,
    space: Space,
    variables: PyTree,
    *,
    forget: Any,
    retain: Any,
    test: Any = None,
    retrained: Sequence[PyTree] = (),
    key: jax.Array,
    trials: int = 16,
    default: Mapping[str, Any] | None = None,
    criterion: criteria.Criterion = criteria.average_gap,
    at_once: int = 16,
    seed: int = 0,
    **options: Any,
) -> Tuned:
    """Chooses the hyper-parameters of a method, and says what choosing was worth.

    Every setting unlearns the same model. The setting that comes closest to the first half of the
    retrained models is chosen; its distance to the second half, which did not choose, is reported
    beside it. The best of many numbers is better than it is, and the difference of the two says by
    how much. Both halves share the forget set and the model: on another request the same setting
    does worse (`experiments.sweep` chooses on some requests and reports on others).

    Args:
      factory: `factory(**settings)` gives a transform. Floats may be traced.
      space: `mu.tuning.Uniform(low, high)`, `mu.tuning.Log(low, high)` or a sequence of values, by
        the name of the hyper-parameter; `mu.tuning.spaces` has one for every transform. Sequences
        alone are a grid; else settings are drawn (a Latin hypercube).
      variables: the trained model.
      forget, retain, test: as for `mu.evaluation.score`.
      retrained: variables of models trained on the retain set alone: a sequence of four or more.
        None of them: chosen is by a rule that needs no oracles
        (`mu_jax.tuning.criteria.without_oracles`), which the result says.
      key: for the transform, the same for every setting.
      trials: the most settings to try.
      default: a setting to compare with; it is tried too.
      criterion: `(values, reference) -> float`, lower is better, of metrics by name: numbers, each
        with its `unit` ("fraction" of those in [0, 1]); default the average gap in points
        (`mu.evaluation.average_gap`).
      at_once: how many settings are unlearned at the same time, each with a model in memory.
      seed: of the draw and of the membership attack.
      **options: `kind`, `metrics` and others of `mu.evaluation.score`.

    Returns:
      `Tuned`: `settings`, `transform`, `variables`, `score` against the half that did not choose,
      and all `trials`; printed, a table and sentences.

    Raises:
      ValueError: an empty space, fewer than four retrained models but some, every setting
        collapsed, and what the transform or `score` raise.

    Cost:
      The transform for every setting; settings that differ in floats only are one program, and
      share what does not depend on them (SSD: one pass over the data for the whole grid). Then the
      cost of `score` for every setting and every retrained model.

    Example:
      >>> import jax, jax.numpy as jnp, mu_jax as mu
      >>> model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
      >>> x = jax.random.normal(jax.random.key(0), (200, 3))
      >>> data = mu.batches(x, jnp.argmax(x, 1), batch_size=50)
      >>> train_set, test_set = data.take(slice(0, 120)), data.take(slice(120, 200))
      >>> forget, retain = mu.split(train_set, range(20))
      >>> retrained = [mu.Variables(scale * jnp.eye(3)) for scale in (1.0, 1.1, 1.2, 1.3)]
      >>> found = mu.tune(
      ...     lambda alpha: mu.ssd(model, alpha), {"alpha": [1.2, 2.0, 50.0]},
      ...     mu.Variables(2 * jnp.eye(3)), forget=forget, retain=retain, test=test_set,
      ...     retrained=retrained, key=jax.random.key(0))
      >>> len(found.trials), sorted(found.settings)
      (3, ['alpha'])
    """
    retrained = _two_halves(retrained)
    settings = draw(space, trials, seed)
    if default is not None and dict(default) not in settings:
        settings = [dict(default), *settings]
    found = unlearn_each(factory, settings, key, variables, forget, retain, at_once=at_once)

    def scored(versions: Mapping[str, PyTree], oracles: Sequence[PyTree]) -> Score:
        return score(
            settled(factory(**settings[0]).model, variables),
            versions,
            forget=forget,
            retain=retain,
            test=test,
            retrained=oracles,
            original=variables,
            seed=seed,
            **options,
        )

    labels = [f"setting {number}" for number in range(len(settings))]
    records = scored(dict(zip(labels, found)), retrained).records
    judged, floor = _judged(settings, labels, records, criterion)
    order = sorted(range(len(judged)), key=lambda number: judged[number].chosen_by)
    best = order[0]
    if math.isinf(judged[best].chosen_by):
        raise ValueError(
            f"expected a setting that leaves a working model, found that all {len(judged)} have "
            f"collapsed ({judged[best].reason or 'a metric is missing'}); change the space"
        )
    return Tuned(
        settings=settings[best],
        transform=factory(**settings[best]),
        variables=found[best],
        score=scored({"chosen": found[best]}, retrained[len(retrained) // 2 :]),
        trials=tuple(judged[number] for number in order),
        default=judged[settings.index(dict(default))] if default is not None else None,
        floor=floor,
        notes=() if retrained else (_WITHOUT,),
    )


def _two_halves(retrained: Sequence[PyTree]) -> list[PyTree]:
    """The oracles; ValueError for some that are too few for two halves."""
    found = list(retrained)
    if 0 < len(found) < 4:
        raise ValueError(
            f"expected four retrained models or more, half of them to choose and half to report, "
            f"found {len(found)}; train more, or give none"
        )
    return found


def _judged(
    settings: Sequence[Setting],
    labels: Sequence[str],
    records: Sequence[Record],
    criterion: criteria.Criterion,
) -> tuple[list[Trial], float | None]:
    """Every setting with its distance to each half of the oracles, and the floor."""
    by_row: dict[str, list[Record]] = {}
    for record in records:
        by_row.setdefault(record.method, []).append(record)
    oracles = by_row.get("retrain", [])
    if not oracles:
        (before,) = by_row["do nothing"]
        halves = [criteria.without_oracles(before)]
    else:
        middle = len(oracles) // 2
        halves = [criteria.mean_of(oracles[:middle]), criteria.mean_of(oracles[middle:])]
    judged = []
    for setting, label in zip(settings, labels):
        (record,) = by_row[label]
        distances = [criteria.distance(record, half, criterion) for half in halves]
        reported = distances[1] if oracles else None
        judged.append(Trial(setting, distances[0], reported, record.reason))
    if not oracles:
        return judged, None
    others = [criteria.distance(one, halves[0], criterion) for one in oracles[middle:]]
    return judged, sum(others) / len(others)
