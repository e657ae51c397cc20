"""l1-sparse unlearning against the published program, in float64.

The numbers are those of `golden/classification_l1_sparse.npz`. They are not to be regenerated from
this code: when a test fails, either the code is wrong or the definition was changed on purpose.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from golden_networks import MODEL, params
from golden_runs import Recorded, batch, epochs_of, optimizer_of

import mu_jax as mu

GOLDEN = load("classification_l1_sparse.npz")
SCHEDULES = {"l1": None, "l1_then_plain": lambda done: jnp.maximum(1 - done * 3 / 2, 0)}


@pytest.mark.parametrize("case", SCHEDULES)
def test_golden_run(case):
    hyper = {name: GOLDEN[f"{case}/hp/{name}"] for name in ("lr", "gamma", "epochs")}
    epochs, steps = int(hyper["epochs"]), len(GOLDEN[f"{case}/rows"])
    chosen = {} if SCHEDULES[case] is None else {"schedule": SCHEDULES[case]}
    with jax.enable_x64(True):
        unlearn = mu.l1_sparse(
            MODEL,
            optimizer_of(GOLDEN, case, float(hyper["lr"])),
            gamma=float(hyper["gamma"]),
            epochs=epochs,
            **chosen,
        )
        recorded = epochs_of(GOLDEN, case, np.ones(steps, bool), epochs)
        start = mu.Variables(params(GOLDEN, "start"))
        forget = [batch(GOLDEN, GOLDEN["forget_random_rows"])]
        after, info = unlearn(jax.random.key(0), start, forget, Recorded(recorded))
        assert sum(int((leaf == 0).sum()) for leaf in start.params.values()) == 5
        for name, expected in params(GOLDEN, f"{case}/after").items():
            assert after.params[name].dtype == jnp.float64
            np.testing.assert_allclose(after.params[name], expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(info.details.loss, GOLDEN[f"{case}/loss"], rtol=1e-6)
