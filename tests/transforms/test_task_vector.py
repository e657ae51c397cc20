"""The task vector against the golden edit, and against fine-tuning on the forget set."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, assert_identical

import mu_jax as mu
from mu_jax.transforms.task_vector import negated

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
GOLDEN = Path(__file__).parents[1] / "golden" / "lm_objectives.npz"


def test_the_golden_edit():
    with jax.enable_x64(True), np.load(GOLDEN) as found:
        before, over, edited = (
            {leaf: jnp.asarray(found[f"{prefix}/{leaf}"]) for leaf in "EAcWb"}
            for prefix in ("tiny", "task_vector/overfit", "task_vector/edited")
        )
        assert_close(negated(before, over, found["hp/tv_alpha"]), edited, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["raw", "tokens"])
def test_it_goes_back_as_far_as_the_fit_went(name):
    chosen, key = setting(name), jax.random.key(3)
    forget, retain = chosen.sets()
    after, _ = mu.task_vector(chosen.model, optax.sgd(0.1), scale=0.5, epochs=2)(
        key, chosen.variables, forget, retain
    )
    tuned, _ = mu.finetune(chosen.model, optax.sgd(0.1), epochs=2)(
        key, chosen.variables, retain, forget
    )
    expected = jax.tree.map(lambda x, y: 1.5 * x - 0.5 * y, chosen.variables.params, tuned.params)
    assert_close(after.params, expected)


def test_statistics_stay_where_they_were():
    chosen = setting("cnn")
    unlearn = mu.task_vector(chosen.model, optax.sgd(0.1), epochs=1, training_mode=True)
    after, _ = unlearn(jax.random.key(3), chosen.variables, *chosen.sets())
    assert_identical(after["batch_stats"], chosen.variables["batch_stats"])
