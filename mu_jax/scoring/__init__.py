"""Scores of models: from variables and examples to the table, its records and its arrays.

`mu.evaluation.score` is `score` of this room. It stands above `evaluation`, which works on arrays
alone, `ensembles`, which compute outputs, and `reporting`, whose records it makes.
"""

from mu_jax.scoring.result import Examples, Score
from mu_jax.scoring.score import score
from mu_jax.scoring.single import Own

__all__ = ["Examples", "Own", "Score", "score"]
