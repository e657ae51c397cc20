"""Altair, or the sentence that names the extra which brings it."""

from __future__ import annotations

from typing import Any

from mu_jax._extras import extra

with extra("charts"):
    import altair

alt: Any = altair
ChartType = altair.typing.ChartType
