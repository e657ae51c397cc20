"""Own model, data and weights in the binaries."""

import dataclasses
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import mu_jax as mu
from experiments.lib import own_tasks
from experiments.lib.arguments import offered
from experiments.lib.command_line import parse
from experiments.lib.methods import Request, complete, make_method
from experiments.lib.tasks import kind_of, make_task, read_ids, train
from mu_jax.store import Store

THIS = __name__
INPUTS = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
NETWORK = nn.Dense(3)


def rows(targets, start=100):
    index = np.arange(start, start + len(targets))
    return mu.batches(INPUTS[: len(targets)], targets, batch_size=8, index=index)


def classes(n=24):
    return (np.arange(n) % 3).astype(np.int32)


def init(key):
    return NETWORK.init(key, INPUTS[:1])


def untrained():
    """A task that the binary trains."""
    return own_tasks.OwnTask(
        model=mu.from_linen(NETWORK, mu.losses.cross_entropy),
        train=rows(classes()),
        test=rows(classes(9), start=500),
        kind="classification",
        init=init,
        training={"epochs": 2, "batch_size": 8},
        methods={"ssd": {"alpha": 1.0, "dampening": 0.5}},
        attributes={"site": np.arange(24) // 8},
    )


def trained():
    """A task with weights and no recipe."""
    weights = jax.tree.map(lambda x: np.full_like(x, 0.5), init(jax.random.key(1)))
    return dataclasses.replace(untrained(), weights=weights, training=None)


def regression():
    """A regression on two outputs."""
    model = mu.from_linen(NETWORK, mu.losses.squared_error)
    targets = INPUTS[:, :3]
    return dataclasses.replace(
        untrained(), model=model, train=rows(targets), test=rows(targets[:9]), kind="regression"
    )


def wrong(**changes):
    return lambda: dataclasses.replace(untrained(), **changes)


no_batches = wrong(train=INPUTS)
no_kind = wrong(kind="ranking")
no_variables = wrong(init=lambda key: {"params": {}})
too_large = wrong(init=lambda key: {"params": {"kernel": jnp.zeros((2**16, 2**16))}})
no_logits = wrong(train=mu.batches(np.stack([INPUTS] * 2, 1), classes(), batch_size=8))
few_sites = wrong(attributes={"site": np.arange(3)})
no_field = wrong(training={"epocs": 3})


def no_init():
    def init(key):
        raise OSError("no file")

    return dataclasses.replace(untrained(), init=init)


def raises():
    raise RuntimeError("no disk")


@pytest.fixture(autouse=True)
def again():
    own_tasks.load.cache_clear()


def config_of(name):
    return own_tasks.configuration(f"{THIS}:{name}")


def test_the_binary_has_the_model_and_the_data_of_the_person():
    task = make_task(config_of("untrained"))
    assert task.info.num_classes == 3 and task.info.task == "classification"
    assert read_ids(task, "site:1").tolist() == list(range(108, 116))
    assert read_ids(task, "class:2").tolist() == list(range(102, 124, 3))
    variables = train(task, jax.random.key(0), task.train)
    assert jax.tree.structure(variables) == jax.tree.structure(init(jax.random.key(0)))


def test_flags_change_the_recipe_and_the_methods():
    train_binary = importlib.import_module("experiments.train")
    flags = [f"--task={THIS}:untrained", "--config.training.epochs=7"]
    flags += ["--config.methods.ssd.alpha=4.0", "--workdir=w"]
    parse(train_binary.FLAGS, ["train", *flags])
    config = train_binary.CONFIG.value
    assert config.training.epochs == 7 and config.methods.ssd.alpha == 4.0
    assert json.loads(config.to_json())["task"] == f"{THIS}:untrained"


@pytest.mark.parametrize("name", ["untrained", "regression"])
def test_every_method_that_is_offered_has_defaults(name, tmp_path):
    config = config_of(name)
    for method in offered(kind_of(config)):
        complete(config, method)
    task = make_task(config)
    request = Request(task.train.take(np.arange(4)), tmp_path, lambda: init(jax.random.key(1)))
    for method in set(config.methods) - {"dmm"}:  # dmm trains models for its attribution
        assert isinstance(make_method(task, method, request), mu.Transform)


def test_given_weights_are_published_and_serve(tmp_path):
    binary = importlib.import_module("experiments.train")
    parse(binary.FLAGS, ["train", f"--task={THIS}:trained", f"--workdir={tmp_path}"])
    binary.run(binary.CONFIG.value, tmp_path, 0)
    store = Store(tmp_path / "store")
    found = store.restore(like=jax.eval_shape(init, jax.random.key(0)))
    assert all((leaf == 0.5).all() for leaf in jax.tree.leaves(found))
    assert [version.method for version in store.history()] == ["given weights"]


def test_weights_without_a_recipe_are_not_retrained():
    task = make_task(config_of("trained"))
    with pytest.raises(ValueError, match="found weights alone; give OwnTask"):
        train(task, jax.random.key(0), task.train)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raises", "RuntimeError no disk; correct the module"),
        ("no_batches", "expected mu.Batches as train"),
        ("no_kind", "expected a kind among classification, multilabel, regression"),
        ("no_variables", "expected a model that computes on the train inputs"),
        ("no_init", r"fails on them \(OSError: no file\); correct the task"),
        ("too_large", r"an array of 4\.29e\+09 numbers is more than a program takes"),
        ("no_logits", r"expected logits \[n, K\]"),
        ("few_sites", r"expected one site for each of 24 train examples .* found shape \(3,\)"),
        ("no_field", "expected fields of training .* found 'epocs'"),
        ("nothing", "expected a function nothing in"),
    ],
)
def test_what_cannot_be_a_task_is_refused_in_a_sentence(name, said):
    with pytest.raises(ValueError, match=said) as caught:
        config_of(name)
    assert "\n" not in str(caught.value)
