"""Where to look for the hyper-parameters of each transform: one space each, by its name.

A beginning, not a claim: where nothing was published the ranges are wide. Learning rates are those
of Adam; the names are arguments of the transform, and `learning_rate` goes to its optimizer:

    def factory(learning_rate, epochs):
        return mu.finetune(model, optax.adam(learning_rate), epochs=epochs)

    mu.tune(factory, mu.tuning.spaces.finetune, ...)

A transform that is not named here has the space of a fit, if it takes an optimizer.
"""

from __future__ import annotations

import inspect
from collections.abc import Container

from mu_jax import transforms
from mu_jax.tuning.drawing import Log, Space, Uniform

_RATE = Log(1e-4, 3e-2)
_FIT: Space = {"learning_rate": _RATE, "epochs": (1, 2, 5)}

# No ratio of importances per example exceeds n / n_forget; the published 10 is of another scale.
ssd: Space = {"alpha": Log(1.05, 30.0), "dampening": Log(0.01, 1.0)}
iau: Space = {"learning_rate": Log(1e-4, 1e-1)}
gradient_ascent: Space = {"learning_rate": Log(1e-5, 3e-3), "epochs": (1, 2, 5)}
neg_grad_plus: Space = {**_FIT, "forget_weight": Log(0.005, 0.5)}
scrub: Space = {
    "learning_rate": _RATE,
    "epochs": (3, 5, 10),
    "max_epochs": (1, 2, 3),
    "alpha": Uniform(0.05, 0.95),
}
random_labels: Space = {"learning_rate": _RATE, "epochs": (1, 3, 10)}
salun: Space = {"learning_rate": _RATE, "epochs": (2, 5, 10), "fraction": Uniform(0.1, 0.9)}
bad_teacher: Space = {**_FIT, "retain_share": (0.3, 1.0)}
l1_sparse: Space = {**_FIT, "gamma": Log(1e-5, 1e-2)}
blindspot: Space = {**_FIT, "teacher_epochs": (2, 5)}
boundary_shrink: Space = {
    "learning_rate": Log(1e-5, 1e-2),
    "epochs": (2, 5, 10),
    "epsilon": Log(0.03, 1.0),
}
boundary_expand: Space = {"learning_rate": Log(1e-5, 1e-2), "epochs": (2, 5, 10)}
laf: Space = {"learning_rate": Log(1e-5, 1e-2), "epochs": (5, 20)}
modhifi: Space = {"share": Log(0.01, 0.5)}
influence: Space = {"damping": Log(1e-4, 1.0)}
unsir: Space = {**_FIT, "penalty": Log(0.01, 1.0), "copies": (20, 80)}
# The multiplier is better calibrated than chosen, see `calibrate_multiplier`; then leave it out.
dmm: Space = {"learning_rate": _RATE, "multiplier": Log(0.25, 4.0)}
oracle_matching: Space = {"learning_rate": _RATE}
magnitude_prune: Space = {"sparsity": Uniform(0.1, 0.95)}
synflow_prune: Space = {"sparsity": Uniform(0.1, 0.95)}
retrain: Space = {}  # the reference itself: by the recipe of the first training, nothing to choose
fisher_forgetting: Space = {"alpha": Log(1e-9, 1e-4)}
ntk_scrub: Space = {"weight_decay": Log(1e-3, 1.0)}
task_negation: Space = {**_FIT, "scale": Log(0.1, 100.0)}
o3: Space = {**_FIT, "penalty": Log(0.01, 1.0)}
concept_noise: Space = {"noise": Log(0.01, 1.0)}

# Language models: their rates are smaller. The weights of both terms are fields of a recipe, which
# the factory makes: `mu.npo(model, optimizer, beta=beta, recipe=mu.PairingRecipe(alpha=alpha))`.
_LANGUAGE: Space = {"learning_rate": Log(1e-6, 1e-3)}
grad_diff: Space = _LANGUAGE
npo: Space = {**_LANGUAGE, "beta": Log(0.01, 1.0)}
simnpo: Space = {**_LANGUAGE, "beta": Log(1.0, 8.0), "delta": Uniform(0.0, 1.0)}
dpo: Space = {**_LANGUAGE, "beta": Log(0.01, 1.0)}
wga: Space = {**_LANGUAGE, "beta": Log(0.3, 5.0)}
satimp: Space = {**_LANGUAGE, "beta1": Log(1.0, 10.0), "beta2": Log(0.3, 3.0)}
ce_u: Space = _LANGUAGE
undial: Space = {**_LANGUAGE, "beta": Log(1.0, 30.0)}
pdu: Space = {**_LANGUAGE, "dual_rate": Log(0.1, 3.0)}
rmu: Space = {**_LANGUAGE, "scale": Log(1.0, 100.0)}
code_eraser: Space = {
    **_LANGUAGE,
    "gamma": Log(0.03, 1.0),
    "strength": Log(0.03, 1.0),
    "epochs": (10, 30, 100),
}


def __getattr__(name: str) -> Space:
    if name not in transforms.__all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    known = inspect.signature(getattr(transforms, name)).parameters
    return {key: values for key, values in _FIT.items() if _is_taken(key, known)}


def _is_taken(key: str, known: Container[str]) -> bool:
    return ("optimizer" if key == "learning_rate" else key) in known
