"""Figures of results: pure functions of records and arrays that return an Altair chart.

>>> from mu_jax import plots
>>> from mu_jax.reporting import Cost, ForgetSet, Record
>>> records = [Record(name, ForgetSet("class 3", 125), seed=0, cost=Cost(wall_s=seconds))
...            for name, seconds in (("retrain", 9.0), ("ssd", 0.5))]
>>> chart = plots.run_time(records)

In a notebook the chart is shown; `plots.save(chart, "run_time.svg")` writes it. A figure for which
something is missing raises `NothingToDraw` with a sentence that says what. In every figure a method
has one color and one shape, retrained models are black (white on a dark ground) and the goal, and
their spread is a band.
"""

from mu_jax.plots.classes import classes
from mu_jax.plots.confusion import confusion
from mu_jax.plots.curves import Panel, panels, relearning
from mu_jax.plots.drift import drift
from mu_jax.plots.edits import edits, ratios
from mu_jax.plots.examples import examples
from mu_jax.plots.klom import klom
from mu_jax.plots.landscape import landscape
from mu_jax.plots.looks import Look, looks
from mu_jax.plots.losses import losses
from mu_jax.plots.membership import membership
from mu_jax.plots.nothing import NothingToDraw
from mu_jax.plots.run_time import run_time
from mu_jax.plots.saving import require, save, specification
from mu_jax.plots.similarity import similarity
from mu_jax.plots.theme import theme
from mu_jax.plots.tradeoff import tradeoff
from mu_jax.plots.verdicts import VERDICTS, verdicts

__all__ = [
    "VERDICTS",
    "Look",
    "NothingToDraw",
    "Panel",
    "classes",
    "confusion",
    "drift",
    "edits",
    "examples",
    "klom",
    "landscape",
    "looks",
    "losses",
    "membership",
    "panels",
    "ratios",
    "relearning",
    "require",
    "run_time",
    "save",
    "similarity",
    "specification",
    "theme",
    "tradeoff",
    "verdicts",
]
