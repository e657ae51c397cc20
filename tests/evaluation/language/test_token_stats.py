"""Token statistics: against a loop in NumPy, and laws of padding, packing and batches."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from token_tables import packed, rows

import mu_jax as mu
from mu_jax.data.tokens import TokenTargets
from mu_jax.evaluation import language

WORDS, LENGTH = 7, 12
TABLE = np.random.default_rng(0).normal(size=(WORDS, WORDS)).astype(np.float32) * 2
MODEL = mu.from_function(lambda table, state, inputs: table[inputs.tokens], lambda z, t: z.sum())
METRICS = (
    language.mean_nll,
    language.probability,
    language.exact_memorization,
    language.extraction_strength,
    language.extracted,
    language.min_k,
    language.min_k_plus_plus,
)


def documents(number, seed=0):
    random = np.random.default_rng(seed)
    lengths = random.integers(3, LENGTH, number)
    found = [random.integers(WORDS, size=n) for n in lengths]
    for document in found[::3]:  # some that the model continues as it should
        for t in range(1, len(document)):
            document[t] = TABLE[document[t - 1]].argmax()
    return found, [int(random.integers(1, n)) for n in lengths]


def measured(statistics):
    return np.stack([np.asarray(metric(statistics)) for metric in METRICS], -1)


def of_rows(*arguments, **options):
    inputs, targets = rows(*arguments, **options)
    return language.token_statistics(TABLE[inputs.tokens], targets)


def by_hand(document, prompt):
    """The metrics of one document, token by token."""
    nll, hit, z = [], [], []
    for t in range(prompt, len(document)):
        logits = TABLE[document[t - 1]].astype(float)
        p = np.exp(logits) / np.exp(logits).sum()
        nll.append(-np.log(p[document[t]]))
        hit.append(logits.argmax() == document[t])
        mean = p @ np.log(p)
        z.append((np.log(p[document[t]]) - mean) / np.sqrt(p @ np.log(p) ** 2 - mean**2))
    n = len(nll)
    k = max(1, int(0.4 * n))
    starts = [start for start in range(n) if all(hit[start:])]
    strength = 1 - min(starts) / n if starts else 0.0
    mink = np.sort(nll)[-k:].mean(), -np.sort(z)[:k].mean()
    return [np.mean(nll), np.exp(-np.mean(nll)), np.mean(hit), strength, all(hit), *mink]


def test_against_a_loop_over_tokens():
    texts, prompts = documents(9)
    found = measured(of_rows(texts, prompts, LENGTH))
    wanted = [by_hand(*each) for each in zip(texts, prompts)]
    np.testing.assert_allclose(found, np.array(wanted, float), rtol=2e-5, atol=1e-6)
    strengths = found[:, 3]
    assert (strengths == 0).any() and (strengths == 1).any()


@pytest.mark.parametrize("options", [{"left": True}, {"length": 2 * LENGTH}], ids=str)
def test_padding_does_not_matter(options):
    texts, prompts = documents(9)
    found = measured(of_rows(texts, prompts, **{"length": LENGTH, **options}))
    np.testing.assert_allclose(found, measured(of_rows(texts, prompts, LENGTH)), rtol=1e-6)


def test_packed_documents_are_scored_one_by_one():
    texts, prompts = documents(5)
    inputs, targets = packed(texts, prompts)
    whole = language.token_statistics(TABLE[inputs.tokens], targets)
    found = measured(language.per_document(whole, inputs.segment, 6))
    assert found.shape == (1, 6, len(METRICS)) and np.isnan(found[0, 5]).all()
    wanted = measured(of_rows(texts, prompts, LENGTH))
    np.testing.assert_allclose(found[0, :5], wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="expected at most 4 documents"):
        language.per_document(whole, inputs.segment, 4)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_the_size_of_a_batch_does_not_matter(size):
    texts, prompts = documents(64)
    inputs, targets = rows(texts, prompts, LENGTH)
    data = mu.batches(inputs, targets, batch_size=size)
    found = language.statistics_of(MODEL, mu.Variables(jnp.asarray(TABLE)), data)
    wanted = language.token_statistics(TABLE[inputs.tokens], targets)
    for name, one, other in zip(found._fields, found, wanted):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7, err_msg=name)


def test_what_is_not_scored_says_nothing():
    texts, prompts = documents(4)
    inputs, targets = rows(texts, prompts, LENGTH)
    logits = TABLE[inputs.tokens]
    unread = np.concatenate([targets.mask[:, 1:] == 0, np.ones((4, 1), bool)], 1)
    broken = np.where(unread[..., None], np.nan, logits)
    marked = TokenTargets(np.where(targets.mask > 0, targets.tokens, -100), targets.mask)
    found = language.token_statistics(broken, marked)
    for one, other in zip(found, language.token_statistics(logits, targets)):
        np.testing.assert_array_equal(one, other)


def test_a_broken_model_has_no_metric():
    texts, prompts = documents(4)
    inputs, targets = rows(texts, prompts, LENGTH)
    logits = TABLE[inputs.tokens].copy()
    logits[1, prompts[1] - 1, 2] = np.nan
    found = measured(language.token_statistics(logits, targets))
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2, 3]]).all()


def test_impossible_words_have_no_part_in_the_mean():
    logits = np.zeros((1, 2, 3), np.float32)
    logits[..., 2] = -np.inf
    row = TokenTargets(np.array([[0, 1]]), np.array([[0.0, 1.0]]))
    found = language.token_statistics(logits, row)
    assert float(found.mean[0, 1]) == pytest.approx(-np.log(2))
    assert float(found.variance[0, 1]) == pytest.approx(0, abs=1e-6)


def test_half_precision_is_computed_in_float32():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(2, 5, 9)) * 8, jnp.bfloat16)
    row = TokenTargets(np.ones((2, 5), int), np.array([[0, 1, 1, 1, 1]] * 2))
    found = language.token_statistics(logits, row)
    assert found.nll.dtype == jnp.float32
    wide = language.token_statistics(logits.astype(jnp.float32), row)
    np.testing.assert_array_equal(found.nll, wide.nll)


def test_models_are_a_leading_axis_and_it_runs_under_jit_and_vmap():
    texts, prompts = documents(4)
    inputs, targets = rows(texts, prompts, LENGTH)
    tables = np.stack([TABLE, TABLE[::-1]])
    together = measured(language.token_statistics(tables[:, inputs.tokens], targets))

    @jax.jit
    @jax.vmap
    def strength(table):
        found = language.token_statistics(table[inputs.tokens], targets)
        return language.extraction_strength(found), language.min_k(found)

    found = strength(tables)
    np.testing.assert_allclose(found[0], together[..., 3], rtol=1e-6)
    np.testing.assert_allclose(found[1], together[..., 5], rtol=1e-6)


def test_a_secret_is_measured_alone():
    hit = np.array([[0.0, 1.0, 0.0, 1.0, 1.0]])
    mask = np.array([[0.0, 1.0, 1.0, 1.0, 1.0]])
    whole = language.TokenStatistics(hit, hit, hit, hit, mask)
    secret = language.restricted(whole, np.array([[0, 0, 0, 1, 1]]))
    assert float(language.exact_memorization(whole)[0]) == 0.75
    assert float(language.extracted(whole)[0]) == 0 and float(language.extracted(secret)[0]) == 1


@pytest.mark.parametrize(
    "hits, strength", [([0, 1, 0, 1, 1], 0.4), ([1, 1, 0], 0.0), ([1, 1], 1.0), ([0], 0.0)]
)
def test_extraction_strength_of_patterns(hits, strength):
    hit = np.array([[0, *hits, 0]], np.float32)  # a place before and one after, not scored
    mask = np.pad(np.ones((1, len(hits)), np.float32), ((0, 0), (1, 1)))
    found = language.extraction_strength(language.TokenStatistics(hit, hit, hit, hit, mask))
    assert float(found[0]) == pytest.approx(strength)


def test_a_share_that_rounding_puts_below_a_whole_number():
    """0.29 of 100 tokens are 29, although the product of the floats is below."""
    values = np.arange(101.0)[None]
    mask = np.ones((1, 101))
    mask[0, 0] = 0
    found = language.min_k(language.TokenStatistics(*[values] * 4, mask), 0.29)
    assert float(found[0]) == pytest.approx(np.arange(101)[-29:].mean())


SINE = [
    [-3.701586, -1.742554, -3.868989, -1.597740],
    [-3.133487, -2.297891, -3.328072, -2.129078],
]


def test_the_sines_of_the_description():
    b, t, v = np.ogrid[:2, :6, :7]
    logits = 2 * np.sin(0.7 * b + 1.3 * t + 0.9 * v)
    tokens = (3 * b + 2 * t + 1)[..., 0] % 7
    mask = np.array([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0]], float)
    with jax.enable_x64(True):
        found = language.token_statistics(logits, TokenTargets(tokens, mask))
        log_p = -np.asarray(found.nll)[mask > 0].reshape(2, 4)
        np.testing.assert_allclose(log_p, SINE, atol=5e-7)
        np.testing.assert_allclose(language.sequence_nll(found), [10.910869, 10.888528], atol=5e-7)
        np.testing.assert_allclose(language.min_k(found), [3.868989, 3.328072], atol=5e-7)
        found = language.min_k_plus_plus(found)
        np.testing.assert_allclose(found, [3.082609, 2.400115], atol=5e-7)


def test_bad_input_is_one_sentence():
    good = TokenTargets(np.array([[0, 1, 2]]), np.array([[0.0, 1.0, 1.0]]))
    logits = np.zeros((1, 3, 2))
    with pytest.raises(ValueError, match=r"expected scored tokens in \[0, 2\), found 1 to 2"):
        language.token_statistics(logits, good)
    with pytest.raises(ValueError, match="found a scored token there"):
        language.token_statistics(logits, good._replace(mask=np.ones((1, 3))))
    with pytest.raises(ValueError, match="transpose the head if its columns are tokens"):
        language.token_statistics_from_hidden(np.ones((1, 3, 4)), np.ones((4, 9)), good)
    with pytest.raises(ValueError, match="the targets of the same rows"):
        language.token_statistics(logits[:, :2], good)
    with pytest.raises(ValueError, match=r"expected a ratio in \(0, 1\], found 0"):
        language.min_k(language.TokenStatistics(*[np.ones((1, 3))] * 5), 0)
    data = mu.batches(np.zeros((2, 3), int), np.zeros(2), batch_size=2)
    with pytest.raises(ValueError, match="make the data with TokenTargets"):
        language.statistics_of(MODEL, mu.Variables(jnp.asarray(TABLE)), data)


@pytest.mark.parametrize("explicit", [False, True])
def test_a_mesh_does_not_matter(explicit):
    texts, prompts = documents(9)
    inputs, targets = rows(texts, prompts, LENGTH)
    kind = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((2,), ("data",), axis_types=(kind,), devices=jax.devices()[:2])
    data = mu.shard(mu.batches(inputs, targets, batch_size=4), mesh)
    found = language.statistics_of(MODEL, mu.Variables(jnp.asarray(TABLE)), data)
    wanted = language.token_statistics(TABLE[inputs.tokens], targets)
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("chunk", [1, 4, 64])
def test_from_hidden_states_in_chunks(chunk):
    texts, prompts = documents(5)
    targets = rows(texts, prompts, LENGTH)[1]
    random = np.random.default_rng(2)
    hidden, head = random.normal(size=(5, LENGTH, 3)), random.normal(size=(WORDS, 3))
    found = language.token_statistics_from_hidden(hidden, head, targets, chunk=chunk)
    wanted = language.token_statistics(np.einsum("btd,vd->btv", hidden, head), targets)
    for one, other in zip(found, wanted):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_logits_of_whole_rows_are_never_there():
    row = TokenTargets(np.zeros((2, 129), np.int32), np.zeros((2, 129), np.float32))
    hidden, head = np.zeros((2, 129, 4), np.float32), np.zeros((1000, 4), np.float32)

    def temporaries(chunk):
        compute = jax.jit(functools.partial(language.token_statistics_from_hidden, chunk=chunk))
        return compute.lower(hidden, head, row).compile().memory_analysis().temp_size_in_bytes

    whole = 2 * 128 * 1000 * 4
    assert temporaries(128) > whole > 4 * temporaries(8)
