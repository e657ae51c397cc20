"""Kept scores belong to rows and variables: to others they are refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax.data.tokens import Preference
from mu_jax.datasets import language
from mu_jax.objectives import keep_reference, load_reference

BYTES = language.ByteTokenizer()
RECORDS = [
    {"question": f"q{k}", "answer": "a" * (1 + k % 3), "other": "no", "id": f"r{k}"}
    for k in range(7)
]
BEFORE = mu.Variables(
    {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)},
    {"mean": jnp.zeros(3), "seen": jnp.int32(4), "key": jax.random.key(0), "on": jnp.bool_(True)},
)
NLL = np.random.default_rng(0).normal(size=7).astype(np.float32)
PAIRS = [Preference(NLL, NLL + 1), np.stack([NLL, NLL], axis=1), NLL]


def rows_of(records=RECORDS):
    return language.questions(records, BYTES, ids="id")


def data_of(*, pairs=False, **options):
    rows = rows_of()
    if pairs:
        rows = language.preferences(RECORDS, BYTES, winner="other", loser="answer", ids="id")
    return language.padded(rows, batch_size=3, **options)


@pytest.mark.parametrize("nll", PAIRS, ids=["pairs", "packed", "rows"])
def test_kept_scores_come_back_bit_for_bit_to_rows_in_any_order(nll, tmp_path):
    data = data_of(pairs=isinstance(nll, Preference))
    keep_reference(nll, data, BEFORE).save(tmp_path / "deep" / "scores.npz")
    kept = load_reference(tmp_path / "deep" / "scores.npz")
    rows = np.array([5, 0, 3])
    found = kept.attach(data.take(rows), BEFORE)
    targets, parts = found.targets, nll
    if not isinstance(nll, Preference):
        targets, parts = [targets], [nll]
    for part, wanted in zip(targets, parts):
        np.testing.assert_array_equal(part.reference, wanted[rows])
        assert part.reference.dtype == jnp.float32
    np.testing.assert_array_equal(found.index, np.asarray(data.index)[rows])
    assert repr(kept).startswith("ReferenceScores(7 rows, of variables ")


def test_scores_of_other_variables_are_refused():
    data = data_of()
    kept = keep_reference(NLL, data, BEFORE)
    for number, leaf in enumerate(jax.tree.leaves(BEFORE)):
        if not jnp.issubdtype(leaf.dtype, jnp.number):
            continue
        leaves, structure = jax.tree.flatten(BEFORE)
        leaves[number] = leaf + jnp.asarray(1, leaf.dtype)
        with pytest.raises(ValueError, match="expected scores of these variables, found Reference"):
            kept.attach(data, structure.unflatten(leaves))
    copied = jax.tree.map(jnp.array, BEFORE)
    np.testing.assert_array_equal(kept.attach(data, copied).targets.reference, NLL)


def test_scores_of_other_rows_are_refused():
    kept = keep_reference(NLL[:4], data_of().take(np.arange(4)), BEFORE)
    with pytest.raises(ValueError, match=r"every row, found none for 3 of 7 \(id 4\)"):
        kept.attach(data_of(), BEFORE)
    kept = keep_reference(NLL, data_of(), BEFORE)
    for change in ({"question": "Q2"}, {"answer": "aab"}, {"answer": "aaaa"}):
        records = [record | (change if record["id"] == "r2" else {}) for record in RECORDS]
        other = language.padded(rows_of(records), batch_size=3)
        with pytest.raises(ValueError, match=r"found others for 1 of 7 \(id 2\), whose tokens"):
            kept.attach(other, BEFORE)
    targets = data_of().targets
    fewer = targets._replace(mask=targets.mask.at[2].set(targets.mask[0] * targets.mask[2]))
    with pytest.raises(ValueError, match="found others for 1 of 7"):
        kept.attach(data_of().replace(targets=fewer), BEFORE)


def test_more_padding_behind_keeps_the_scores():
    kept = keep_reference(NLL, data_of(), BEFORE)
    longer = language.padded(rows_of(), 60, batch_size=7)
    np.testing.assert_array_equal(kept.attach(longer, BEFORE).targets.reference, NLL)


def test_streamed_rows_take_scores():
    data = data_of()
    inputs, targets = (jax.tree.map(np.asarray, x) for x in (data.inputs, data.targets))
    pick = itertools.starmap(
        lambda tree, k: jax.tree.map(lambda x: x[k], tree),
        ((tree, k) for k in range(7) for tree in (inputs, targets)),
    )
    examples = list(zip(pick, pick))
    stream = mu.stream(examples, batch_size=3, index=data.index)
    found = keep_reference(NLL, data, BEFORE).attach(stream, BEFORE)
    seen = np.concatenate([np.asarray(b.targets.reference)[b.weight > 0] for b in found])
    np.testing.assert_array_equal(seen, NLL)


def test_scores_that_cannot_be_kept_are_refused(tmp_path):
    data = data_of()
    for nll in (NLL[:3], np.float32(1), NLL[:, None, None], Preference(NLL, NLL)):
        with pytest.raises(
            ValueError, match=r"expected scores f32\[7\] or f32\[7, S\] for each row"
        ):
            keep_reference(nll, data, BEFORE)
    with pytest.raises(ValueError, match=r"NaN or infinity for 1 of 7 rows \(id 1\)"):
        keep_reference(np.where(np.arange(7) == 1, np.nan, NLL), data, BEFORE)
    with pytest.raises(TypeError, match="expected TokenTargets"):
        keep_reference(NLL, mu.batches(np.ones((7, 2)), np.ones(7), batch_size=2), BEFORE)
    (tmp_path / "other.npz").write_bytes(b"no archive")
    np.savez(tmp_path / "arrays.npz", format=np.array("else"), index=NLL)
    np.save(tmp_path / "one.npy", NLL)
    for name in ("other.npz", "arrays.npz", "one.npy"):
        with pytest.raises(ValueError, match="expected reference scores in"):
            load_reference(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        load_reference(tmp_path / "missing.npz")
