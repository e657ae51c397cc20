"""Arrays on disk: versions of a model, atomic commits, and runs that resume."""

from mu_jax.store.resuming import resumable
from mu_jax.store.run_state import RunState, config_digest, latest_state, save_state
from mu_jax.store.versions import Store, Version
from mu_jax.store.watching import Served, Watch
from mu_jax.store.weights import load_weights

__all__ = [
    "RunState",
    "Served",
    "Store",
    "Version",
    "Watch",
    "config_digest",
    "latest_state",
    "load_weights",
    "resumable",
    "save_state",
]
