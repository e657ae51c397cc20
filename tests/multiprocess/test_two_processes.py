"""Two processes with one device each give what one process gives.

The file is its own worker: `python test_two_processes.py PORT PROCESS DIRECTORY PART`.
"""

from __future__ import annotations

import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import multihost_utils
from processes import finish, start

import mu_jax as mu
from mu_jax.losses import cross_entropy

sys.path.append(os.path.join(os.path.dirname(__file__), "..", "contract"))
from recipes import cases

N = 13
# For all methods; it only ends what hangs.
SECONDS = 20 * len(cases())


def predict(params, state, x):
    del state
    return jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"]


MODEL = mu.from_function(predict, cross_entropy)


def variables():
    draw = np.random.default_rng(0).normal
    params = {"w1": draw(size=(5, 8)), "b1": draw(size=8), "w2": draw(size=(8, 3))}
    return mu.Variables(jax.tree.map(lambda x: x.astype(np.float32), params))


def arrays():
    inputs = np.random.default_rng(1).normal(size=(N, 5)).astype(np.float32)
    return inputs, (np.arange(N) % 3).astype(np.int32)


def as_batches(mesh):
    data = mu.batches(*arrays(), batch_size=6)
    return data if mesh is None else mu.shard(data, mesh)


def as_stream(mesh):
    return mu.stream(list(zip(*arrays(), strict=True)), batch_size=6, mesh=mesh, threads=1)


def results(mesh):
    """Everything that must agree, as a flat dict of arrays."""
    found, key = {}, jax.random.key(0)
    statistics = {
        "importance": mu.statistics.importance(MODEL),
        "grouped": mu.statistics.importance(MODEL, "grouped", 2),
        "mean_gradient": mu.statistics.mean_gradient(MODEL),
    }
    for form, make in (("arrays", as_batches), ("stream", as_stream)):
        for name, statistic in statistics.items():
            acc = mu.collect(statistic, variables(), make(mesh))
            found[f"{form}/{name}"] = acc.value
            found[f"{form}/{name}/weight"] = acc.weight
        state, info = mu.fit(
            MODEL,
            mu.supervised(MODEL),
            optax.adam(0.01),
            variables(),
            make(mesh),
            key=key,
            epochs=2,
        )
        found[f"{form}/fit"] = state.variables.params
        found[f"{form}/loss"] = info.loss
        forget, retain = mu.split(make(mesh), [0, 3, 4, 8])
        effect = mu.iau(MODEL, optax.sgd(0.5))(key, variables(), forget, retain)[1].effect
        found[f"{form}/effect"] = np.asarray(effect.forget.loss)
    return found


def transformed(mesh):
    """What every transform makes of a model whose parameters lie whole on every device."""
    found = {}
    for prefix in ("", "few/"):
        for name, case in chosen_cases(prefix).items():
            chosen = case.setting("raw")
            # One example to forget is fewer than there are processes.
            few = mu.split(chosen.data(batch_size=5), [4])
            forget, retain = few if prefix else chosen.sets(batch_size=5)
            pair = [data if mesh is None else mu.shard(data, mesh) for data in (forget, retain)]
            variables, _ = case.build(chosen)(jax.random.key(3), chosen.variables, *pair)
            found[prefix + name] = variables
    return found


def divided(mesh):
    """The same of parameters that are divided between the processes."""
    found = {}
    for name, case in chosen_cases("").items():
        chosen = case.setting("raw")
        forget, retain = chosen.sets(batch_size=4)
        variables = chosen.variables
        if mesh is not None:
            variables = mu.shard_params(variables, mesh, axis="data", smallest=1)
            assert any(not leaf.is_fully_replicated for leaf in jax.tree.leaves(variables))
            forget, retain = mu.shard(forget, mesh), mu.shard(retain, mesh)
        found[name], _ = case.build(chosen)(jax.random.key(3), variables, forget, retain)
    return found


def chosen_cases(prefix):
    """Every transform; with few examples the ones that read the forget set by itself."""
    found = {name: case for name, case in cases().items() if not case.changes}
    return {name: found[name] for name in ("ssd", "iau", "finetune")} if prefix else found


PARTS = {"statistics": results, "transforms": transformed, "divided": divided}


def on_host(tree):
    """All values, by path, on every process."""

    def whole(x):
        here = isinstance(x, np.ndarray) or x.is_fully_addressable
        return np.asarray(x if here else multihost_utils.process_allgather(x, tiled=True))

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): whole(x) for path, x in leaves}


@pytest.mark.multiprocess
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
def test_two_processes_agree_with_one(part, tmp_path):
    for output, code in finish(start(__file__, str(tmp_path), part), SECONDS):
        assert code == 0, output[-4000:]
    expected = on_host(PARTS[part](None))
    found = [np.load(tmp_path / f"{process}.npz") for process in range(2)]
    assert set(found[0]) == set(found[1]) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[0][name], value, rtol=0, atol=2e-5 * scale, err_msg=name)


def work(port, process, directory, part):
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process))
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 2, 1)
    found = on_host(PARTS[part](mu.data_mesh()))
    np.savez(os.path.join(directory, f"{process}.npz"), **found)
    jax.distributed.shutdown()


if __name__ == "__main__":
    work(*sys.argv[1:])
