"""Settings of every test: eight CPU devices, a compilation cache, warnings as errors."""

import os
from pathlib import Path

import pytest

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "jax"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


@pytest.fixture(autouse=True, scope="module")
def drop_programs():
    """Drop the compiled programs of each file: Linux gives a process 65,530 memory maps."""
    yield
    import jax

    jax.clear_caches()
