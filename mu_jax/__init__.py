"""Machine unlearning as pure functions on a JAX model's arrays.

>>> import mu_jax as mu
"""

from mu_jax import edits, fitting, folding, losses, objectives, sharding, statistics, transforms
from mu_jax._version import __version__
from mu_jax.combinators import chain, masked, scaled, through
from mu_jax.data import Batch, Batches, batches, concatenate, split
from mu_jax.fitting import FitInfo, FitState, Term, fit
from mu_jax.model import (
    Model,
    Variables,
    from_function,
    from_linen,
    from_nnx,
    restrict,
)
from mu_jax.objectives import gradient_restriction, supervised
from mu_jax.resuming import progress, resumable
from mu_jax.sharding import data_mesh, over_mesh, shard
from mu_jax.statistics.accumulator import Accumulator, Statistic, collect
from mu_jax.streaming import Stream, stream
from mu_jax.transforms import (
    Info,
    Transform,
    UnlearningWarning,
    finetune,
    gradient_ascent,
    iau,
    magnitude_prune,
    retrain,
    ssd,
)
