"""The arguments with which a module is called: its inputs, and what switches its mode."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

PyTree = Any

_MODES = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}


def mode_arguments(module: Any) -> tuple[dict[str, bool], dict[str, bool]]:
    """The argument that switches a module between training and inference, read off `__call__`."""
    names = inspect.signature(type(module).__call__).parameters
    fields = getattr(module, "__dataclass_fields__", {})
    fixed = {name for name in fields if getattr(module, name, None) is not None}
    for name, in_training in _MODES.items():
        if name in names and name not in fixed:
            return {name: in_training}, {name: not in_training}
    return {}, {}


def check_not_fixed(module: Any) -> None:
    """Refuse training mode of a module whose own field holds it in inference mode.

    Raises:
      ValueError: `train=False`, `deterministic=True` or the like is a field of the module.
    """
    fields = getattr(module, "__dataclass_fields__", {})
    for name, in_training in _MODES.items():
        if name in fields and getattr(module, name, None) is (not in_training):
            raise ValueError(
                f"expected a module that can be switched to training mode, found "
                f"{type(module).__name__} with {name}={not in_training} fixed: make the module "
                f"with {name}=None and name it in its __call__, or set training_mode=False"
            )


def several_inputs(module: Any, others: Collection[str] = ()) -> tuple[str, ...]:
    """The names of the inputs that a module must be given by position, if these are two or more.

    Args:
      module: the module. others: arguments that are no input, beside those that switch a mode.
    """
    parameters = list(inspect.signature(type(module).__call__).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [x.name for x in parameters if x.kind in kinds and x.default is x.empty]
    names = tuple(name for name in required if name not in {*others, *_MODES})
    return names if len(names) > 1 else ()


def spread(inputs: PyTree, several: tuple[str, ...]) -> tuple:
    """The inputs as positional arguments: the one, or as many as the module must be given.

    Raises:
      TypeError: no tuple of as many.
    """
    if not several:
        return (inputs,)
    if not isinstance(inputs, tuple) or len(inputs) != len(several):
        found = f"{type(inputs).__name__}" + (f" of {len(inputs)}" * isinstance(inputs, tuple))
        raise TypeError(
            f"expected inputs that are a tuple ({', '.join(several)}), as the module is called, "
            f"found {found}: put the arrays into one tuple, mu.batches((..., ...), targets, ...), "
            "or name what is no input by train_arguments and inference_arguments"
        )
    return inputs


def by_position(
    module: Any, arguments: dict[str, Any], several: tuple[str, ...] = ()
) -> tuple[tuple, dict[str, Any]]:
    """Arguments of `__call__` behind the inputs: those with a place, and the others by name."""
    places, left = [], dict(arguments)
    parameters = inspect.signature(type(module).__call__).parameters.values()
    behind = 1 + max(1, len(several))  # the module and its inputs
    for parameter in list(parameters)[behind:]:
        given = parameter.name in left
        fixed = parameter.kind in (parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY)
        if not left or fixed or not (given or parameter.default is not parameter.empty):
            break
        places.append(left.pop(parameter.name) if given else parameter.default)
    return tuple(places), left
