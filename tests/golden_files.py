"""The golden files: what published programs computed, and second programs have checked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "golden"


def load(name: str) -> dict[str, np.ndarray]:
    """All arrays of a file, by name."""
    with np.load(FOLDER / name, allow_pickle=False) as found:
        return dict(found)
