"""What comes back: values, intervals that cover, splits by id, PrivLeak's floor."""

from __future__ import annotations

import numpy as np
import pytest

from mu_jax.evaluation import language


def test_fractions():
    clean, corrupted = np.ones(4), np.zeros(4)
    assert language.restoration([1, 0, 0, 1], corrupted, clean).value == 0.5
    assert language.relearned([0.5] * 4, [0.25] * 4, clean).value == pytest.approx(1 / 3)
    found = language.in_context_recovery([0.0] * 4, [0.5] * 4, clean)
    assert found.value == -1 and found.low is None and "fewer than 20" in found.no_interval


def coverage(means, n, runs, seed=0):
    """Of a ratio of means of correctness, on examples whose difficulty the models share."""
    random, given, held = np.random.default_rng(seed), 0, 0
    truth = (means[1] - means[0]) / (means[2] - means[0])
    for run in range(runs):
        hard = random.uniform(size=(3, n) if run % 2 else n)
        before, after, whole = (hard < np.reshape(means, (3, 1))).astype(float)
        if whole.mean() == before.mean():
            continue
        found = language.recovered(after, before, whole)
        if found.low is not None:
            given, held = given + 1, held + (found.low <= truth <= found.high)
    return held / given, given


def test_intervals_cover():
    found, given = coverage((0.05, 0.2, 0.95), 40, 40)
    assert found >= 0.9 and given > 30


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 40, 100])
@pytest.mark.parametrize(
    "means", [(0.1, 0.2, 0.9), (0.05, 0.5, 0.95), (0.02, 0.1, 0.98), (0.5, 0.6, 0.8), (0, 0.05, 1)]
)
def test_intervals_cover_rare_events(means, n):
    found, given = coverage(means, n, 400)
    assert found >= 0.9 and given > 200


def test_no_interval_where_nothing_was_lost_for_sure():
    random = np.random.default_rng(0)
    before, after, whole = (random.normal(size=(3, 40)) * 5).round(1)
    assert "hardly told from 0" in language.recovered(after, before, whole).no_interval
    even = language.recovered(np.full(40, 0.5), np.zeros(40), np.ones(40))
    assert even.value == 0.5 and "no width" in even.no_interval


def test_retrained_models_stay_within_the_floor_of_privleak():
    random = np.random.default_rng(0)
    found = [language.privleak(*random.normal(size=(4, 200))).value for _ in range(400)]
    inside = np.mean(np.abs(found) <= language.privleak_floor(200, 200))
    assert 0.92 <= inside <= 0.98
    memorized = language.privleak(np.zeros(9), np.ones(9), [1.0, 2.0], [1.0, 2.0])
    assert memorized.value == -100 and memorized.auc == 0


def test_columns_of_a_projection():
    random = np.random.default_rng(0)
    before, after = random.normal(size=(2, 20, 6))
    after[:19] = before[:19] + 0.05 * random.normal(size=(19, 6))
    unembedding = random.normal(size=(30, 6))
    found = language.concept_changes(before, after, unembedding, top=5)
    dots = np.einsum("md,md->m", before, after)
    norms = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    np.testing.assert_allclose(found.cosine, dots / norms, rtol=1e-5)
    np.testing.assert_allclose(found.distance, np.linalg.norm(before - after, axis=1), rtol=1e-4)
    tops = [[set(np.argsort(unembedding @ c)[-5:]) for c in side] for side in (before, after)]
    wanted = [len(a & b) / len(a | b) for a, b in zip(*tops)]
    np.testing.assert_allclose(found.overlap, wanted, rtol=1e-6)
    assert int(found.order[0]) == 19


def test_the_column_of_the_description():
    found = language.concept_changes([[1.0, 2, 3, 4]], [[1.1, 1.9, 2.5, 4.2]], np.eye(4), top=2)
    assert float(found.cosine[0]) == pytest.approx(0.994960, abs=1e-6)
    assert float(found.distance[0]) == pytest.approx(0.556776, abs=1e-6)


def test_parts_hold_whole_groups():
    groups = np.repeat(np.arange(20), 3)
    parts = {"forget": [0], "relearn": [1], "retain": [2, 3, 4]}
    found = language.split_by_id(groups, parts)
    assert sorted(np.concatenate(list(found.values()))) == list(range(60))
    shared = set(groups[found["forget"]]) & set(groups[found["retain"]])
    assert not shared and len(found["retain"]) == 36


def test_bad_input_is_one_sentence():
    with pytest.raises(ValueError, match="nothing was lost"):
        language.recovered([1.0], [0.0], [0.0])
    with pytest.raises(ValueError, match="all three models, or prompts, on one set"):
        language.recovered([1.0, 2.0], [0.0], [0.0])
    with pytest.raises(ValueError, match=r"found \[0, 1\]: name each once"):
        language.split_by_id([0, 1], {"forget": [0], "retain": [1]})
    with pytest.raises(ValueError, match="found none in retain"):
        language.split_by_id([0, 2], {"forget": [0], "retain": [1]}, modulus=2)
    with pytest.raises(ValueError, match="every forgotten text looks like a member"):
        language.privleak([1.0], [2.0], [1.0], [2.0])
    with pytest.raises(ValueError, match="expected between 1 and 2 top tokens, found 3"):
        language.concept_changes(np.eye(2), np.eye(2), np.eye(2), top=3)
    with pytest.raises(ValueError, match="give both answers of each prompt"):
        language.ches(np.ones((2, 3, 4)), np.ones((2, 3)), np.ones((1, 3, 4)), np.ones((1, 3)))
