"""Two processes with one device each give what one process gives.

The file is its own worker: `python test_two_processes.py PORT PROCESS DIRECTORY`.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mu_jax as mu
from mu_jax.losses import cross_entropy

N, SECONDS = 13, 240


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
    found = {}
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
            key=jax.random.key(0),
            epochs=2,
        )
        found[f"{form}/fit"] = state.variables.params
        found[f"{form}/loss"] = info.loss
    leaves = jax.tree_util.tree_leaves_with_path(found)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def run_workers(directory):
    """Start both, and kill what is left after the time is up (they catch SIGTERM)."""
    port = str(free_port())
    settings = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, port, str(process), str(directory)],
            env=settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    try:
        return [(worker.communicate(timeout=SECONDS)[0], worker.returncode) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()


@pytest.mark.multiprocess
def test_two_processes_agree_with_one(tmp_path):
    for output, code in run_workers(tmp_path):
        assert code == 0, output[-4000:]
    expected = results(None)
    found = [np.load(tmp_path / f"{process}.npz") for process in range(2)]
    assert set(found[0]) == set(found[1]) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[0][name], value, rtol=0, atol=2e-5 * scale, err_msg=name)


def work(port, process, directory):
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    assert (jax.process_count(), jax.device_count(), jax.local_device_count()) == (2, 2, 1)
    np.savez(os.path.join(directory, f"{process}.npz"), **results(mu.data_mesh()))
    jax.distributed.shutdown()


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]), sys.argv[3])
