"""The directions of one forget request, computed once and asked for the effect on any example."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from mu_jax.attribution.groups import mean_group_effect
from mu_jax.data.batches import ids_of, is_concrete
from mu_jax.model import Model

PyTree = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Directions:
    """The directions of one forget set: its effect on any example is one forward-mode product.

    Attributes:
      model: the classifier.
      checkpoints: variables of each trained model.
      directions: a tree shaped like the parameters for each.
      index: i32[m], the ids of the forget set, or None if they are not known.
    """

    model: Model = dataclasses.field(metadata={"static": True})
    checkpoints: tuple[PyTree, ...]
    directions: tuple[PyTree, ...]
    index: Any

    def effect(self, forget: Any, data: Any) -> jax.Array:
        """How much the forget set raises every logit of `data`, f[n, K]: mean over checkpoints.

        Raises:
          ValueError: `forget` is not the set that the directions belong to.
        """
        self._check(ids_of(forget))
        return mean_group_effect(self.model, self.checkpoints, self.directions, data)

    def _check(self, ids: Any) -> None:
        if not all(x is not None and is_concrete(x) for x in (self.index, ids)):
            return
        own, other = np.unique(self.index), np.unique(ids)
        if not np.array_equal(own, other):
            raise ValueError(
                f"expected the forget set of these directions, {own.size} examples, found another "
                f"one of {other.size}: compute the directions of this request"
            )
