"""Three labels at once and one attribute alone: the NoMUS experiment on a small copy of MUCAC."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from experiments import nomus
from experiments.configs import mucac
from experiments.lib.constant import constant_outputs
from experiments.lib.tasks import make_task, read_ids, split
from mu_jax import losses, reporting
from mu_jax.scoring import kinds

pytestmark = pytest.mark.filterwarnings("ignore:expected [0-9]+ examples in")
NAMES = [f"Other{i}" for i in range(40)]
NAMES[20], NAMES[31], NAMES[39] = "Male", "Smiling", "Young"
# Identities of test, forget, retain and unseen, and how many of each.
IDENTITIES = np.repeat([7, 200, 1300, 5000], [24, 24, 40, 24])


def write_mucac(folder):
    """Images in the published layout; red follows smiling, green gender, blue youth."""
    images = folder / "mucac/CelebAMask-HQ/CelebA-HQ-img"
    images.mkdir(parents=True)
    random = np.random.default_rng(0)
    identities, attributes = [], [str(IDENTITIES.size), " ".join(NAMES)]
    for number, identity in enumerate(IDENTITIES.tolist()):
        answers = dict(zip(("Male", "Smiling", "Young"), random.integers(0, 2, 3)))
        cells = ["1" if answers.get(name, 1) else "-1" for name in NAMES]
        identities.append(f"{number}.jpg {identity}")
        attributes.append(f"{number}.jpg " + " ".join(cells))
        levels = (60 + 120 * answers[name] for name in ("Smiling", "Male", "Young"))
        color = tuple(int(level + random.integers(0, 40)) for level in levels)
        Image.new("RGB", (40, 40), color).save(images / f"{number}.jpg")
    (folder / "mucac/CelebA-HQ-identity.txt").write_text("\n".join(identities))
    (folder / "mucac/CelebA-HQ-attribute.txt").write_text("\n".join(attributes))
    return folder


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    return write_mucac(tmp_path_factory.mktemp("faces"))


def small(copy, label):
    config = mucac.get_config()
    config.update(data_dir=str(copy), label=label, model=dict(name="mlp", features=(4,)))
    config.training.epochs = 2
    for name in ("finetune", "gradient_ascent", "neg_grad_plus"):
        config.methods[name].steps = 2
    return config


@pytest.mark.slow
@pytest.mark.parametrize("label", ["all", "smiling"])
def test_the_experiment_forgets_persons(copy, tmp_path, label):
    nomus.run(small(copy, label), None, 2, tmp_path / "run")
    records = reporting.read(tmp_path / "run/results.jsonl")
    rows = {"retrain", "do nothing", "constant", "finetune", "gradient_ascent", "neg_grad_plus"}
    assert {record.method for record in records} == rows | {"ssd"}
    assert records[0].forget_set.size == 24
    for record in records:
        assert record.metrics["utility"].n == 24
        assert 0 <= record.metrics["utility"].value <= 1
        assert record.metrics["forgetting score"].n in (24, None)
    assert {r.status for r in records if r.method == "constant"} == {"collapsed"}


def test_three_labels_are_scored_by_their_means(copy):
    task = make_task(small(copy, "all"))
    assert task.train.targets.shape == (64, 3) and task.test.targets.shape == (24, 3)
    task, splits = nomus.with_unseen(task, read_ids(task, "identity:190-1249"))
    random = np.random.default_rng(0)
    outputs = random.normal(size=splits.targets.shape).astype(np.float32)
    utility, forget, unseen = nomus._parts(outputs, splits)
    test = splits.positions["test"]
    columns = [np.mean((outputs[test, k] > 0) == splits.targets[test, k]) for k in range(3)]
    assert utility == pytest.approx(np.mean(columns))
    where = splits.positions["forget"]
    expected = losses.binary_cross_entropy(outputs[where], splits.targets[where])
    np.testing.assert_allclose(forget, expected, rtol=1e-6)
    assert forget.size == unseen.size == 24


def test_a_model_collapses_when_it_answers_alike_for_all_or_by_chance():
    targets = np.random.default_rng(0).integers(0, 2, (400, 3))
    assert not kinds.collapse(targets - 0.5, targets).flag
    assert kinds.collapse(np.ones((400, 3)), targets).flag
    assert kinds.collapse(targets[::-1] - 0.5, targets).flag
    assert "non-finite" in kinds.collapse(np.full((400, 3), np.nan), targets).reason
    half = np.where([True, True, False], targets - 0.5, 1.0)  # one label is lost, two are known
    assert not kinds.collapse(half, targets).flag


def test_the_constant_answers_the_log_odds_of_each_label_and_the_majority_class(copy):
    task = make_task(small(copy, "all"))
    _, retain = split(task, read_ids(task, "identity:200"))
    yes = np.asarray(retain.targets).sum(0)
    found = constant_outputs(task, retain, 2)
    np.testing.assert_allclose(found, [np.log((yes + 1) / (40 - yes + 1))] * 2, rtol=1e-6)
    task = make_task(small(copy, "smiling"))
    _, retain = split(task, read_ids(task, "identity:200"))
    counts = np.bincount(np.asarray(retain.targets))
    found = constant_outputs(task, retain, 2)
    np.testing.assert_allclose(found, [np.log((counts + 1) / 42)] * 2, rtol=1e-6)
    assert found.argmax(-1).tolist() == [counts.argmax()] * 2
