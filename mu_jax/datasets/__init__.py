"""Datasets whose examples carry stable ids, and the forget requests that name those ids."""

from mu_jax.data.ids import digest
from mu_jax.datasets.electricity import overlapping_windows
from mu_jax.datasets.examples import DatasetInfo, Examples, Source
from mu_jax.datasets.loading import info, load, source
from mu_jax.datasets.manipulations import (
    Manipulated,
    add_trigger,
    confuse_classes,
    known_part,
    poison,
)
from mu_jax.datasets.requests import read_request, write_request

__all__ = [
    "DatasetInfo",
    "Examples",
    "Manipulated",
    "Source",
    "add_trigger",
    "confuse_classes",
    "digest",
    "info",
    "known_part",
    "load",
    "overlapping_windows",
    "poison",
    "read_request",
    "source",
    "write_request",
]
