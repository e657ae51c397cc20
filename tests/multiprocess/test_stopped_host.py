"""One of two hosts is killed in the middle of a run; the run resumes, and moves to another mesh.

The file is its own worker: `python test_stopped_host.py PORT PROCESS DIRECTORY STOP`.
"""

from __future__ import annotations

import os
import signal
import sys

import jax
import numpy as np
import optax
import pytest
from processes import finish, start
from small_models import setting

import mu_jax as mu
from mu_jax.loops import scan as folding
from mu_jax.store.versions import Store

SECONDS = 240


class Killer:
    """Kills this process after some batches, counted over all loops of the run."""

    def __init__(self, batches):
        self._left = batches

    def begin(self, total, carry, position):
        return carry, position

    def advance(self, carry, position):
        jax.block_until_ready(carry)
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def end(self, carry, position):
        pass


def unlearn(mesh, directory, stop):
    """SSD, which is two statistics, and a fit, over streams that each process reads its part of."""
    chosen = setting("raw")
    data = chosen.data()
    pairs = list(zip(np.asarray(data.inputs), np.asarray(data.targets), strict=True))
    stream = mu.stream(pairs, batch_size=4, mesh=mesh, threads=1)
    transform = mu.chain(
        mu.ssd(chosen.model, 1.3, 0.7), mu.finetune(chosen.model, optax.adam(1e-2), epochs=3)
    )
    with (
        mu.resumable(directory, config={"test": "stopped host"}, min_seconds=0.0),
        folding.observe(Killer(stop)),
    ):
        forget, retain = mu.split(stream, [1, 4, 5, 9, 13, 16])
        return transform(jax.random.key(3), chosen.variables, forget, retain)[0]


@pytest.mark.multiprocess
@pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
@pytest.mark.parametrize("stop", [4, 14], ids=["in a statistic", "in a fit"])
def test_a_run_with_a_killed_host_resumes_to_the_same_bits(stop, tmp_path):
    whole, stopped = str(tmp_path / "whole"), str(tmp_path / "stopped")
    for output, code in finish(start(__file__, whole, "0"), SECONDS):
        assert code == 0, output[-4000:]

    workers = start(__file__, stopped, str(stop))
    workers[1].wait(timeout=SECONDS)
    assert workers[1].returncode == -signal.SIGKILL, workers[1].communicate()[0][-4000:]
    workers[0].kill()  # it waits for the other, for minutes
    finish(workers, 10)
    assert not os.path.exists(os.path.join(stopped, "model", "SERVING"))
    for output, code in finish(start(__file__, stopped, "0"), SECONDS):
        assert code == 0, output[-4000:]

    # Both were saved by two processes, divided between them; here they go to eight devices.
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    like = mu.shard_params(setting("raw").variables, mesh, smallest=1)
    found = [Store(os.path.join(run, "model")).restore(like=like) for run in (whole, stopped)]
    for first, second, target in zip(*map(jax.tree.leaves, (*found, like)), strict=True):
        assert first.sharding.is_equivalent_to(target.sharding, target.ndim)
        np.testing.assert_array_equal(first, second)
    one = setting("raw").variables
    assert any((np.asarray(a) != b).any() for a, b in zip(*map(jax.tree.leaves, (found[0], one))))


def work(port, process, directory, stop):
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process))
    mesh = mu.data_mesh()
    after = unlearn(mesh, os.path.join(directory, "run"), int(stop) if process == "1" else 0)
    store = Store(os.path.join(directory, "model"))
    divided = mu.shard_params(after, mesh, axis="data", smallest=1)
    store.swap(store.publish(divided, method="ssd, finetune"))
    jax.distributed.shutdown()


if __name__ == "__main__":
    work(*sys.argv[1:])
