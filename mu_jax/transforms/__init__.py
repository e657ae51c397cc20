"""Unlearning methods, one a file: `factory(model, ...) -> Transform`."""

from mu_jax.transforms._shared.transform import Info, Transform, UnlearningWarning
from mu_jax.transforms.blindspot import BlindspotInfo, blindspot
from mu_jax.transforms.dmm import dmm
from mu_jax.transforms.finetune import finetune
from mu_jax.transforms.gaussian_amnesiac import gaussian_amnesiac
from mu_jax.transforms.gradient_ascent import gradient_ascent
from mu_jax.transforms.iau import IAUInfo, iau
from mu_jax.transforms.magnitude_prune import magnitude_prune
from mu_jax.transforms.neg_grad_plus import neg_grad_plus
from mu_jax.transforms.oracle_matching import oracle_matching
from mu_jax.transforms.retrain import retrain
from mu_jax.transforms.salun import SalUnInfo, salun
from mu_jax.transforms.scrub import SCRUBInfo, scrub
from mu_jax.transforms.ssd import SSDInfo, ssd

__all__ = [
    "BlindspotInfo",
    "IAUInfo",
    "Info",
    "SCRUBInfo",
    "SSDInfo",
    "SalUnInfo",
    "Transform",
    "UnlearningWarning",
    "blindspot",
    "dmm",
    "finetune",
    "gaussian_amnesiac",
    "gradient_ascent",
    "iau",
    "magnitude_prune",
    "neg_grad_plus",
    "oracle_matching",
    "retrain",
    "salun",
    "scrub",
    "ssd",
]
