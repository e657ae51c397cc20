"""`mu.evaluation.score` is at home above `evaluation`, which does not load it."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mu_jax as mu

CODE = """
import sys, mu_jax as mu
mu.evaluation.klom
above = [n for n in sys.modules if n.startswith(("mu_jax.scoring", "mu_jax.reporting"))]
print(above, mu.evaluation.score is mu.scoring.score, "mu_jax.scoring" in sys.modules)
"""


def test_evaluation_stands_on_arrays_until_score_is_touched():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["[]", "True", "True"], done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nosuch"):
        mu.evaluation.nosuch  # noqa: B018
