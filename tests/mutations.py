"""Does the quick suite notice a broken library? `make mutations` breaks it in ten places.

Each mutation replaces one text in a copy of the checkout and runs the quick tests of the rooms
that mirror the file, up to the first failure. Exit code 1 if one survives.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("mu_jax", "experiments", "launch_tpu", "benchmarks", "tests", "docs")
UNTOUCHED = shutil.ignore_patterns("__pycache__", ".*_cache")


class Mutation(NamedTuple):
    """A text of a file that is replaced, and where the tests are that should notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "an edit of the wrong sign",
        "mu_jax/edits.py",
        "(xp.minimum(beta, upper) - 1) * wide",
        "(1 - xp.minimum(beta, upper)) * wide",
        ("tests/test_edits.py", "tests/transforms/test_ssd.py"),
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
        "params = _choose(mask, optax.apply_updates(params, updates), params)",
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
        "mu_jax/transforms/iau.py",
        "def unlearn(key: jax.Array, variables: PyTree, forget: Any, retain: Any):",
        "def unlearn(key: jax.Array, variables: PyTree, retain: Any, forget: Any):",
        ("tests/transforms/test_iau.py", "tests/transforms/test_iau_golden.py"),
    ),
    Mutation(
        "forgotten ids return to the retain set",
        "mu_jax/store/lineages.py",
        "return forget, forget_retain.split(retain, back)[1] if back.size else retain",
        "return forget, retain",
        ("tests/store",),
    ),
)


def broken(mutation: Mutation, text: str) -> str:
    """The file's text after the mutation; an error if the old one is not there exactly once."""
    found = text.count(mutation.old)
    if found != 1:
        raise SystemExit(
            f"expected {mutation.old!r} once in {mutation.file}, found it {found} times: "
            f"bring the mutation {mutation.name!r} up to date in tests/mutations.py"
        )
    return text.replace(mutation.old, mutation.new)


def copy(checkout: Path) -> None:
    for name in COPIED:
        shutil.copytree(ROOT / name, checkout / name, ignore=UNTOUCHED)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, checkout / name)


def tested(tests: tuple[str, ...], checkout: Path) -> tuple[int, str, float]:
    """Exit code of the quick tests, what they print, and their seconds."""
    start = time.monotonic()
    environment = {
        **os.environ,
        "PYTHONPATH": str(checkout),
        "PYTHONDONTWRITEBYTECODE": "1",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "jax"),
    }
    command = [sys.executable, "-m", "pytest", "-x", "--tb=line", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr, time.monotonic() - start


def row(mutation: Mutation) -> tuple[bool, str]:
    """Whether the quick tests notice a mutation, and a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder)
        copy(checkout)
        path = checkout / mutation.file
        path.write_text(broken(mutation, path.read_text()))
        code, output, seconds = tested(mutation.tests, checkout)
    test = re.search(r"^FAILED (.+?)(?: - .*)?$", output, re.MULTILINE)
    if code == 0:
        found = "**survived**"
    elif code == 1 and test:
        found = f"`{test[1].removeprefix('tests/')}`"
        require_passing(test[1])
    else:
        raise SystemExit(f"expected tests to pass or fail, found exit code {code}:\n{output}")
    return code != 0, f"| {mutation.name} | `{mutation.file}` | {found} | {seconds:.0f} |"


def require_passing(test: str) -> None:
    """A test that fails on the library as it is has noticed nothing."""
    code, output, _ = tested((test,), ROOT)
    if code:
        raise SystemExit(
            f"expected {test} to pass before the mutation, found that it fails:\n{output}"
        )


def main(only: list[str]) -> int:
    """The table, of all mutations or of those whose name contains one of these words."""
    chosen = [m for m in MUTATIONS if not only or any(word in m.name for word in only)]
    for mutation in chosen:  # before the first minute is spent
        broken(mutation, (ROOT / mutation.file).read_text())
    print("| mutation | file | test that fails first | seconds |\n|---|---|---|---|")
    noticed = []
    for mutation in chosen:
        found, text = row(mutation)
        noticed.append(found)
        print(text, flush=True)
    return 0 if all(noticed) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
