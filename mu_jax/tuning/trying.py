"""Unlearning with many settings: those that differ in numbers only are one program."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from mu_jax import _progress
from mu_jax.data.batches import Batches
from mu_jax.transforms import Transform
from mu_jax.tuning.drawing import Setting

PyTree = Any
Factory = Callable[..., Transform]


def unlearn_each(
    factory: Factory,
    settings: Sequence[Setting],
    key: jax.Array,
    variables: PyTree,
    forget: Any,
    retain: Any,
    *,
    at_once: int,
) -> list[PyTree]:
    """The unlearned variables of every setting, on the host, in order.

    Floats are arguments of the program and everything else is compiled in, so that settings which
    differ in floats only are one program, mapped over `at_once` of them. A statistic that does not
    depend on the settings is computed once for all (SSD's importances).

    A transform that cannot take a traced number, and data that are streamed, run one by one.
    """
    found: dict[int, PyTree] = {}
    arguments = (key, variables, forget, retain)
    with _progress.work("tune", len(settings), "setting") as tuning:
        for numbers in _groups(settings):
            chosen = [settings[i] for i in numbers]
            for number, result in zip(numbers, _unlearned(factory, chosen, arguments, at_once)):
                found[number] = result
                tuning.step()
    return [found[i] for i in range(len(settings))]


def _groups(settings: Sequence[Setting]) -> list[list[int]]:
    """Positions of settings that are equal but for their floats."""
    groups: dict[Any, list[int]] = {}
    for number, setting in enumerate(settings):
        fixed = {name: repr(value) for name, value in setting.items() if not _is_traced(value)}
        groups.setdefault((tuple(setting), tuple(fixed.items())), []).append(number)
    return list(groups.values())


def _is_traced(value: Any) -> bool:
    return isinstance(value, float)


def _unlearned(
    factory: Factory, settings: Sequence[Setting], arguments: tuple, at_once: int
) -> Iterator[PyTree]:
    """The results of settings that are equal but for their floats, in order."""
    together: Iterator[PyTree] = iter(())
    if all(isinstance(each, Batches) for each in arguments[2:]):
        together = _together(factory, settings, arguments, at_once)
    try:
        first = list(itertools.islice(together, 1))
    except jax.errors.JAXTypeError:  # the factory or the transform looks at the number
        first = []
    yield from itertools.chain(first, together)
    if not first:
        for setting in settings:
            yield jax.tree.map(np.asarray, factory(**setting)(*arguments)[0])


def _together(
    factory: Factory, settings: Sequence[Setting], arguments: tuple, at_once: int
) -> Iterator[PyTree]:
    names = [name for name, value in settings[0].items() if _is_traced(value)]
    fixed = {name: value for name, value in settings[0].items() if name not in names}

    def one(numbers, *arguments):
        return factory(**fixed, **numbers)(*arguments)[0]

    size = min(at_once, len(settings))
    in_axes = (0, *(None for _ in arguments))
    program = jax.jit(jax.vmap(one, in_axes=in_axes, axis_size=size))
    for start in range(0, len(settings), size):
        block = list(settings[start : start + size])
        filled = block + block[-1:] * (size - len(block))  # one shape, one program
        grid = {name: np.array([each[name] for each in filled], np.float32) for name in names}
        stacked = jax.tree.map(np.asarray, program(grid, *arguments))
        for row in range(len(block)):
            yield jax.tree.map(lambda x, row=row: x[row], stacked)
