"""Machine unlearning as pure functions on a JAX model's arrays.

>>> import mu_jax as mu
"""

from mu_jax import (
    attribution,
    edits,
    ensembles,
    evaluation,
    fitting,
    folding,
    losses,
    objectives,
    probes,
    sharding,
    statistics,
    transforms,
)
from mu_jax._version import __version__
from mu_jax.combinators import chain, masked, scaled, through
from mu_jax.data import Batch, Batches, batches, concatenate, split
from mu_jax.fitting import FitInfo, FitState, Term, fit
from mu_jax.mapping import outputs
from mu_jax.model import (
    Model,
    Variables,
    from_function,
    from_linen,
    from_nnx,
    restrict,
)
from mu_jax.normalisation import refresh_statistics
from mu_jax.objectives import gradient_restriction, supervised
from mu_jax.partitioning import init_params, param_shardings, shard_params
from mu_jax.phases import Phase, PhasesInfo, PhasesState, fit_phases
from mu_jax.resuming import progress, resumable
from mu_jax.sharding import data_mesh, shard
from mu_jax.statistics.accumulator import Accumulator, Statistic
from mu_jax.statistics.collecting import collect
from mu_jax.statistics.over_mesh import over_mesh
from mu_jax.streaming import Stream, stream
from mu_jax.transforms import (
    Info,
    Transform,
    UnlearningWarning,
    blindspot,
    dmm,
    finetune,
    gaussian_amnesiac,
    gradient_ascent,
    iau,
    magnitude_prune,
    neg_grad_plus,
    oracle_matching,
    retrain,
    salun,
    scrub,
    ssd,
)
from mu_jax.transforms.blindspot import Recipe as BlindspotRecipe
from mu_jax.transforms.matching import Recipe as MatchingRecipe

__all__ = [
    "Accumulator",
    "Batch",
    "Batches",
    "BlindspotRecipe",
    "FitInfo",
    "FitState",
    "Info",
    "MatchingRecipe",
    "Model",
    "Phase",
    "PhasesInfo",
    "PhasesState",
    "Statistic",
    "Stream",
    "Term",
    "Transform",
    "UnlearningWarning",
    "Variables",
    "__version__",
    "attribution",
    "batches",
    "blindspot",
    "chain",
    "collect",
    "concatenate",
    "data_mesh",
    "dmm",
    "edits",
    "ensembles",
    "evaluation",
    "finetune",
    "fit",
    "fit_phases",
    "fitting",
    "folding",
    "from_function",
    "from_linen",
    "from_nnx",
    "gaussian_amnesiac",
    "gradient_ascent",
    "gradient_restriction",
    "iau",
    "init_params",
    "losses",
    "magnitude_prune",
    "masked",
    "neg_grad_plus",
    "objectives",
    "oracle_matching",
    "outputs",
    "over_mesh",
    "param_shardings",
    "probes",
    "progress",
    "refresh_statistics",
    "restrict",
    "resumable",
    "retrain",
    "salun",
    "scaled",
    "scrub",
    "shard",
    "shard_params",
    "sharding",
    "split",
    "ssd",
    "statistics",
    "stream",
    "supervised",
    "through",
    "transforms",
]
