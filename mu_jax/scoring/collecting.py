"""Outputs of models on sets of examples: of one model, of several, of an ensemble."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mu_jax import _progress
from mu_jax._tracing import cached
from mu_jax.data.batches import Batch, Batches, in_memory
from mu_jax.data.rows import shapes_of_rows
from mu_jax.data.streams import Stream
from mu_jax.ensembles.training import ensemble_outputs
from mu_jax.loops.predict import all_targets, outputs
from mu_jax.model import Model
from mu_jax.scoring.kinds import to_host

PyTree = Any
_ROWS = 10_007  # of the batch by whose shapes models are told from ensembles: no ensemble's size


class ExampleSet(NamedTuple):
    """Examples that count: the data, their positions in it, their targets [n, ...] and ids [n]."""

    data: Batches | Stream
    rows: np.ndarray
    targets: PyTree
    ids: np.ndarray


def example_set(model: Model, data: Any) -> ExampleSet:
    """The examples of positive weight that the loss counts; an iterable is read whole."""
    data = data if isinstance(data, Batches | Stream) else in_memory(data)
    targets = to_host(all_targets(data))
    some = np.ones(data.num_examples, bool)
    if isinstance(data, Batches):
        some &= np.asarray(data.weight) > 0
    counts = getattr(model.loss, "counts", None)
    if counts is not None:
        some &= np.asarray(counts(jax.tree.map(jnp.asarray, targets))) != 0
    rows = np.flatnonzero(some)
    return ExampleSet(data, rows, _taken(targets, rows), np.asarray(data.index)[rows])


def collect(model: Model, models: Any, sets: dict[str, ExampleSet], row: str) -> dict[str, PyTree]:
    """Outputs [N, n, ...] in inference mode on every set, on the host.

    Args:
      model: how to compute.
      models: the variables of one model; a list, a tuple or an iterator of those; or variables with
        a leading axis of N models. Of an iterator, one model is held at a time.
      sets: the examples. row: what errors call the models.

    Raises:
      ValueError: no model, or arrays that are neither one model's nor stacked ones.

    Cost: one forward pass over the sets for every model; outputs of all models on the host.
    """
    if not (type(models) in (list, tuple) or isinstance(models, Iterator)):
        if _is_stacked(model, models, sets["retain"].data, row):
            return {name: _of_ensemble(model, models, part) for name, part in sets.items()}
        models = [models]
    found = list(_of_each(model, models, sets, row))
    if not found:
        raise ValueError(f"expected at least one model of {row!r}, found none: give its variables")
    return {name: _stacked([one[name] for one in found]) for name in sets}


def _of_each(
    model: Model, models: Iterable[PyTree], sets: dict[str, ExampleSet], row: str
) -> Iterator[dict[str, PyTree]]:
    for one in _progress.each(models, row, "model"):
        if _is_stacked(model, one, sets["retain"].data, row):
            raise ValueError(
                f"expected the variables of one model in each entry of {row!r}, found stacked "
                "ones: give these alone, without a list around them"
            )
        yield {
            name: _taken(to_host(outputs(model, one, part.data)), part.rows)
            for name, part in sets.items()
        }


def _of_ensemble(model: Model, variables: PyTree, part: ExampleSet) -> PyTree:
    if isinstance(part.data, Batches):
        found = to_host(_ensemble_program(model)(variables, part.data))
        return jax.tree.map(lambda x: x[:, part.rows], found)
    size = jax.tree.leaves(variables)[0].shape[0]
    each = (jax.tree.map(lambda x, j=j: x[j], variables) for j in range(size))
    return _stacked([_taken(to_host(outputs(model, v, part.data)), part.rows) for v in each])


@cached(maxsize=16)
def _ensemble_program(model: Model) -> Any:
    return jax.jit(lambda variables, data: ensemble_outputs(model, variables, data))


def _is_stacked(model: Model, variables: PyTree, data: Batches | Stream, row: str) -> bool:
    """Whether variables are those of several models, by the shapes of what they give."""
    leaves, structure = jax.tree.flatten(variables)
    if not leaves or not all(isinstance(leaf, float | int) or _is_array(leaf) for leaf in leaves):
        raise ValueError(
            f"expected the variables of a model for {row!r}, found a {type(variables).__name__} "
            "whose leaves are no arrays: give what training returned"
        )
    first = jax.eval_shape(data.at, 0) if isinstance(data, Batches) else next(iter(data))
    batch = shapes_of_rows(first, _ROWS)
    failures = []
    for stacked in (False, True):
        try:
            if _gives_losses(model, structure, leaves, batch, stacked):
                return stacked
        except TypeError as error:
            if str(error).startswith("expected"):  # of another framework: the adapter says which
                raise
            failures.append(str(error).splitlines()[0])
        except Exception as error:
            failures.append(next(iter(str(error).splitlines()), type(error).__name__))
    why = failures[0] if failures else "no loss for each example"
    raise ValueError(
        f"expected the variables of one model for {row!r}, or those of N models with a leading "
        f"axis of N in every array, found what the model does not take ({why}): give what "
        "training returned, or stack the models on a new first axis"
    )


def _gives_losses(model: Model, structure: Any, leaves: list, batch: Batch, stacked: bool) -> bool:
    shapes = [jax.ShapeDtypeStruct(np.shape(leaf), jnp.result_type(leaf)) for leaf in leaves]
    if stacked and (not all(s.shape for s in shapes) or len({s.shape[0] for s in shapes}) > 1):
        return False
    variables = jax.tree.unflatten(structure, shapes)
    if not stacked:
        return jax.eval_shape(model.losses, variables, batch).shape == (_ROWS,)
    found = jax.eval_shape(jax.vmap(model.losses, in_axes=(0, None)), variables, batch)
    return found.shape == (shapes[0].shape[0], _ROWS)


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _taken(tree: PyTree, rows: np.ndarray) -> PyTree:
    return jax.tree.map(lambda x: np.asarray(x)[rows], tree)


def _stacked(trees: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
