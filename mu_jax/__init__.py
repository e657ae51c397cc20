"""Machine unlearning as pure functions on a JAX model's arrays.

>>> import mu_jax as mu

Subpackages load when they are first touched: `mu.evaluation`, `mu.store`, `mu.datasets` and so on.
"""

import importlib
from typing import Any

from mu_jax._nnx import from_nnx
from mu_jax._version import __version__
from mu_jax.combinators import (
    chain,
    keep_zeros,
    masked,
    refreshed,
    salient,
    scaled,
    through,
    watched,
)
from mu_jax.data import (
    Batch,
    Batches,
    IdTable,
    Stream,
    batches,
    concatenate,
    id_table,
    load_id_table,
    split,
    stream,
)
from mu_jax.freezing import restrict
from mu_jax.loops import (
    FitInfo,
    FitState,
    Phase,
    PhasesInfo,
    PhasesState,
    Term,
    fit,
    fit_phases,
    gradient_restriction,
    outputs,
    progress,
    refresh_statistics,
)
from mu_jax.mesh import data_mesh, init_params, param_shardings, shard, shard_params
from mu_jax.model import (
    Model,
    Variables,
    from_function,
    from_linen,
)
from mu_jax.objectives import supervised
from mu_jax.statistics.accumulator import Accumulator, Statistic
from mu_jax.statistics.collecting import collect
from mu_jax.statistics.over_mesh import over_mesh
from mu_jax.store.resuming import resumable
from mu_jax.subspaces import low_rank
from mu_jax.transforms import (
    Info,
    Transform,
    UnlearningWarning,
    bad_teacher,
    blindspot,
    boundary_expand,
    boundary_shrink,
    ce_u,
    code_eraser,
    concept_noise,
    dmm,
    dpo,
    finetune,
    fisher_forgetting,
    gaussian_amnesiac,
    grad_diff,
    gradient_ascent,
    iau,
    influence,
    l1_sparse,
    laf,
    magnitude_prune,
    modhifi,
    neg_grad_plus,
    npo,
    ntk_scrub,
    o3,
    oracle_matching,
    pdu,
    random_labels,
    retrain,
    rmu,
    salun,
    satimp,
    scrub,
    simnpo,
    ssd,
    synflow_prune,
    task_negation,
    undial,
    unsir,
    wga,
)
from mu_jax.transforms._shared.effect import Effect, effect
from mu_jax.transforms._shared.matching import Recipe as MatchingRecipe
from mu_jax.transforms._shared.pairing import Recipe as PairingRecipe
from mu_jax.transforms._shared.stopping import Stop as CodeEraserStop
from mu_jax.transforms.general.blindspot import Recipe as BlindspotRecipe

__all__ = [
    "Accumulator",
    "Batch",
    "Batches",
    "BlindspotRecipe",
    "CodeEraserStop",
    "Effect",
    "FitInfo",
    "FitState",
    "IdTable",
    "Info",
    "MatchingRecipe",
    "Model",
    "PairingRecipe",
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
    "bad_teacher",
    "batches",
    "blindspot",
    "boundary_expand",
    "boundary_shrink",
    "ce_u",
    "chain",
    "code_eraser",
    "collect",
    "concatenate",
    "concept_noise",
    "data_mesh",
    "dmm",
    "dpo",
    "effect",
    "finetune",
    "fisher_forgetting",
    "fit",
    "fit_phases",
    "from_function",
    "from_linen",
    "from_nnx",
    "gaussian_amnesiac",
    "grad_diff",
    "gradient_ascent",
    "gradient_restriction",
    "iau",
    "id_table",
    "influence",
    "init_params",
    "keep_zeros",
    "l1_sparse",
    "laf",
    "load_id_table",
    "low_rank",
    "magnitude_prune",
    "masked",
    "modhifi",
    "neg_grad_plus",
    "npo",
    "ntk_scrub",
    "o3",
    "oracle_matching",
    "outputs",
    "over_mesh",
    "param_shardings",
    "pdu",
    "progress",
    "random_labels",
    "refresh_statistics",
    "refreshed",
    "restrict",
    "resumable",
    "retrain",
    "rmu",
    "salient",
    "salun",
    "satimp",
    "scaled",
    "scrub",
    "shard",
    "shard_params",
    "simnpo",
    "split",
    "ssd",
    "stream",
    "supervised",
    "synflow_prune",
    "task_negation",
    "through",
    "tune",
    "undial",
    "unsir",
    "watched",
    "wga",
]

_SUBPACKAGES = frozenset(
    {
        "adapters",
        "attribution",
        "data",
        "datasets",
        "edits",
        "ensembles",
        "evaluation",
        "exact",
        "loops",
        "losses",
        "merging",
        "mesh",
        "models",
        "objectives",
        "page",
        "plots",
        "probes",
        "pruning",
        "reporting",
        "scoring",
        "service",
        "solvers",
        "statistics",
        "store",
        "subspaces",
        "suppression",
        "token_losses",
        "transforms",
        "tuning",
    }
)
_LATE = {"tune": "tuning"}  # functions of the upper floors, which load when they are touched
# Names that code outside this repository may still use.
_FORMER = {"checkpoints": "store", "task_vector": "task_negation"}


def __getattr__(name: str) -> Any:
    if name in _FORMER:
        return getattr(importlib.import_module(__name__), _FORMER[name])
    if name in _SUBPACKAGES:
        return importlib.import_module(f"mu_jax.{name}")
    if name in _LATE:
        return getattr(importlib.import_module(f"mu_jax.{_LATE[name]}"), name)
    raise AttributeError(f"module 'mu_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_SUBPACKAGES})
