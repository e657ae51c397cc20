"""Methods that hide what a model knows and remove nothing: gates, and what they put on.

*Suppression, not removal.* The weights keep the knowledge; who has them, or who gets past the gate,
has it back. ECO corrupts the embeddings of prompts, O3 puts on adapters (`mu.o3`, `mu.adapters`).
"""

from mu_jax.suppression.corruption import KINDS, Kind, corrupt
from mu_jax.suppression.eco import (
    Corruption,
    Prompts,
    Strength,
    eco,
    gated,
    prompt_tokens,
)
from mu_jax.suppression.gates import (
    SoftGate,
    fit_soft_gate,
    hard_weight,
    over_requests,
    soft_weight,
)
from mu_jax.suppression.outliers import Familiarity, fit_familiarity
from mu_jax.suppression.search import SearchResult, search

__all__ = [
    "KINDS",
    "Corruption",
    "Familiarity",
    "Kind",
    "Prompts",
    "SearchResult",
    "SoftGate",
    "Strength",
    "corrupt",
    "eco",
    "fit_familiarity",
    "fit_soft_gate",
    "gated",
    "hard_weight",
    "over_requests",
    "prompt_tokens",
    "search",
    "soft_weight",
]
