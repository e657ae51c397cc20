"""What objectives share that run in training or in inference mode."""

from __future__ import annotations


class InEitherMode:
    """The base of an objective with a field `training_mode`."""

    training_mode: bool

    @property
    def rows_are_independent(self) -> bool:
        """True in inference mode, where a row sees no other: see `Objective`."""
        return not self.training_mode
