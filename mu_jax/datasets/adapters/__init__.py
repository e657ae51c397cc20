"""Data as people have them: loaders, tables, arrays and folders, with ids for their rows."""

from mu_jax.datasets.adapters.arrays import from_arrays, from_idx
from mu_jax.datasets.adapters.columns import by_position
from mu_jax.datasets.adapters.images import from_image_folder
from mu_jax.datasets.adapters.json_lines import from_json_lines
from mu_jax.datasets.adapters.loaders import from_iterable, from_loader, from_records
from mu_jax.datasets.adapters.rows import Rows
from mu_jax.datasets.adapters.tables import from_hugging_face, from_table

__all__ = [
    "Rows",
    "by_position",
    "from_arrays",
    "from_hugging_face",
    "from_idx",
    "from_image_folder",
    "from_iterable",
    "from_json_lines",
    "from_loader",
    "from_records",
    "from_table",
]
