"""Scores of models: from variables and examples to the table, its records and its arrays.

`mu.evaluation.score` is `score` of this room. It stands above `evaluation`, which works on arrays
alone, `ensembles`, which compute outputs, and `reporting`, whose records it makes. The other
functions give what else a run keeps for its figures: what models say of examples, how similar their
layers are, where they were edited.
"""

from mu_jax.scoring.edited import importance_ratios, leaf_edits
from mu_jax.scoring.examples import examples_of
from mu_jax.scoring.layers import features_of, similarity
from mu_jax.scoring.result import Examples, Score
from mu_jax.scoring.score import score
from mu_jax.scoring.single import Own

__all__ = [
    "Examples",
    "Own",
    "Score",
    "examples_of",
    "features_of",
    "importance_ratios",
    "leaf_edits",
    "score",
    "similarity",
]
