"""What is said where a figure cannot be drawn."""

from __future__ import annotations


class NothingToDraw(ValueError):
    """A figure that cannot be drawn, with one sentence that says why; a page shows the sentence.

    Example:
        >>> raise NothingToDraw("No retrained models: nothing to compare with.")
        Traceback (most recent call last):
        mu_jax.plots.nothing.NothingToDraw: No retrained models: nothing to compare with.
    """
