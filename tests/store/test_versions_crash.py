from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mu_jax.store import pointers
from mu_jax.store.versions import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


WRITER = textwrap.dedent(
    """
    import sys
    import jax.numpy as jnp
    from mu_jax.store.versions import Store

    store = Store(sys.argv[1])
    print("ready", flush=True)
    for _ in range(int(sys.argv[2])):
        last = store.history()[-1].version
        value = 1.0 + last
        version = store.publish({"w": jnp.full((64, 64), value)}, method="m", note=str(value))
        store.swap(version)
        if version % 3 == 0:
            store.roll_back()
        if version % 4 == 0:
            store.prune(keep=2)
    """
)


def start_writer(directory: Path, rounds: int) -> subprocess.Popen:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", WRITER, str(directory), str(rounds)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=root, env=environment
    )
    assert process.stdout.readline() == b"ready\n"
    return process


def assert_store_is_sound(store: Store) -> None:
    like = {"w": jnp.zeros((64, 64))}
    for each in store.history():
        if each.restorable:
            restored = store.restore(each.version, like=like)["w"]
            np.testing.assert_array_equal(restored, float(each.note))
    pointer = pointers.read_pointer(store._pointer)
    assert {pointer["version"], pointer["previous"]} - {None} <= {
        each.version for each in store.history() if each.restorable
    }


@pytest.mark.slow
def test_kill_at_any_moment_leaves_the_store_readable(store):
    store.swap(store.publish({"w": jnp.ones((64, 64))}, method="m", note="1.0"))
    moments = random.Random(0)
    for _ in range(6):
        process = start_writer(store.directory, 10_000)
        published = len(store.history())
        while len(store.history()) == published:
            assert process.poll() is None
        deadline = time.monotonic() + moments.uniform(0.0, 1.0)
        while time.monotonic() < deadline:
            assert store.serving() is not None
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        assert_store_is_sound(store)
    before = len(store.history())
    assert before >= 7
    assert store.publish({"w": jnp.ones((64, 64))}, method="m", note="1.0") == before + 1
    names = [path.name for path in (store.directory / "versions").iterdir()]
    assert all(name.isdigit() for name in names)


@pytest.mark.slow
def test_two_processes_publish_into_one_store(store):
    store.swap(store.publish({"w": jnp.ones((64, 64))}, method="m", note="1.0"))
    processes = [start_writer(store.directory, 8) for _ in range(2)]
    while any(process.poll() is None for process in processes):
        assert store.serving() is not None
    for process in processes:
        process.stdout.close()
    assert [process.returncode for process in processes] == [0, 0]
    assert [each.version for each in store.history()] == list(range(1, 18))
    assert_store_is_sound(store)


HOST = textwrap.dedent(
    """
    import sys
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import NamedSharding, PartitionSpec as P

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", 2, int(sys.argv[3]))
    from mu_jax.store.versions import Store
    from mu_jax.store.run_state import clear, latest_state, save_state

    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    kernel = jax.make_array_from_callback((4, 2), rows, lambda i: np.arange(8.0).reshape(4, 2)[i])
    variables = {"kernel": kernel, "key": jax.random.key(1), "step": jnp.int32(3)}
    store = Store(sys.argv[1])
    for _ in range(3):
        store.swap(store.publish(variables, method="train"))
    assert store.roll_back() == 2
    assert store.prune(keep=0) == [1, 3], store.history()
    like = {**variables, "kernel": jax.ShapeDtypeStruct((4, 2), jnp.float32, sharding=whole)}
    restored = store.restore(like=like)
    np.testing.assert_array_equal(np.asarray(restored["kernel"]), np.arange(8.0).reshape(4, 2))
    assert int(restored["step"]) == 3 and restored["key"] == variables["key"]
    bad = jax.make_array_from_callback((2,), rows, lambda i: np.array([1.0, np.nan])[i])
    try:
        store.publish({"kernel": bad}, method="train")
    except ValueError as error:
        assert "infinity at 'kernel'" in str(error)
    else:
        raise AssertionError("published NaN")
    for step in (1, 2):
        save_state(sys.argv[1] + "/run", step, variables)
    assert latest_state(sys.argv[1] + "/run", variables).step == 2
    clear(sys.argv[1] + "/run")
    assert latest_state(sys.argv[1] + "/run", variables) is None
    print("good", flush=True)
    jax.distributed.shutdown()
    """
)


@pytest.mark.multiprocess
def test_two_hosts_publish_and_restore_sharded(store):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", HOST, str(store.directory), port, str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=Path(__file__).parents[1],
            text=True,
        )
        for index in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=90)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all("good" in output for output in outputs), "\n".join(outputs)
