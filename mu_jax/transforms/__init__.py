"""Unlearning methods, one a file: `factory(model, ...) -> Transform`."""

from mu_jax.transforms._shared.pruned import PruneInfo
from mu_jax.transforms._shared.transform import Info, Transform, UnlearningWarning
from mu_jax.transforms.bad_teacher import bad_teacher
from mu_jax.transforms.blindspot import BlindspotInfo, blindspot
from mu_jax.transforms.boundary_expand import boundary_expand
from mu_jax.transforms.boundary_shrink import BoundaryShrinkInfo, boundary_shrink
from mu_jax.transforms.ce_u import ce_u
from mu_jax.transforms.code_eraser import CodeEraserInfo, code_eraser
from mu_jax.transforms.concept_noise import concept_noise
from mu_jax.transforms.dmm import dmm
from mu_jax.transforms.dpo import dpo
from mu_jax.transforms.finetune import finetune
from mu_jax.transforms.fisher_forgetting import FisherForgettingInfo, fisher_forgetting
from mu_jax.transforms.gaussian_amnesiac import gaussian_amnesiac
from mu_jax.transforms.grad_diff import grad_diff
from mu_jax.transforms.gradient_ascent import gradient_ascent
from mu_jax.transforms.iau import IAUInfo, iau
from mu_jax.transforms.influence import InfluenceInfo, influence
from mu_jax.transforms.l1_sparse import l1_sparse
from mu_jax.transforms.laf import LAFInfo, laf
from mu_jax.transforms.magnitude_prune import magnitude_prune
from mu_jax.transforms.modhifi import ModHiFiInfo, modhifi
from mu_jax.transforms.neg_grad_plus import neg_grad_plus
from mu_jax.transforms.npo import npo
from mu_jax.transforms.ntk_scrub import NTKScrubInfo, ntk_scrub
from mu_jax.transforms.o3 import o3
from mu_jax.transforms.oracle_matching import oracle_matching
from mu_jax.transforms.pdu import PDUInfo, pdu
from mu_jax.transforms.random_labels import RandomLabelsInfo, random_labels
from mu_jax.transforms.retrain import retrain
from mu_jax.transforms.rmu import rmu
from mu_jax.transforms.salun import SalUnInfo, salun
from mu_jax.transforms.satimp import satimp
from mu_jax.transforms.scrub import SCRUBInfo, scrub
from mu_jax.transforms.simnpo import simnpo
from mu_jax.transforms.ssd import SSDInfo, ssd
from mu_jax.transforms.synflow_prune import synflow_prune
from mu_jax.transforms.task_negation import task_negation
from mu_jax.transforms.undial import undial
from mu_jax.transforms.unsir import UNSIRInfo, unsir
from mu_jax.transforms.wga import wga

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

# Methods whose sets are rows of tokens.
LANGUAGE = frozenset(
    {
        "ce_u",
        "code_eraser",
        "dpo",
        "grad_diff",
        "npo",
        "pdu",
        "rmu",
        "satimp",
        "simnpo",
        "undial",
        "wga",
    }
)

# Methods of models with low-rank adapters, `mu.adapters.adapted(model)`.
ADAPTED = frozenset({"o3"})

# Methods that forget whole classes, of which no example is retained.
OF_CLASSES = frozenset({"unsir"})
