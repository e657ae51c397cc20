"""Weights that others have trained, in the forms that people keep them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from flax import linen as nn
from flax import nnx
from flax.training.train_state import TrainState

import mu_jax as mu
from mu_jax.store import load_weights


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.BatchNorm(use_running_average=True)(x))


class StateWithStatistics(TrainState):
    batch_stats: dict


def like():
    return jax.eval_shape(Net().init, jax.random.key(0), jnp.ones((1, 2)))


def some(seed=0):
    """Variables of the model, as NumPy arrays that differ in every element."""
    numbers = np.random.default_rng(seed)
    return jax.tree.map(lambda x: numbers.normal(size=x.shape).astype(x.dtype), like())


def state(variables):
    return StateWithStatistics.create(apply_fn=None, tx=optax.adam(1e-3), **variables)


def flat(tree, separator):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator=separator): x for p, x in leaves}


def save(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
    return path


def kept_by_manager(path, tree):
    with ocp.CheckpointManager(path) as manager:
        for step, each in ((9, some(9)), (10, tree)):
            manager.save(step, args=ocp.args.StandardSave(each))
    return path


def write_tensors(path, tensors):
    safetensors.numpy.save_file(tensors, path)
    return path


SOURCES = {
    "variables": lambda tree, folder: tree,
    "train state": lambda tree, folder: state(tree),
    "orbax": lambda tree, folder: save(folder / "a", tree),
    "orbax train state": lambda tree, folder: str(save(folder / "a", state(tree))),
    "checkpoint manager": lambda tree, folder: kept_by_manager(folder / "a", tree),
    "safetensors": lambda tree, folder: write_tensors(folder / "a.safetensors", flat(tree, ".")),
    "safetensors, slashes": lambda tree, folder: write_tensors(
        folder / "a.safetensors", flat(tree, "/")
    ),
}


@pytest.mark.parametrize("source", SOURCES)
def test_weights_are_the_ones_that_were_kept(source, tmp_path):
    expected = some()
    found = load_weights(SOURCES[source](expected, tmp_path), like=like())
    assert jax.tree.structure(found) == jax.tree.structure(like())
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_parameters_alone_fit_a_model_without_state():
    tree = {"w": np.arange(6.0, dtype=np.float32).reshape(2, 3)}
    found = load_weights(tree, like=mu.Variables({"w": jnp.zeros((2, 3))}))
    np.testing.assert_array_equal(found.params["w"], tree["w"])


def test_the_state_of_an_nnx_module(tmp_path):
    module = nnx.Linear(2, 3, rngs=nnx.Rngs(1))
    wanted = nnx.state(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))
    found = load_weights(save(tmp_path / "a", nnx.state(module)), like=wanted)
    jax.tree.map(np.testing.assert_array_equal, found, nnx.state(module))


def test_floats_take_the_type_of_the_model(tmp_path):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), some())
    found = load_weights(save(tmp_path / "a", half), like=like())
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype("float32")}


def test_text_and_numbers_beside_the_model_are_left_where_they_are():
    beside = {"step": 3, "name": "a", "history": np.array(["b", None], object)}
    found = load_weights(some() | beside, like=like())
    jax.tree.map(np.testing.assert_array_equal, found, some())


def without(tree, collection, module, leaf):
    part = {name: x for name, x in tree[collection][module].items() if name != leaf}
    return {**tree, collection: {**tree[collection], module: part}}


WRONG = {
    r"expected float32\[3\] at 'params/Dense_0/bias', found no leaf in the given dict": (
        lambda tree: without(tree, "params", "Dense_0", "bias")
    ),
    "at 'batch_stats/BatchNorm_0/mean', found no leaf": lambda tree: {"params": tree["params"]},
    "found no leaf but .*net/batch_stats/BatchNorm_0/mean, ": lambda tree: {"net": tree},
    r"expected float32\[3\] at 'params/Dense_0/bias', found float32\[4\]": lambda tree: {
        **tree,
        "params": {**tree["params"], "Dense_0": {"bias": np.zeros(4), "kernel": np.zeros((2, 3))}},
    },
    r"found int32\[2,3\] in the given dict; give weights of this model": lambda tree: {
        **tree,
        "params": {
            **tree["params"],
            "Dense_0": {"bias": np.zeros(3), "kernel": np.ones((2, 3), np.int64)},
        },
    },
    r"expected no leaf at 'params/Dense_1/kernel', found float32\[2,3\]": lambda tree: {
        **tree,
        "params": {**tree["params"], "Dense_1": {"kernel": np.zeros((2, 3))}},
    },
}


@pytest.mark.parametrize("message", WRONG)
def test_weights_of_another_model_are_refused_by_the_first_leaf(message):
    with pytest.raises(ValueError, match=message):
        load_weights(WRONG[message](some()), like=like())


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("nothing", None, FileNotFoundError, "found nothing; check the path"),
        ("a.safetensors", b"no tensors", ValueError, "expected a safetensors file at"),
        ("a.pt", b"PK", ValueError, r"expected an Orbax directory or a file \*.safetensors"),
        ("folder", "", ValueError, "expected an Orbax checkpoint in"),
    ],
)
def test_what_cannot_be_read_is_refused_in_a_sentence(name, content, error, message, tmp_path):
    path = tmp_path / name
    if content == "":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        load_weights(path, like=like())
