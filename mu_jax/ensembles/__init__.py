"""Ensembles: N models trained, unlearned and scored as one program, and kept on disk."""

from mu_jax.ensembles.margins import Margins, load_margins, save_margins
from mu_jax.ensembles.storing import seconds_per_model, stored
from mu_jax.ensembles.training import choose_layout, ensemble_outputs, map_models, train, unlearn

__all__ = [
    "Margins",
    "choose_layout",
    "ensemble_outputs",
    "load_margins",
    "map_models",
    "save_margins",
    "seconds_per_model",
    "stored",
    "train",
    "unlearn",
]
