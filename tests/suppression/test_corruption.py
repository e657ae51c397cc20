"""Corruptions of embeddings and the search of their strength: goldens, and what stays as it is."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_files import load
from trees import is_one_sentence

from mu_jax.suppression import KINDS, corrupt, search

KEY = jax.random.key(0)
GOLDEN = load("lm_objectives.npz")
DIMS, STRENGTH = int(GOLDEN["hp/eco_dims"]), float(GOLDEN["hp/eco_strength"])
EMBEDDINGS, MASK = GOLDEN["eco/embeddings"], GOLDEN["eco/token_mask"]
PUBLISHED = [
    "zero_out_first_n",
    "zero_out_top_k",
    "flip_sign_first_n",
    "flip_sign_top_k",
    "add_value_first_n",
    "add_value_least_k",
    "sub_value_first_n",
    "sub_value_top_k",
]
NOISE = [kind for kind in KINDS if kind.startswith("rand_noise")]


def corrupted(kind, *, key=KEY, mask=MASK, strength=STRENGTH, dims=DIMS, embeddings=EMBEDDINGS):
    with jax.enable_x64(True):
        return np.asarray(
            corrupt(key, jnp.asarray(embeddings), jnp.asarray(mask), strength, kind, dims=dims)
        )


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_numbers_of_the_published_program(kind):
    np.testing.assert_allclose(corrupted(kind), GOLDEN[f"eco/{kind}"], rtol=1e-9)


def test_the_order_of_whole_rows_is_that_of_the_published_program():
    """Which moves every position, whatever the mask."""
    found = corrupted("reverse_order", mask=np.ones_like(MASK))
    np.testing.assert_array_equal(found, GOLDEN["eco/reverse_order"])


@pytest.mark.parametrize("kind", ["reverse_order", "shuffle_order"])
def test_orders_change_among_chosen_tokens_alone(kind):
    found = corrupted(kind)
    for row, mask in enumerate(MASK.astype(bool)):
        chosen = EMBEDDINGS[row][mask]
        if kind == "reverse_order":
            np.testing.assert_array_equal(found[row][mask], chosen[::-1])
        else:
            assert sorted(found[row][mask][:, 0]) == sorted(chosen[:, 0])
    if kind == "shuffle_order":
        others = [corrupted(kind, key=jax.random.key(k)) for k in range(5)]
        assert any((other != found).any() for other in others)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_chosen_keeps_every_bit(kind):
    found = corrupted(kind)
    np.testing.assert_array_equal(found[~MASK], EMBEDDINGS[~MASK])
    assert (found[MASK] != EMBEDDINGS[MASK]).any()
    none = corrupted(kind, mask=np.zeros_like(MASK))
    np.testing.assert_array_equal(none, EMBEDDINGS)


@pytest.mark.parametrize("kind", NOISE)
def test_noise_has_its_dimensions_and_its_deviation(kind):
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(40, 50, 6))
    mask = np.ones((40, 50))
    found = corrupted(kind, embeddings=embeddings, mask=mask, strength=0.3, dims=2)
    moved = found != embeddings
    assert (moved.sum(axis=-1) == 2).all()
    change = (found - embeddings)[moved]
    np.testing.assert_allclose([change.mean(), change.std()], [0, 0.3], atol=0.02)
    assert len(np.unique(change)) == change.size  # drawn for each token
    if kind == "rand_noise_first_n":
        assert moved[..., :2].all()
    elif kind == "rand_noise_rand_n":
        assert (moved == moved[0, 0]).all()  # the same for all tokens
        other = [corrupted(kind, key=jax.random.key(k), dims=2) for k in range(8)]
        assert len({tuple((x != EMBEDDINGS).any(axis=(0, 1))) for x in other}) > 1
    else:
        largest = np.argsort(-np.abs(embeddings), axis=-1)[..., :2]
        assert np.take_along_axis(moved, largest, axis=-1).all()


def test_noise_is_that_of_its_key():
    first, again, other = (corrupted("rand_noise_top_k", key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_strength_and_dimensions_may_be_traced():
    embeddings = jnp.asarray(EMBEDDINGS, jnp.float32)
    for kind in ("add_value_top_k", "zero_out_top_k"):
        many = jax.jit(
            jax.vmap(lambda s, d, kind=kind: corrupt(KEY, embeddings, MASK, s, kind, dims=d))
        )(jnp.array([0.5, 2.0]), jnp.array([1, 3]))
        for k, (strength, dims) in enumerate(((0.5, 1), (2.0, 3))):
            wanted = corrupt(KEY, embeddings, MASK, strength, kind, dims=dims)
            np.testing.assert_allclose(many[k], wanted, rtol=1e-6)


REFUSED = {
    "expected a kind among": lambda: corrupted("noise"),
    "expected embeddings": lambda: corrupted("zero_out_top_k", mask=MASK[:2]),
    "expected dims from 1 to 5": lambda: corrupted("zero_out_top_k", dims=6),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(says):
    with pytest.raises(ValueError, match=says) as error:
        REFUSED[says]()
    assert is_one_sentence(str(error.value))


# --- the search ---


def hp(name):
    return float(GOLDEN[f"hp/zo_{name}"])


def test_the_search_is_that_of_the_published_program():
    found = search(
        lambda s: np.cos(1.3 * s) + 0.1 * s,
        hp("start"),
        rate=hp("lr"),
        spread=hp("eps"),
        least=hp("min"),
        steps=4,
    )
    np.testing.assert_allclose(found.slopes, GOLDEN["eco/search_grad"], rtol=1e-9)
    np.testing.assert_allclose(found.strengths[1:], GOLDEN["eco/search_sigma"], rtol=1e-9)
    assert found.strength == found.strengths[-1] and np.isnan(found.scores).all()


def test_a_search_has_the_published_defaults_and_a_floor():
    asked = []

    def score(s):
        asked.append(s)
        return s

    found = search(score, 0.1, steps=1)
    np.testing.assert_allclose(asked, [0.1 * 1.999, 0.1 - 0.0999], rtol=1e-9)
    assert found.strength == 0.1  # 0.1 - 100 is below the start


def test_a_search_stops_where_the_score_is_low_enough():
    found = search(lambda s: 1 / s, 1.0, rate=1.0, spread=0.1, least=0.1, steps=50, enough=0.5)
    assert found.scores[-1] < 0.5 <= found.scores[-2]
    assert len(found.scores) == len(found.strengths) == len(found.slopes) + 1 < 51
    np.testing.assert_allclose(found.scores, 1 / found.strengths)


def test_a_search_of_an_array_goes_down_along_random_directions():
    aim = np.array([2.0, 1.0, 3.0])

    def score(s):
        return np.square(s - aim).sum()

    start = np.full(3, 0.5)
    found = search(score, start, rate=0.3, spread=0.05, least=0.0, steps=60, key=jax.random.key(0))
    assert found.strength.shape == (3,) and score(found.strength) < 0.02 * score(start)
    directions = found.slopes / np.linalg.norm(found.slopes, axis=1, keepdims=True)
    assert np.abs(directions[0] @ directions[1]) < 0.99
    # One step by hand: the slope along u, times u.
    u = directions[0]
    slope = (score(start + 0.05 * u) - score(start - 0.05 * u)) / 0.1
    np.testing.assert_allclose(found.slopes[0], slope * u, rtol=1e-9)
    np.testing.assert_allclose(found.strengths[1], start - 0.3 * slope * u, rtol=1e-9)


WRONG = {
    "expected a finite score": lambda: search(lambda s: np.nan, 0.1),
    "expected a key": lambda: search(lambda s: s.sum(), np.ones(2)),
    "expected rate >= 0": lambda: search(lambda s: s, 0.1, rate=-1.0),
}


@pytest.mark.parametrize("says", WRONG)
def test_a_search_that_cannot_be_is_refused_in_one_sentence(says):
    with pytest.raises(ValueError, match=says) as error:
        WRONG[says]()
    assert is_one_sentence(str(error.value))
