"""Does the quick suite notice a broken library? `make mutations` breaks it, one text at a time.

Each mutation replaces one text in a copy of the checkout and runs quick tests, up to the first
failure: here those of the rooms that mirror the file, in the tables of `promises` the very test
that holds a promise. Exit code 1 if one survives.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from promises import Mutation
from promises.computing import COMPUTING
from promises.deleting import DELETING
from promises.evaluating import EVALUATING
from promises.holding import HOLDING
from promises.saying import SAYING
from promises.serving import SERVING

ROOT = Path(__file__).resolve().parents[1]
JOBS = min(os.cpu_count() or 1, 4)  # mutations at a time; a job takes about 2 GB
FOLDERS = ("mu_jax", "experiments", "launch_tpu", "benchmarks", "examples", "tests", "docs")
FILES = ("pyproject.toml", "setup.cfg", "README.md")
UNTOUCHED = shutil.ignore_patterns("__pycache__", ".*_cache")
# A test that fails by one of these did not run the mutation: its text is no program.
CARELESS = ("NameError", "SyntaxError", "IndentationError", "ImportError", "UnboundLocalError")
FAILED = re.compile(r"^FAILED (.+?)(?: - (.*))?$", re.MULTILINE)

MUTATIONS = (
    Mutation(
        "an edit of the wrong sign",
        "mu_jax/edits.py",
        "(xp.minimum(beta, upper) - 1) * wide",
        "(1 - xp.minimum(beta, upper)) * wide",
        ("tests/test_edits.py", "tests/transforms/general/test_ssd.py"),
    ),
    Mutation(
        "devices' sums are not added",
        "mu_jax/statistics/over_mesh.py",
        "return jax.lax.psum(x, axis_names(own[0] or ()))[0]",
        "return jax.lax.pmax(x, axis_names(own[0] or ()))[0]",
        ("tests/mesh", "tests/statistics"),
    ),
    Mutation(
        "padding counts",
        "mu_jax/data/rows.py",
        "xp.where(valid, weight, 0)",
        "weight",
        ("tests/data",),
    ),
    Mutation(
        "restrict ignores its mask",
        "mu_jax/freezing.py",
        "lambda p, _: choose(path_name(p)), params)",
        "lambda p, _: choose(path_name(p)) or True, params)",
        ("tests/test_restrict.py", "tests/test_model.py"),
    ),
    Mutation(
        "weight decay moves frozen entries",
        "mu_jax/loops/fit.py",
        "params = update_masks.choose(mask, optax.apply_updates(params, updates), params)",
        "params = optax.apply_updates(params, updates)",
        ("tests/test_update_mask.py", "tests/loops"),
    ),
    Mutation(
        "a resumed run repeats a step",
        "mu_jax/store/resuming.py",
        "carry, position = found.tree, found.step",
        "carry, position = found.tree, found.step - 1",
        ("tests/store/test_resuming.py",),
    ),
    Mutation(
        "squares of sums, not sums of squares",
        "mu_jax/statistics/importance.py",
        "return reduce(group_losses, params, groups, weight), total_weight(weight)",
        "grad = jax.grad(lambda p: weighted_sum(group_losses(p, groups), weight))(params)\n"
        "        return jax.tree.map(jnp.square, grad), total_weight(weight)",
        ("tests/statistics",),
    ),
    Mutation(
        "the same order in every epoch",
        "mu_jax/loops/scan.py",
        "return batches.order(jax.random.fold_in(key, epoch))",
        "return batches.order(key)",
        ("tests/loops",),
    ),
    Mutation(
        "forget and retain set swapped",
        "mu_jax/transforms/general/iau.py",
        "def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):",
        "def unlearn(key: jax.Array, variables: PyTree, retain: Any, forget: Any):",
        ("tests/transforms/general/test_iau.py", "tests/transforms/general/test_iau_golden.py"),
    ),
    Mutation(
        "forgotten ids return to the retain set",
        "mu_jax/store/lineages.py",
        "return forget, forget_retain.split(retain, back)[1] if back.size else retain",
        "return forget, retain",
        ("tests/store",),
    ),
)

EVERY = (*MUTATIONS, *DELETING, *COMPUTING, *EVALUATING, *HOLDING, *SAYING, *SERVING)


def stale(mutation: Mutation) -> str:
    """What is wrong with a mutation itself, "" if nothing is."""
    found = (ROOT / mutation.file).read_text().count(mutation.old)
    if found != 1:
        return (
            f"expected {mutation.old!r} once in {mutation.file}, found it {found} times: bring the "
            f"mutation {mutation.name!r} up to date"
        )
    for test in mutation.tests:
        path, _, name = test.partition("::")
        function = f"def {name.partition('[')[0]}("
        if not (ROOT / path).exists() or (name and function not in (ROOT / path).read_text()):
            return f"expected the test {test} of the mutation {mutation.name!r}, found none"
    return ""


def chosen(only: list[str]) -> list[Mutation]:
    """All mutations, or those with one of these words in their name or their file."""
    return [m for m in EVERY if not only or any(word in m.name + m.file for word in only)]


@contextlib.contextmanager
def checkout() -> Iterator[Path]:
    """A copy of the checkout, for the time of the block."""
    with tempfile.TemporaryDirectory() as folder:
        for name in FOLDERS:
            shutil.copytree(ROOT / name, Path(folder, name), ignore=UNTOUCHED)
        for name in FILES:
            shutil.copy(ROOT / name, Path(folder, name))
        yield Path(folder)


@contextlib.contextmanager
def applied(mutation: Mutation, folder: Path) -> Iterator[None]:
    """The mutation in a copy of the checkout, for the time of the block."""
    path = folder / mutation.file
    before = path.read_text()
    path.write_text(before.replace(mutation.old, mutation.new))
    try:
        yield
    finally:
        path.write_text(before)


def outcome(tests: Iterable[str], folder: Path, *options: str) -> tuple[int, str]:
    """Exit code of the quick tests and what they print."""
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "COLUMNS": "300",
    }
    command = [sys.executable, "-m", "pytest", "--tb=line", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        [*command, *tests], cwd=folder, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def noticed(mutation: Mutation, folder: Path) -> tuple[str, str]:
    """The quick test that fails first with the mutation, "" if none does, and how it fails."""
    with applied(mutation, folder):
        code, output = outcome(mutation.tests, folder, "-x")
    if code == 0:
        return "", "**survived**"
    failed = FAILED.search(output)
    if code != 1 or failed is None:
        return "", f"**exit code {code}**: {output.strip().splitlines()[-1]}"
    how = (failed[2] or "")[:80].strip().replace("|", "\\|")
    if how.startswith(CARELESS):
        return "", f"**no program**: {how}"
    return failed[1], how


def failing(tests: Iterable[str]) -> list[str]:
    """Those of the tests that fail on the library as it is, and have noticed nothing."""
    with checkout() as folder:
        code, output = outcome(sorted(set(tests)), folder)
    found = [failed[1] for failed in FAILED.finditer(output)]
    return found if code in (0, 1) else [f"exit code {code}: {output.strip().splitlines()[-1]}"]


def in_order(mutations: list[Mutation]) -> Iterator[tuple[Mutation, str, str, float]]:
    """Each mutation with what `noticed` says and its seconds, several at a time."""
    with contextlib.ExitStack() as stack:
        free: queue.Queue[Path] = queue.Queue()
        for _ in range(min(JOBS, len(mutations))):
            free.put(stack.enter_context(checkout()))

        def tried(mutation: Mutation) -> tuple[Mutation, str, str, float]:
            folder, start = free.get(), time.monotonic()
            try:
                return mutation, *noticed(mutation, folder), time.monotonic() - start
            finally:
                free.put(folder)

        with ThreadPoolExecutor(JOBS) as pool:
            yield from pool.map(tried, mutations)


def main(only: list[str]) -> int:
    """Print the table; the exit code is 1 if a mutation survives or is out of date."""
    mutations = chosen(only)
    wrong = [text for text in map(stale, mutations) if text]
    if not mutations:
        wrong = [f"expected words of a mutation, found {only}: see tests/promises"]
    print("| broken | file | test that fails first | how | seconds |\n|---|---|---|---|---|")
    found = []
    for mutation, test, how, seconds in in_order([m for m in mutations if not stale(m)]):
        name = f"`{test.removeprefix('tests/')}`" if test else "-"
        cells = (mutation.name, f"`{mutation.file}`", name, how, f"{seconds:.0f}")
        print(f"| {' | '.join(cells)} |", flush=True)
        found += [test] if test else []
    bad = failing(found) if found else []
    wrong += [f"expected {test} to pass without a mutation, found that it fails" for test in bad]
    print("\n".join(["", f"{len(found)} of {len(mutations)} noticed", *wrong]))
    return 1 if wrong or len(found) < len(mutations) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
