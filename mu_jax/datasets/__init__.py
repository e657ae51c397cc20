"""Datasets whose examples carry stable ids, and the forget requests that name those ids."""

from mu_jax.data.ids import digest
from mu_jax.datasets.adapters import (
    Rows,
    by_position,
    from_arrays,
    from_hugging_face,
    from_idx,
    from_image_folder,
    from_iterable,
    from_json_lines,
    from_loader,
    from_records,
    from_table,
)
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
from mu_jax.datasets.preparing import prepare
from mu_jax.datasets.requests import read_request, write_request

__all__ = [
    "DatasetInfo",
    "Examples",
    "Manipulated",
    "Rows",
    "Source",
    "add_trigger",
    "by_position",
    "confuse_classes",
    "digest",
    "from_arrays",
    "from_hugging_face",
    "from_idx",
    "from_image_folder",
    "from_iterable",
    "from_json_lines",
    "from_loader",
    "from_records",
    "from_table",
    "info",
    "known_part",
    "load",
    "overlapping_windows",
    "poison",
    "prepare",
    "read_request",
    "source",
    "write_request",
]
