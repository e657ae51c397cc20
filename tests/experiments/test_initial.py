"""What models were trained from, made again: the same bits, and each model its own."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from in_process import call, refused
from trees import assert_identical

import mu_jax as mu
from experiments import quickstart
from experiments.configs import digits
from experiments.lib import initial, rows, tasks
from experiments.lib.methods import Request, make_method
from experiments.lib.populations import everything, train_population
from experiments.lib.running import read_config
from experiments.lib.sequences import Approximate, ask, draw_requests
from mu_jax import ensembles
from mu_jax.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
MODELS, SETTINGS = 3, {"weight_decay": 1.0, "iterations": 4}
MLP = {"name": "mlp", "features": (8,)}
CNN = {"name": "cnn", "features": (2, 2)}


def make_task(model=MLP, learning_rate=0.1):
    config = digits.get_config()
    config.limit, config.training.epochs = 120, 4
    config.training.learning_rate = learning_rate
    config.model = model
    config.methods = {"ntk_scrub": SETTINGS}
    return tasks.make_task(config)


@pytest.fixture(scope="module")
def task():
    return make_task()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("ensembles")


@pytest.fixture(scope="module")
def originals(task, directory):
    return train_population(task, directory, "originals", models=MODELS)


@pytest.fixture(scope="module")
def sets(task):
    return tasks.split(task, tasks.read_ids(task, "class:3"))


def one_by_one(task, originals, sets, begun):
    """What `mu.ntk_scrub` makes of every model, called by itself."""
    solver = mu.solvers.conjugate_gradients(iterations=SETTINGS["iterations"])
    found = []
    for number in range(MODELS):
        own = jax.tree.map(lambda x, number=number: x[number], begun)
        unlearn = mu.ntk_scrub(task.model, own, weight_decay=1.0, solver=solver)
        found.append(unlearn(jax.random.key(0), originals.model(number), *sets)[0])
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


@pytest.mark.parametrize("model", [MLP, CNN], ids=["together", "one by one"])
def test_a_training_that_moves_nothing_ends_with_them_bit_by_bit(model, tmp_path):
    still = make_task(model, learning_rate=0.0)
    params = still.model.params
    found = train_population(still, tmp_path, "originals", models=MODELS + 1, seed=5)
    begun = initial.of_models(still, found.keys)
    assert_identical(params(begun), params(found.variables))
    part = found.take(1, MODELS)
    assert_identical(params(initial.of_models(still, part.keys)), params(part.variables))
    key = jax.random.key(7)
    single = tasks.train(still, key, still.train)
    assert_identical(params(tasks.initial(still, key)), params(single))


def test_every_model_of_a_program_has_its_own(task, directory, originals, sets):
    row = rows.unlearn(task, "ntk_scrub", Request(sets[0], directory), sets[1], originals)
    begun = initial.of_models(task, originals.keys)
    others = jax.tree.map(lambda x: x[::-1], begun)
    own, exchanged = (
        ensembles.ensemble_outputs(
            task.model, one_by_one(task, originals, sets, each), everything(task)
        )
        for each in (begun, others)
    )
    np.testing.assert_allclose(row.outputs, own, atol=1e-3)
    assert np.abs(row.outputs - exchanged).max() > 0.1


def test_a_sequence_keeps_those_of_its_first_models(task, directory, originals):
    requests = draw_requests(task, 2, 5, seed=1)
    asked = [ask(task, requests, number) for number in (1, 2)]
    method = Approximate(task, "ntk_scrub", originals, asked[0], directory)
    begun = initial.of_models(task, originals.keys)
    for each in asked:
        before = originals._replace(variables=method.variables)
        method.answer(each)
        expected = one_by_one(task, before, (each.forget, each.retain), begun)
        for one, other in zip(jax.tree.leaves(method.variables), jax.tree.leaves(expected)):
            np.testing.assert_allclose(one, other, atol=1e-3)


def test_the_quickstart_gives_the_program_those_of_the_seed(task, directory, sets):
    program, _ = quickstart.compile_methods(task, *sets, directory)["ntk_scrub"]
    key = jax.random.key(3)
    begun, original = tasks.initial(task, key), tasks.train(task, key, task.train)
    _, info = program(begun, key, original, *sets)
    pairs = zip(*(jax.tree.leaves(task.model.params(each)) for each in (begun, original)))
    length = np.sqrt(sum(np.square(one - other).sum() for one, other in pairs))
    assert info.details.trained_norm == pytest.approx(length, rel=1e-5)


def test_a_request_without_them_is_refused(task, tmp_path):
    request = Request(task.train.take(np.arange(4)), tmp_path)
    with pytest.raises(ValueError, match=r"^expected the variables from which .* read them$"):
        make_method(task, "ntk_scrub", request)


TRAINED = {"method": "train", "hyperparameters": {"seed": 2}}


@pytest.mark.parametrize(
    "made, said",
    [
        ([{"method": "given weights"}], "found version 1 by 'given weights'"),
        ([{"method": "train"}, {"method": "ssd"}], "found version 1 by 'train'"),
        ([{**TRAINED, "method": "retrain"}, {"method": "ssd"}], "found version 1 by 'retrain'"),
        ([TRAINED, {"method": "retrain"}, {"method": "ssd"}], "found version 2 by 'retrain'"),
    ],
)
def test_a_lineage_of_another_training_is_refused(task, tmp_path, made, said):
    store, parent = Store(tmp_path / "store"), None
    for each in made:
        parent = store.publish({"w": np.ones(1)}, parent=parent, **each)
    with pytest.raises(ValueError, match=r"^expected a lineage that experiments\.train ") as caught:
        initial.of_lineage(task, store, parent)
    assert said in str(caught.value)


def test_requests_of_a_lineage_read_those_of_its_root(tmp_path):
    tiny = ["--config.limit=300", "--config.training.epochs=8", "--seed=2"]
    assert call("train", f"--workdir={tmp_path}", *tiny).returncode == 0
    scrub = [f"--workdir={tmp_path}", "--method=ntk_scrub"]
    numbers = [f"--set={name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    ended = call("unlearn", *scrub, "--request=class:3", "--serve_anyway", *numbers)
    assert ended.returncode == 0, ended
    served = call("serve_requests", *scrub, "--accept=class:4")
    assert served.returncode == 0, served
    store, task = Store(tmp_path / "store"), tasks.make_task(read_config(tmp_path))
    like = jax.eval_shape(task.init, jax.random.key(0))
    models = [store.restore(version, like=like) for version in (1, 2, 3)]
    begun, gone = tasks.initial(task, jax.random.key(2)), np.zeros(0, int)
    solvers = (mu.solvers.conjugate_gradients(iterations=4), None)
    for before, after, solver, asked in zip(models, models[1:], solvers, ("class:3", "class:4")):
        ids = tasks.read_ids(task, asked)
        sets = tasks.split(tasks.without(task, gone), ids)
        options = {"weight_decay": 1.0, "solver": solver} if solver else {}
        expected, _ = mu.ntk_scrub(task.model, begun, **options)(jax.random.key(0), before, *sets)
        for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(expected)):
            np.testing.assert_allclose(one, other, atol=1e-4)
        gone = np.union1d(gone, ids)


def test_weights_from_elsewhere_are_refused_by_the_binary(tmp_path):
    tiny = ["--config.limit=100", "--config.training.epochs=1"]
    assert call("train", f"--workdir={tmp_path}", *tiny).returncode == 0
    task, store = tasks.make_task(read_config(tmp_path)), Store(tmp_path / "store")
    store.swap(store.publish(task.init(jax.random.key(1)), method="given weights"))
    said = refused("unlearn", f"--workdir={tmp_path}", "--request=class:3", "--method=ntk_scrub")
    assert "found version 2 by 'given weights'; choose a method that does not read them" in said
