"""SalUn against the published program, in float64.

The numbers are those of `golden/classification_salun.npz`. They are not to be regenerated from
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
from mu_jax.transforms.general.salun import saliency_mask

GOLDEN = load("classification_salun.npz")
FRACTIONS = GOLDEN["mask_fractions"].tolist()


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def before():
    return mu.Variables(params(GOLDEN, "before"))


def mask_batches():
    """The forget set as the program reads it for its mask: the mean of each batch counts 1."""
    rows = GOLDEN["mask_batch_rows"]
    return [batch(GOLDEN, r, weight=1 / (r >= 0).sum()) for r in rows]


def flat(tree):
    return np.concatenate([np.asarray(tree[str(name)]).ravel() for name in GOLDEN["param_names"]])


def test_the_gradient_of_the_mask():
    found = mu.collect(mu.statistics.mean_gradient(MODEL), before(), mask_batches())
    for name, expected in params(GOLDEN, "gradient_sum").items():
        np.testing.assert_allclose(2 * found.value[name], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("number", range(len(FRACTIONS)), ids=[f"{f:.1f}" for f in FRACTIONS])
def test_the_mask(number):
    fraction, saliency = FRACTIONS[number], params(GOLDEN, "gradient_sum")
    found, size = flat(saliency_mask(saliency, fraction)), int(GOLDEN["parameters"])
    expected = np.unpackbits(GOLDEN[f"mask/{fraction:.1f}"])[:size].astype(bool)
    assert found.sum() == expected.sum() == GOLDEN["mask_count"][number]
    length = np.abs(flat(saliency))
    edge = np.sort(length)[::-1][expected.sum() - 1]
    clear = length != edge
    np.testing.assert_array_equal(found[clear], expected[clear])
    if GOLDEN["mask_entries_tied_at_edge"][number] <= 1:
        np.testing.assert_array_equal(found, expected)


def unlearned(case):
    hyper = {k.rpartition("/")[2]: v for k, v in GOLDEN.items() if k.startswith(f"{case}/hp/")}
    epochs = int(hyper["epochs"])
    size = np.isin(GOLDEN[f"{case}/rows"], GOLDEN["forget_random_rows"])
    is_forget = size.any(1)
    forget = [mask_batches(), *epochs_of(GOLDEN, case, is_forget, epochs)]
    unlearn = mu.salun(
        MODEL,
        optimizer_of(GOLDEN, case, float(hyper["lr"])),
        fraction=float(hyper["fraction"]),
        epochs=epochs,
        label_rule=lambda key, label, classes: label,  # the recorded labels are in the batches
    )
    retain = Recorded(epochs_of(GOLDEN, case, ~is_forget, epochs))
    return unlearn(jax.random.key(0), before(), Recorded(forget), retain)


@pytest.mark.parametrize("case", ["fixed_0.5", "fixed_0.1"])
def test_golden_run(case):
    after, info = unlearned(case)
    for name, expected in params(GOLDEN, f"{case}/after").items():
        assert after.params[name].dtype == jnp.float64
        np.testing.assert_allclose(after.params[name], expected, rtol=0, atol=1e-10)
    fraction = float(GOLDEN[f"{case}/hp/fraction"])
    mask = np.unpackbits(GOLDEN[f"mask/{fraction:.1f}"])[: flat(after.params).size].astype(bool)
    moved = flat(after.params) != flat(before().params)
    assert moved[mask].any() and not moved[~mask].any()
    assert info.steps == 12
    losses = np.concatenate([info.details.forget.loss, info.details.retain.loss])
    np.testing.assert_allclose(np.sort(losses), np.sort(GOLDEN[f"{case}/loss"]), rtol=1e-6)


def test_the_published_tables_had_another_result():
    found, old = flat(unlearned("fixed_0.5")[0].params), flat(params(GOLDEN, "old_0.5/after"))
    assert np.abs(found - old).max() > 1e-4
