"""Margins from a file: the right examples in the right order, of the right forget set."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest

from mu_jax.ensembles import Margins, load_margins, save_margins

VALUES = np.arange(12.0).reshape(3, 4)
INDEX = np.array([7, 3, 9, 5])


@pytest.fixture
def path(tmp_path):
    save_margins(tmp_path / "deep/oracles.npz", Margins(VALUES, INDEX, "abc"))
    return tmp_path / "deep/oracles.npz"


def test_what_is_saved_is_loaded(path):
    found = load_margins(path)
    np.testing.assert_array_equal(found.values, VALUES)
    np.testing.assert_array_equal(found.index, INDEX)
    assert found.forget == "abc"
    assert [item.name for item in path.parent.iterdir()] == ["oracles.npz"]


def test_columns_are_found_by_id(path):
    found = load_margins(path, index=[5, 7], forget="abc")
    np.testing.assert_array_equal(found.values, VALUES[:, [3, 0]])
    with pytest.raises(ValueError, match=r"found 2 missing \(first: id 8\)"):
        load_margins(path, index=[5, 8, 100])


def test_oracles_of_another_forget_set_are_refused(path):
    with pytest.raises(ValueError, match="expected models retrained without the forget set def"):
        load_margins(path, forget="def")
    with pytest.raises(ValueError, match=r"without the forget set \(none\), found .* of abc"):
        load_margins(path, forget="")


def test_a_plain_array_is_in_the_order_of_the_ids(tmp_path):
    np.save(tmp_path / "margins.npy", VALUES)
    found = load_margins(tmp_path / "margins.npy", index=INDEX)
    np.testing.assert_array_equal(found.values, VALUES)
    with pytest.raises(ValueError, match="expected ids for the examples"):
        load_margins(tmp_path / "margins.npy")


@pytest.mark.parametrize(
    "margins, said",
    [
        (Margins(VALUES, INDEX[:3], ""), "expected margins"),
        (Margins(VALUES[0], INDEX, ""), "expected margins"),
        (Margins(VALUES, np.array([1, 1, 2, 3]), ""), "expected every example once"),
        (Margins(np.where(VALUES == 5, np.nan, VALUES), INDEX, ""), "those of 1 of 3 models"),
    ],
)
def test_bad_margins_are_not_written(tmp_path, margins, said):
    with pytest.raises(ValueError, match=said):
        save_margins(tmp_path / "oracles.npz", margins)
    assert not list(tmp_path.iterdir())


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a file of margins"):
        load_margins(tmp_path / "none.npz")
    np.savez(tmp_path / "other.npz", margins=VALUES)
    with pytest.raises(ValueError, match="expected the fields values, index, forget"):
        load_margins(tmp_path / "other.npz")


@pytest.mark.parametrize("size", [0, 4, 40, 300, -3])
def test_a_file_that_is_cut_is_one_sentence(path, size):
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"^expected arrays in .*oracles\.npz, found a damaged"):
        load_margins(path)


def test_a_file_that_holds_something_else_is_one_sentence(tmp_path):
    path = tmp_path / "oracles.npz"
    path.write_text("values\n1.0\n")
    with pytest.raises(ValueError, match=r"^expected arrays in"):
        load_margins(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("values", "text")
    with pytest.raises(ValueError, match=r"^expected arrays in"):
        load_margins(path)
    np.savez(path, values=np.full((3, 4), "a"), index=INDEX, forget="")
    with pytest.raises(ValueError, match=r"^expected margins of floats and ids of integers"):
        load_margins(path)
