"""What the page knows of single examples: by hand, from few models."""

from __future__ import annotations

import base64

import numpy as np
from page_cases import examples_of

from mu_jax.page import examples as module
from mu_jax.page.examples import examples_of as shown_of
from mu_jax.reporting import Arrays, Examples, Shown
from mu_jax.scoring.rows import NOTHING, RETRAIN


def of(margins, predictions=None, losses=None, ids=None, targets=None):
    margins = np.asarray(margins, np.float32)
    n = margins.shape[1]
    losses = np.log1p(np.exp(-margins)) if losses is None else np.asarray(losses, np.float32)
    ids = np.arange(n, dtype=np.int32) if ids is None else np.asarray(ids)
    targets = np.zeros(n, np.int32) if targets is None else targets
    return {"forget": Examples(ids, targets, losses, margins, predictions)}


RETRAINED = [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.5, 0.5]]


def test_examples_are_told_by_the_band_of_retrained_models():
    rows = {RETRAIN: of(RETRAINED), "ssd": of([[0.4, 3.0, -2.0], [0.6, 5.0, -4.0]])}
    found = shown_of(Arrays(rows))["sets"]["forget"]
    assert found["rows"]["ssd"]["mean"] == [0.5, 4.0, -3.0]
    assert found["rows"]["ssd"]["stands"] == [0, 1, -1]
    assert found["band"]["models"] == 3
    np.testing.assert_allclose(found["band"]["low"], 0.025, atol=1e-3)
    np.testing.assert_allclose(found["band"]["high"], 0.975, atol=1e-3)


def test_by_losses_a_smaller_one_is_known_better():
    one = lambda losses: {  # noqa: E731
        "forget": Examples(np.arange(2), np.zeros(2), np.array(losses), None, None)
    }
    rows = {RETRAIN: one([[1.0, 1.0], [2.0, 2.0]]), "ssd": one([[0.1, 9.0]])}
    found = shown_of(Arrays(rows))
    assert found["measure"] == "loss"
    assert found["sets"]["forget"]["rows"]["ssd"]["stands"] == [1, -1]


def test_predictions_are_those_of_most_models_with_their_share():
    said = np.array([[1, 4, 4], [1, 4, 5], [2, 4, 5], [1, 4, 5]], np.int32)
    rows = {RETRAIN: of(RETRAINED), "ssd": of(np.ones((4, 3)), said)}
    found = shown_of(Arrays(rows))["sets"]["forget"]["rows"]["ssd"]
    assert (found["says"], found["share"]) == (["1", "4", "5"], [0.75, 1.0, 0.75])


def test_numbers_and_labels_of_yes_and_no_are_said_in_words():
    numbers = np.array([[1.0, 2.0, 4.0], [2.0, 2.0, 5.0]])
    labels = np.zeros((2, 3, 4), bool)
    labels[:, 0, [1, 3]] = True
    rows = {RETRAIN: of(RETRAINED, numbers[[0, 1, 1]]), "ssd": of(np.ones((2, 3)), labels)}
    found = shown_of(Arrays(rows))["sets"]["forget"]["rows"]
    assert found["ssd"]["says"] == ["1, 3", "no label", "no label"]
    assert found[RETRAIN]["says"][0] == "1.667" and found[RETRAIN]["share"] is None


def test_models_that_are_nan_are_left_out_and_a_row_of_them_has_no_number():
    broken = [[np.nan, 1.0, 1.0], [2.0, 2.0, 2.0]]
    rows = {RETRAIN: of(RETRAINED), "ssd": of(broken), "iau": of(np.full((2, 3), np.inf))}
    found = shown_of(Arrays(rows))["sets"]["forget"]["rows"]
    assert found["ssd"]["mean"] == [2.0, 2.0, 2.0] and found["ssd"]["readable"] == 1
    assert found["iau"]["mean"] == [None] * 3 and "stands" not in found["iau"]


def test_rows_of_other_examples_are_named_not_mixed():
    rows = {RETRAIN: of(RETRAINED), "ssd": of(np.ones((1, 3))), "iau": of([[1.0]], ids=[7])}
    found = shown_of(Arrays(rows))
    assert found["rows"] == [RETRAIN, "ssd"]
    assert any("iau" in note for note in found["notes"])


def test_one_retrained_model_is_no_band_and_the_page_says_so():
    rows = {RETRAIN: of(RETRAINED[:1]), "ssd": of(np.ones((2, 3)))}
    found = shown_of(Arrays(rows))
    assert "band" not in found["sets"]["forget"]
    assert any("fewer than two retrained models" in note for note in found["notes"])


def test_one_row_is_a_sentence():
    assert "two rows" in shown_of(Arrays({RETRAIN: of(RETRAINED)}))
    assert "No arrays" in shown_of(None)


def test_the_untouched_model_and_the_first_method_are_shown_first():
    rows = {"ssd": of(np.ones((2, 3))), NOTHING: of(np.ones((2, 3))), RETRAIN: of(RETRAINED)}
    found = shown_of(Arrays(rows))
    assert found["rows"] == [RETRAIN, NOTHING, "ssd"] and found["start"] == (NOTHING, "ssd")


def test_more_examples_than_a_page_holds_are_thinned_and_counted(monkeypatch):
    monkeypatch.setattr(module, "MOST", 90)
    sizes = {"forget": 10, "retain": 500, "test": 40}
    rows = {name: examples_of(name, 2, sizes) for name in (RETRAIN, "ssd")}
    found = shown_of(Arrays(rows))
    kept = {name: len(part["ids"]) for name, part in found["sets"].items()}
    assert kept["forget"] == 10 and sum(kept.values()) <= 90 and kept["retain"] >= 30
    assert any("of 500 examples of the retain set" in note for note in found["notes"])


def test_pictures_are_those_of_the_ids_and_no_more_than_fit(monkeypatch):
    rows = {name: of(np.ones((2, 3)), ids=[5, 6, 7]) for name in (RETRAIN, "ssd")}
    content = np.arange(4 * 2 * 2).reshape(4, 2, 2, 1).astype(np.uint8)
    arrays = Arrays(rows, shown=Shown(np.array([7, 1, 5, 6]), "image", content))
    found = shown_of(arrays)["shown"]
    assert (found["ids"], found["shape"]) == ([5, 6, 7], [2, 2, 1])
    pixels = np.frombuffer(base64.b64decode(found["bytes"]), np.uint8).reshape(3, 2, 2, 1)
    np.testing.assert_array_equal(pixels, content[[2, 3, 0]])
    monkeypatch.setattr(module, "MOST_BYTES", 8)
    fewer = shown_of(arrays)
    assert fewer["shown"]["ids"] == [5, 6]
    assert any("2 of 3 pictures" in note for note in fewer["notes"])


def test_an_id_that_names_two_examples_shows_the_one_of_training():
    part = of(np.ones((2, 3)))["forget"]
    rows = {name: {"forget": part, "test": part} for name in (RETRAIN, "ssd")}
    shown = Shown(np.arange(3), "text", np.array(["a", "b", "c"]))
    found = shown_of(Arrays(rows, shown=shown))["shown"]
    assert (found["sets"], found["texts"]) == (["forget"], ["a", "b", "c"])
