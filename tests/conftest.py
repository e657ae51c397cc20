"""Settings of every test, and which cases of a test are quick.

Eight CPU devices, a compilation cache, warnings as errors. Programs are compiled fast, not
optimized, except where tests that are slow run alone: some of those measure speed.
"""

import fnmatch
import gc
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "jax"
# Linux gives a process 65,530 memory maps, and every compiled program takes some.
MOST_MAPS = 40_000
# Three quarters of the compilation time goes; results change in the last bits only.
COMPILE_FAST = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_configure(config):
    if config.option.markexpr.startswith("not slow"):
        os.environ.setdefault("XLA_FLAGS", COMPILE_FAST)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks cases slow that `quick` does not name; keeps what shares programs in one process."""
    for item in items:
        patterns = [pattern for mark in item.iter_markers("quick") for pattern in mark.args]
        if patterns and not any(fnmatch.fnmatch(item.callspec.id, each) for each in patterns):
            item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.xdist_group(group(item)))
    items.sort(key=place)


def group(item):
    """A method for the laws, so that these share its programs; else the file."""
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")
    if case is not None and item.path.parent.name == "contract":
        return f"laws of {case.factory.__name__}"
    return item.path.relative_to(ROOT).as_posix()


def place(item):
    """Laws together, by method; all else where it was."""
    name = group(item)
    return name if name.startswith("laws of") else ""


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # or every later collection looks at all modules again


@pytest.fixture(autouse=True, scope="module")
def drop_programs():
    """Drop the compiled programs when there are many."""
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MOST_MAPS:
        import jax

        jax.clear_caches()
