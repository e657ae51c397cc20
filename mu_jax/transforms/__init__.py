"""Unlearning methods, one a file: `factory(model, ...) -> Transform`."""

from mu_jax.transforms._shared.transform import Info, Transform, UnlearningWarning
from mu_jax.transforms.blindspot import BlindspotInfo, blindspot
from mu_jax.transforms.boundary_expand import boundary_expand
from mu_jax.transforms.boundary_shrink import BoundaryShrinkInfo, boundary_shrink
from mu_jax.transforms.ce_u import ce_u
from mu_jax.transforms.code_eraser import CodeEraserInfo, code_eraser
from mu_jax.transforms.concept_noise import concept_noise
from mu_jax.transforms.dmm import dmm
from mu_jax.transforms.dpo import dpo
from mu_jax.transforms.finetune import finetune
from mu_jax.transforms.gaussian_amnesiac import gaussian_amnesiac
from mu_jax.transforms.grad_diff import grad_diff
from mu_jax.transforms.gradient_ascent import gradient_ascent
from mu_jax.transforms.iau import IAUInfo, iau
from mu_jax.transforms.laf import LAFInfo, laf
from mu_jax.transforms.magnitude_prune import magnitude_prune
from mu_jax.transforms.modhifi import ModHiFiInfo, modhifi
from mu_jax.transforms.neg_grad_plus import neg_grad_plus
from mu_jax.transforms.npo import npo
from mu_jax.transforms.o3 import o3
from mu_jax.transforms.oracle_matching import oracle_matching
from mu_jax.transforms.pdu import PDUInfo, pdu
from mu_jax.transforms.retrain import retrain
from mu_jax.transforms.rmu import rmu
from mu_jax.transforms.salun import SalUnInfo, salun
from mu_jax.transforms.satimp import satimp
from mu_jax.transforms.scrub import SCRUBInfo, scrub
from mu_jax.transforms.simnpo import simnpo
from mu_jax.transforms.ssd import SSDInfo, ssd
from mu_jax.transforms.task_vector import task_vector
from mu_jax.transforms.undial import undial
from mu_jax.transforms.wga import wga

__all__ = [
    "BlindspotInfo",
    "BoundaryShrinkInfo",
    "CodeEraserInfo",
    "IAUInfo",
    "Info",
    "LAFInfo",
    "ModHiFiInfo",
    "PDUInfo",
    "SCRUBInfo",
    "SSDInfo",
    "SalUnInfo",
    "Transform",
    "UnlearningWarning",
    "blindspot",
    "boundary_expand",
    "boundary_shrink",
    "ce_u",
    "code_eraser",
    "concept_noise",
    "dmm",
    "dpo",
    "finetune",
    "gaussian_amnesiac",
    "grad_diff",
    "gradient_ascent",
    "iau",
    "laf",
    "magnitude_prune",
    "modhifi",
    "neg_grad_plus",
    "npo",
    "o3",
    "oracle_matching",
    "pdu",
    "retrain",
    "rmu",
    "salun",
    "satimp",
    "scrub",
    "simnpo",
    "ssd",
    "task_vector",
    "undial",
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
