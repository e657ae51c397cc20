"""Low-rank adapters (LoRA) as a tree of their own, over any model.

`attach` makes new adapters for the variables of a model, `adapted` the model of which they alone
are trained, `merge` the variables of the model without adapters. An adapter that can be taken off
hides and does not remove: without it the base knows all again.
"""

from mu_jax.adapters.kept import KeptAdapters, keep_adapters, load_adapters
from mu_jax.adapters.lifting import Adapted, Gated, adapted, attach, merge
from mu_jax.adapters.low_rank import (
    FactoredKernel,
    LowRank,
    factored,
    merged,
    new_adapters,
    num_layers,
    orthogonality,
)

__all__ = [
    "Adapted",
    "FactoredKernel",
    "Gated",
    "KeptAdapters",
    "LowRank",
    "adapted",
    "attach",
    "factored",
    "keep_adapters",
    "load_adapters",
    "merge",
    "merged",
    "new_adapters",
    "num_layers",
    "orthogonality",
]
