"""Two processes read, compute and write what one does.

The file is its own worker: `python test_decoder_processes.py PORT PROCESS DIRECTORY`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import checkpoints
import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from processes import finish, start

from mu_jax.models.decoder import read_decoder, write_decoder

ROWS = checkpoints.rows(4)


def work(port, process, directory):
    jax.distributed.initialize(f"localhost:{port}", 2, int(process))
    mesh = jax.make_mesh((2,), ("fsdp",))
    folder = Path(directory)
    for scan in (False, True):
        decoder, variables = read_decoder(folder / "model", mesh=mesh, scan_layers=scan)
        up = variables.params["blocks" if scan else "block_1"]["mlp"]["up"]
        assert 2 * up.addressable_shards[0].data.size == up.size
        rows = jax.make_array_from_process_local_data(
            NamedSharding(mesh, P("fsdp")), np.split(ROWS, 2)[jax.process_index()]
        )
        logits = jax.jit(decoder.logits)(variables.params, rows)
        found = multihost_utils.process_allgather(logits, tiled=True)
        write_decoder(folder / f"written_{scan}", decoder, variables)
        if jax.process_index() == 0:
            np.save(folder / f"{scan}.npy", found)


@pytest.mark.multiprocess
def test_two_processes_read_compute_and_write_what_one_does(tmp_path):
    checkpoints.write(tmp_path / "model", "qwen3", files=2)
    done = finish(start(__file__, str(tmp_path)), 120)
    assert all(code == 0 for _, code in done), "\n".join(text for text, _ in done)
    decoder, variables = read_decoder(tmp_path / "model")
    wanted = decoder.logits(variables.params, ROWS)
    for scan in (False, True):
        np.testing.assert_allclose(np.load(tmp_path / f"{scan}.npy"), wanted, atol=1e-4)
        again = read_decoder(tmp_path / f"written_{scan}")[1]
        jax.tree.map(np.testing.assert_array_equal, again, variables)


if __name__ == "__main__":
    work(*sys.argv[1:])
