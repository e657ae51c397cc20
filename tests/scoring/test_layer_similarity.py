"""What is seen inside models: similarity of layers, edits, the choice of SSD, examples to show."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax import evaluation
from mu_jax.scoring.edited import BINS, histogram, importance_ratios, leaf_edits, stacked_edits
from mu_jax.scoring.layers import features_of, similarity
from mu_jax.scoring.shown import BYTES, SIDE, chosen, shown_inputs, shown_texts

RANDOM = np.random.default_rng(0)


class Net(nn.Module):
    """Names its layers against the alphabet."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="one")(x)
        self.sow("intermediates", "zeta", x)
        x = nn.relu(x)
        self.sow("intermediates", "beta", x)
        self.sow("intermediates", "gamma", x)
        x = x.mean((1, 2))
        self.sow("intermediates", "alpha", x)
        self.sow("intermediates", "number", x.mean())
        return nn.Dense(3, name="head")(x)


MODEL = mu.from_linen(Net(), mu.losses.cross_entropy)
IMAGES = jnp.asarray(RANDOM.normal(size=(40, 5, 5, 2)), jnp.float32)


def weights(seed):
    return Net().init(jax.random.key(seed), IMAGES[:1])


def test_features_come_in_the_order_of_the_model_with_positions_averaged():
    found = features_of(MODEL, weights(0), IMAGES)
    assert list(found) == ["zeta", "beta", "alpha", "outputs"]
    outputs, named = MODEL.observe(*MODEL.split(weights(0)), IMAGES)
    np.testing.assert_allclose(found["zeta"], named["zeta"].mean((1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["outputs"], outputs, rtol=1e-5, atol=1e-6)
    nameless = mu.from_function(lambda w, state, x: x @ w, mu.losses.squared_error)
    assert features_of(nameless, mu.Variables(jnp.ones((2, 1))), jnp.ones((3, 2))) == {}


def test_similarity_is_linear_cka_to_the_own_original_and_the_mean_over_other_oracles():
    models, originals, oracles = (
        [features_of(MODEL, weights(10 * kind + seed), IMAGES) for seed in range(3)]
        for kind in range(3)
    )
    found = similarity(models, originals, oracles)
    assert found.layers == ("zeta", "beta", "alpha", "outputs")
    layer = found.layers.index("beta")

    def cka(one, other):
        return float(evaluation.linear_cka(other["beta"], one["beta"]))

    for j in range(3):
        assert found.to_original[j, layer] == pytest.approx(cka(models[j], originals[j]), abs=1e-5)
        mean = np.mean([cka(models[j], oracle) for oracle in oracles])
        assert found.to_oracle[j, layer] == pytest.approx(mean, abs=1e-5)
    pairs = [cka(oracles[a], oracles[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    assert found.low[layer] == pytest.approx(min(pairs), abs=1e-5)
    assert found.high[layer] == pytest.approx(max(pairs), abs=1e-5)
    own = similarity(oracles, originals[:1], oracles)
    assert own.to_oracle[0, layer] == pytest.approx((pairs[0] + pairs[1]) / 2, abs=1e-5)
    assert own.to_original[2, layer] == pytest.approx(cka(oracles[2], originals[0]), abs=1e-5)


def test_what_cannot_be_compared_is_no_number_and_no_error():
    one = features_of(MODEL, weights(0), IMAGES)
    broken = {name: np.full_like(x, np.nan) for name, x in one.items()}
    constant = {name: np.ones_like(x) for name, x in one.items()}
    found = similarity([one, broken, constant], [one], [one])
    assert np.isfinite(found.to_original[0]).all() and np.isnan(found.to_original[1:]).all()
    assert np.isnan(found.to_oracle).all() and np.isnan(found.low).all()
    assert np.isnan(similarity([one], [], []).to_original).all()
    assert similarity([{}], [{}], [{}]) is None
    assert similarity([{name: x[:3] for name, x in one.items()}], [], []) is None


def test_edits_say_leaf_by_leaf_what_has_moved_how_far_and_where_to():
    before = {"a": {"w": np.array([3.0, 4.0, 0.0, 0.0])}, "b": np.array([2.0]), "c": np.zeros(2)}
    after = {"a": {"w": np.array([3.0, 4.0, 5.0, 0.0])}, "b": np.array([2.0]), "c": np.ones(2)}
    oracle = {"a": {"w": np.array([3.0, 4.0, 3.0, 4.0])}, "b": np.array([1.0]), "c": -np.ones(2)}
    found = leaf_edits(before, after, oracle)
    assert found.leaves == ("a/w", "b", "c") and found.sizes.tolist() == [4, 1, 2]
    np.testing.assert_allclose(found.changed, [[0.25, 0, 1]])
    np.testing.assert_allclose(found.moved, [[1, 0, np.inf]])
    np.testing.assert_allclose(found.toward_oracle, [[0.6, np.nan, -1]], rtol=1e-6)
    two = stacked_edits([found, leaf_edits(before, before, oracle)])
    assert two.changed.shape == two.toward_oracle.shape == (2, 3) and two.changed[1].sum() == 0
    assert stacked_edits([found, leaf_edits(before, after)]).toward_oracle is None


@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
def test_what_ssd_dampens_is_what_lies_above_the_threshold():
    model = mu.from_function(lambda w, state, x: x @ w, mu.losses.cross_entropy)
    x = jnp.asarray(RANDOM.normal(size=(60, 6)), jnp.float32)
    data = mu.batches(x, jnp.argmax(x[:, :3], 1), batch_size=20)
    forget, retain = mu.split(data, np.flatnonzero(np.asarray(data.targets) == 1))
    variables = mu.Variables(jnp.asarray(RANDOM.normal(size=(6, 3)), jnp.float32))
    for alpha in (0.5, 1.2, "adaptive"):
        _, info = mu.ssd(model, alpha)(jax.random.key(0), variables, forget, retain)
        found = importance_ratios(model, variables, forget, retain, alpha=alpha)
        assert found.threshold == pytest.approx(float(info.details.alpha), rel=1e-5)
        above = found.counts[found.edges[:-1] >= np.float32(found.threshold)].sum()
        assert above == round(18 * float(info.details.selected)) and found.counts.sum() == 18
        assert found.counts.size == BINS and (np.diff(np.log(found.edges)) > 0).all()


def test_a_histogram_counts_all_ratios_wherever_the_threshold_lies():
    values = np.concatenate([RANDOM.lognormal(size=500), [0.0, np.inf]])
    for alpha in (1e-6, 1e-3, 1.0, 1e6, 0.0):
        found = histogram(values, alpha)
        assert found.counts.sum() == 502 and (np.diff(found.edges) > 0).all()
        above = found.counts[found.edges[:-1] >= np.float32(alpha)].sum()
        assert above == (values > alpha).sum() or not alpha
    assert histogram(np.zeros(3), 2.0).counts.sum() == 3


def test_examples_to_show_are_drawn_and_never_the_first_ones():
    ids = {"forget": np.arange(10), "retain": np.arange(10, 1000), "test": np.arange(5, 300)}
    found = chosen(ids, 100)
    assert found["forget"].tolist() == list(range(10))
    assert len(found["retain"]) == 45 and found["retain"].tolist() != list(range(45))
    assert not found["test"].size, "all of their ids are those of other examples"
    again = chosen(ids, 100)
    np.testing.assert_array_equal(found["retain"], again["retain"])
    assert len(np.unique(found["retain"])) == 45


def test_shown_examples_fit_a_page():
    images = RANDOM.normal(size=(1500, 130, 70, 3)).astype(np.float32)
    found = shown_inputs({"forget": (np.arange(1500), images)})
    assert found.kind == "image" and found.content.dtype == np.uint8
    assert found.content.nbytes <= BYTES and max(found.content.shape[1:3]) <= SIDE
    assert found.content.min() == 0 and found.content.max() == 255
    pixel = images[found.ids[3], 6, 9]
    bounds = images[found.ids][:, ::3, ::3]
    scaled = 255 * (pixel - bounds.min()) / (bounds.max() - bounds.min())
    np.testing.assert_allclose(found.content[3, 2, 3], scaled, atol=0.6)
    texts = shown_texts({"forget": (np.array([7]), ["x" * 5000]), "retain": (np.array([9]), [])})
    assert texts.kind == "text" and texts.ids.tolist() == [7] and len(texts.content[0]) == 600
    assert shown_texts({"forget": (np.zeros(0, int), [])}) is None
    rows = shown_inputs({"forget": (np.array([3]), np.arange(20.0)[None])})
    assert rows.kind == "row" and rows.content[0].endswith("11, ... (20 numbers)")
