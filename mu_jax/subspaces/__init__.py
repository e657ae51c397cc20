"""Subspaces of the parameters, and transforms that may move in one alone.

A subspace says what is trained in the place of the parameters, and how they are computed from it:
LoRA (a product of thin matrices), SSF (scale and shift), FLoRA (a Tucker core), SaRA (the smallest
weights). At the start every output is what it was, bit for bit.

A patch that can be taken off is no erasure. What the model has stored is still in its base: without
the patch it knows all again, and whoever has both can take it off. Only where the patch is merged
into the weights and no copy of the base is kept does it take part in an erasure, and how much was
erased is then a question to relearning and to retrained models, as for every method.
"""

from mu_jax.subspaces.flora import FLoRA, Tucker
from mu_jax.subspaces.lifted import Held, Lifted, Subspace, attach, lifted, merge
from mu_jax.subspaces.lora import LoRA
from mu_jax.subspaces.low_rank import low_rank
from mu_jax.subspaces.sara import SaRA
from mu_jax.subspaces.ssf import SSF, ScaleShift

__all__ = [
    "SSF",
    "FLoRA",
    "Held",
    "Lifted",
    "LoRA",
    "SaRA",
    "ScaleShift",
    "Subspace",
    "Tucker",
    "attach",
    "lifted",
    "low_rank",
    "merge",
]
