"""Arrays on disk: versions of a model, atomic commits, and runs that resume."""

from mu_jax.store.resuming import resumable
from mu_jax.store.run_state import RunState, config_digest, latest_state, save_state
from mu_jax.store.versions import Store, Version

__all__ = [
    "RunState",
    "Store",
    "Version",
    "config_digest",
    "latest_state",
    "resumable",
    "save_state",
]
