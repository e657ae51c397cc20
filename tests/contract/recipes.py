"""The transforms that the contract runs over, and the arguments it builds them with.

These are all functions of `mu_jax.transforms.__all__` whose first parameter is `model`. A new
transform joins by being listed there; where it needs a parameter that no other transform has,
`ARGUMENTS` gets a line.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
from small_models import Setting, setting

import mu_jax as mu
from mu_jax.model import path_name

# One value for each parameter, whichever transform it belongs to. Plain SGD where an optimizer is
# asked for: Adam divides rounding noise by itself where a gradient is 0.
_SGD = optax.sgd(0.1)
# As many products on every mesh: a tolerance may be met one iteration earlier or later.
_FOUR_ITERATIONS = mu.solvers.conjugate_gradients(iterations=4, tolerance=0)
ARGUMENTS: dict[str, Callable[[Setting], Any]] = {
    "model": lambda setting: setting.model,
    "init": lambda setting: setting.init,
    "initial": lambda setting: setting.init(jax.random.key(8)),
    "weight_decay": lambda setting: 5.0,  # well conditioned: rounding is not amplified
    "optimizer": lambda setting: _SGD,
    "teacher_optimizer": lambda setting: _SGD,
    "alpha": lambda setting: 1.3,
    "dampening": lambda setting: 0.7,
    "damping": lambda setting: 0.3,
    "solver": lambda setting: _FOUR_ITERATIONS,
    "sparsity": lambda setting: 0.4,
    "epochs": lambda setting: 2,
    "beta": lambda setting: 0.3,
    "concepts": lambda setting: {_last_matrix(setting): [1, 2]},
    "noise": lambda setting: 0.2,
    "tolerance": lambda setting: 1.0,
    "strength": lambda setting: 0.4,
    "layer": lambda setting: "logits",
    "head": lambda setting: _last_matrix(setting).removesuffix("/kernel"),
    "scale": lambda setting: 1.5,
    "delta": lambda setting: 0.1,
    "beta1": lambda setting: 2.0,
    "beta2": lambda setting: 0.5,
    "attribution": lambda setting: _half,
    "penalty": lambda setting: 0.6,
    "copies": lambda setting: 1,
    "noise_images": lambda setting: 4,  # with the retained rows, a batch of all examples
    "epsilon": lambda setting: 0.25,
    "kl_weight": lambda setting: 0.3,
    "share": lambda setting: 0.5,
    "factor": lambda setting: 0.3,
    "clip": lambda setting: (-3.0, 3.0),
    "earlier": lambda setting: [setting.init(jax.random.key(8)).adapters],
    "oracles": lambda setting: jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(setting.init(jax.random.key(i)) for i in (8, 9))
    ),
}


def _last_matrix(setting: Setting) -> str:
    """The name of the matrix that makes the outputs."""
    leaves = jax.tree_util.tree_leaves_with_path(setting.model.params(setting.variables))
    names = [path_name(path) for path, leaf in leaves if leaf.ndim > 1]
    return next((name for name in names if "head" in name), names[-1])


def _half(model: mu.Model, variables: Any, forget: Any, examples: mu.Batches) -> jax.Array:
    """An attribution that says the same of every example."""
    return 0.5 * jnp.ones_like(mu.outputs(model, variables, examples))


# Every law runs over every transform on raw arrays. The frameworks, which differ in the model
# and not in the method, run over these; the product is slow. One that reads both sets once, one
# that takes one step, one that fits, one of several phases, and one that starts anew.
_REPRESENTATIVES = ("ssd", "iau", "finetune", "scrub", "retrain")


# One method for each way in which methods are put together from the loops of the library: for laws
# that these loops keep, and no line of a method. The others obey in `make test-slow`.
WAYS = (
    *_REPRESENTATIVES,
    *("salun", "blindspot", "dmm"),
    *("npo", "pdu", "code_eraser"),
)


def among(*patterns: str, methods: tuple[str, ...] = _REPRESENTATIVES) -> tuple[str, ...]:
    """Patterns for `pytest.mark.quick`: the representatives' cases whose ids end so."""
    return tuple(f"{name}-{each}" for name in methods for each in patterns or "*")


# Further ways to call a transform that must obey the contract as well.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "ssd": {"adaptive": {"alpha": "adaptive"}, "loss_free": {"definition": "loss_free"}},
    "gradient_ascent": {"capped": {"cap": 1.5}},
    "neg_grad_plus": {"capped": {"forget_weight": 0.5, "cap": 1.5}},
    "random_labels": {"alternating": {"protocol": "alternating"}},
    "npo": {"kl": {"recipe": mu.PairingRecipe("kl", alpha=2.0, retain_rows=2, epochs=2)}},
    "iau": {"scaled": {"scale_by_fraction": True, "retain_weight": 0.5}},
}


_TOKENS = {"dpo": "preferences"}  # settings of language methods that need other rows


class Case(NamedTuple):
    """A transform, and the arguments that make a variant of it."""

    factory: Callable
    changes: tuple[tuple[str, Any], ...] = ()

    def setting(self, name: str) -> Setting:
        """A setting by name; with adapters, whole classes or tokens for methods of such."""
        if self.factory.__name__ in mu.transforms.ADAPTED:
            return setting(f"adapted {name}")
        if self.factory.__name__ in mu.transforms.OF_CLASSES:
            return setting(f"classes of {name}")
        if self.factory.__name__ not in mu.transforms.LANGUAGE:
            return setting(name)
        if name != "raw":
            pytest.skip("a language model comes as raw functions")
        return setting(_TOKENS.get(self.factory.__name__, "tokens"))

    def build(self, setting: Setting, **changes: Any) -> Callable:
        """The transform on the model of a setting, `changes` in place of the table's arguments.

        It never measures the losses before and after: one law, of `watched`, is about those.
        """
        return mu.watched(self.watched(setting, **changes), False)

    def watched(self, setting: Setting, **changes: Any) -> Callable:
        """The same, measuring the losses before and after where a warning can be seen."""
        return self.factory(**{**arguments(self.factory, setting), **dict(self.changes), **changes})

    def default(self, parameter: str) -> Any:
        """The default of a parameter; None if it is required or not there."""
        found = inspect.signature(self.factory).parameters.get(parameter)
        return None if found is None or found.default is found.empty else found.default

    def takes(self, parameter: str) -> bool:
        """Whether there is a parameter of that name."""
        return parameter in inspect.signature(self.factory).parameters

    @property
    def fits(self) -> bool:
        """Whether it is an optimization, whose result depends on the batch size."""
        return any(self.takes(name) for name in ("epochs", "steps", "recipe"))


def arguments(factory: Callable, setting: Setting) -> dict[str, Any]:
    """The arguments of a factory, one for each parameter that `ARGUMENTS` knows."""
    found = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        if name in ARGUMENTS:
            found[name] = ARGUMENTS[name](setting)
        elif parameter.default is parameter.empty:
            raise ValueError(
                f"expected an argument for every required parameter of {factory.__name__}, "
                f"found none for {name!r}: add it to ARGUMENTS in tests/contract/recipes.py"
            )
    return found


def factories(namespace: Any = mu.transforms) -> dict[str, Callable]:
    """Every function of a namespace's `__all__` whose first parameter is `model`."""
    found = {name: getattr(namespace, name) for name in namespace.__all__}
    return {
        name: function
        for name, function in found.items()
        if inspect.isfunction(function)
        and next(iter(inspect.signature(function).parameters), None) == "model"
    }


def cases() -> dict[str, Case]:
    """Every transform with the table's arguments, and its variants."""
    found = {}
    for name, factory in factories().items():
        found[name] = Case(factory)
        for variant, changes in VARIANTS.get(name, {}).items():
            found[f"{name}-{variant}"] = Case(factory, tuple(changes.items()))
    return found


@functools.cache
def compiled(case: Case, setting_name: str) -> Callable:
    """The transform under `jit`, the same function for all laws that call it so."""
    return jax.jit(case.build(case.setting(setting_name)))


def every(
    keep: Callable[[Case], Any] = lambda case: True,
    *,
    variants: Literal["quick", "slow", "none"] = "quick",
) -> Any:
    """Parametrizes a test over `case`, every transform for which `keep` holds."""
    chosen = {name: case for name, case in cases().items() if keep(case)}
    slow = {"slow": [pytest.mark.slow]}.get(variants, [])
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(case, id=name, marks=slow if case.changes else [])
            for name, case in chosen.items()
            if not case.changes or variants != "none"
        ],
    )
