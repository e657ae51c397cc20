"""Device meshes: where batches and parameters lie, and work on the rows of one device."""

from mu_jax.mesh.params import init_params, param_shardings, shard_params
from mu_jax.mesh.shards import data_mesh, place, shard

__all__ = [
    "data_mesh",
    "init_params",
    "param_shardings",
    "place",
    "shard",
    "shard_params",
]
