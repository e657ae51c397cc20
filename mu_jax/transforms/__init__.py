"""Unlearning methods, one a file, in folders by what they unlearn from.

Each is `factory(model, ...) -> Transform`.
"""

from mu_jax.transforms import language
from mu_jax.transforms._shared.pruned import PruneInfo
from mu_jax.transforms._shared.transform import Info, Transform, UnlearningWarning
from mu_jax.transforms.general.bad_teacher import bad_teacher
from mu_jax.transforms.general.blindspot import BlindspotInfo, blindspot
from mu_jax.transforms.general.boundary_expand import boundary_expand
from mu_jax.transforms.general.boundary_shrink import BoundaryShrinkInfo, boundary_shrink
from mu_jax.transforms.general.concept_noise import concept_noise
from mu_jax.transforms.general.dmm import dmm
from mu_jax.transforms.general.finetune import finetune
from mu_jax.transforms.general.fisher_forgetting import FisherForgettingInfo, fisher_forgetting
from mu_jax.transforms.general.gaussian_amnesiac import gaussian_amnesiac
from mu_jax.transforms.general.gradient_ascent import gradient_ascent
from mu_jax.transforms.general.iau import IAUInfo, iau
from mu_jax.transforms.general.influence import InfluenceInfo, influence
from mu_jax.transforms.general.l1_sparse import l1_sparse
from mu_jax.transforms.general.laf import LAFInfo, laf
from mu_jax.transforms.general.magnitude_prune import magnitude_prune
from mu_jax.transforms.general.modhifi import ModHiFiInfo, modhifi
from mu_jax.transforms.general.neg_grad_plus import neg_grad_plus
from mu_jax.transforms.general.ntk_scrub import NTKScrubInfo, ntk_scrub
from mu_jax.transforms.general.o3 import o3
from mu_jax.transforms.general.oracle_matching import oracle_matching
from mu_jax.transforms.general.random_labels import RandomLabelsInfo, random_labels
from mu_jax.transforms.general.retrain import retrain
from mu_jax.transforms.general.salun import SalUnInfo, salun
from mu_jax.transforms.general.scrub import SCRUBInfo, scrub
from mu_jax.transforms.general.ssd import SSDInfo, ssd
from mu_jax.transforms.general.synflow_prune import synflow_prune
from mu_jax.transforms.general.task_negation import task_negation
from mu_jax.transforms.general.unsir import UNSIRInfo, unsir
from mu_jax.transforms.language.ce_u import ce_u
from mu_jax.transforms.language.code_eraser import CodeEraserInfo, code_eraser
from mu_jax.transforms.language.dpo import dpo
from mu_jax.transforms.language.grad_diff import grad_diff
from mu_jax.transforms.language.npo import npo
from mu_jax.transforms.language.pdu import PDUInfo, pdu
from mu_jax.transforms.language.rmu import rmu
from mu_jax.transforms.language.satimp import satimp
from mu_jax.transforms.language.simnpo import simnpo
from mu_jax.transforms.language.undial import undial
from mu_jax.transforms.language.wga import wga

__all__ = [
    "BlindspotInfo",
    "BoundaryShrinkInfo",
    "CodeEraserInfo",
    "FisherForgettingInfo",
    "IAUInfo",
    "InfluenceInfo",
    "Info",
    "LAFInfo",
    "ModHiFiInfo",
    "NTKScrubInfo",
    "PDUInfo",
    "PruneInfo",
    "RandomLabelsInfo",
    "SCRUBInfo",
    "SSDInfo",
    "SalUnInfo",
    "Transform",
    "UNSIRInfo",
    "UnlearningWarning",
    "bad_teacher",
    "blindspot",
    "boundary_expand",
    "boundary_shrink",
    "ce_u",
    "code_eraser",
    "concept_noise",
    "dmm",
    "dpo",
    "finetune",
    "fisher_forgetting",
    "gaussian_amnesiac",
    "grad_diff",
    "gradient_ascent",
    "iau",
    "influence",
    "l1_sparse",
    "laf",
    "magnitude_prune",
    "modhifi",
    "neg_grad_plus",
    "npo",
    "ntk_scrub",
    "o3",
    "oracle_matching",
    "pdu",
    "random_labels",
    "retrain",
    "rmu",
    "salun",
    "satimp",
    "scrub",
    "simnpo",
    "ssd",
    "synflow_prune",
    "task_negation",
    "undial",
    "unsir",
    "wga",
]

# Methods whose sets are rows of tokens: those whose file is in the folder `language`.
LANGUAGE = frozenset(name for name in __all__ if hasattr(language, name))

# Methods of models with low-rank adapters, `mu.adapters.adapted(model)`.
ADAPTED = frozenset({"o3"})

# Methods that forget whole classes, of which no example is retained.
OF_CLASSES = frozenset({"unsir"})
