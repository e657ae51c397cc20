"""A service over a ledger and a store, with recipes that are seen through."""

from __future__ import annotations

import numpy as np
from serving_loop import DATA, LIKE, ROWS, TABLE

from mu_jax.service import Guarantee, Made, Recipe, Service


def forget(job, measured=None) -> Made:
    after = np.where(np.isin(np.arange(ROWS), job.forget.index), 0, job.before["w"])
    return Made({"w": after}, measured or {"retain accuracy": 0.9})


def dies(*_, **__):
    """A worker's death, in the place of what it would have done."""
    raise KeyboardInterrupt


def anew(job) -> Made:
    weights = np.isin(np.arange(ROWS), job.retain.index).astype(np.float32)
    return Made({"w": weights}, {"retain accuracy": 0.94})


ANEW = Recipe("anew", anew, guarantee=Guarantee("exact", "training on what is retained"))


def service(opened, make=forget, **further) -> Service:
    split = further.pop("split", lambda work: work.split(DATA))
    recipe = further.pop("unlearning", Recipe("mine", make))
    further = {"batch": 1, "ids": TABLE, "report": opened.said.append, **further}
    where = opened.ledger, opened.store, LIKE, np.arange(ROWS), split
    return Service(*where, recipe, **further)
