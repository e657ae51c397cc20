"""Settings of every test, and which cases of a test are quick.

Eight CPU devices, a compilation cache, warnings as errors. Programs are compiled fast, not
optimized, except where tests that are slow run alone: some of those measure speed.
"""

import collections
import fnmatch
import gc
import os
import re
from pathlib import Path

import pytest
from processes import COMPILE_FAST

# They have no examples, and as modules of examples they would have one name.
collect_ignore_glob = ["*conftest.py"]
ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "jax"
# Linux gives a process 65,530 memory maps, and every compiled program takes some.
MOST_MAPS = 40_000

# Examples in docstrings that compile for a second, of what tests and pages check as well.
# A new example is quick.
SLOW_EXAMPLES = (
    *("language-models.md", "guide.md", "masks-and-subspaces.md", "suppression.eco.eco"),
    *("quick-start.md", "own-model.md", "numbers.md", "choosing.md", "scaling.md"),
    *("models.decoder.decoder.Decoder", "tuning.tune.tune", "suppression.outliers.fit_familiarity"),
    *("attribution.lasso.lasso", "attribution.lds.lds", "attribution.trak.group_direction"),
    *("attribution.trak.trak", "evaluation.competition.forgetting_quality"),
    *("evaluation.divergence.pairwise_floor", "evaluation.klom.klom_floor"),
    *("evaluation.klom_check.*", "evaluation.klom_intervals.klom_difference"),
    *("evaluation.outliers.ensemble_distance", "evaluation.representation.linear_cka"),
    *("probes.relearning.relearning_curve", "probes.worst_case.worst_case_set"),
    *("solvers.kronecker.ekfac", "statistics.curvature.factors.kronecker_factors"),
    *("scoring.score.score", "statistics.projections.Projection"),
    *("solvers.diagonal.*", "solvers.lissa.*", "solvers.rank_one.*", "solvers.woodbury.woodbury"),
    "objectives.relabel.relabeled",
    *("transforms.*.bad_teacher.bad_teacher", "transforms.*.ce_u.ce_u"),
    *("transforms.*.code_eraser.code_eraser", "transforms.*.dmm.dmm", "transforms.*.dpo.dpo"),
    *("transforms.*.fisher_forgetting.fisher_forgetting", "transforms.*.grad_diff.grad_diff"),
    *("transforms.*.influence.influence", "transforms.*.laf.laf", "transforms.*.npo.npo"),
    *("transforms.*.ntk_scrub.ntk_scrub", "transforms.*.pdu.pdu"),
    *("transforms.*.random_labels.random_labels", "transforms.*.rmu.rmu"),
    *("transforms.*.salun.salun", "transforms.*.satimp.satimp", "transforms.*.scrub.scrub"),
    *("transforms.*.simnpo.simnpo", "transforms.*.task_negation.task_negation"),
    *("transforms.*.undial.undial", "transforms.*.unsir.unsir", "transforms.*.wga.wga"),
)

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads wait for each other, busily
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Programs do not say which lines they come from: a tenth of the time of tracing and lowering.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")


def pytest_configure(config):
    if config.option.markexpr.startswith("not slow"):
        os.environ.setdefault("XLA_FLAGS", COMPILE_FAST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keeps what shares programs and fixtures in one process; pages, one long test each, go first.

    The others come by their number of tests, where a page would be the last and be waited for.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return group(nodeid)

        def _assign_work_unit(self, node):
            page = next((name for name in self.workqueue if name.endswith(".md")), None)
            if page:
                self.workqueue.move_to_end(page, last=False)
            super()._assign_work_unit(node)

    return Groups(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks cases slow that `quick` does not name; laws of a method come one after another."""
    for item in items:
        if patterns(item) and not any(map(matches(item), patterns(item))):
            item.add_marker(pytest.mark.slow)
    mark_examples(items)
    if not any("::" in str(each) for each in config.args):  # else not all cases are here
        require_quick_cases(items)
    items.sort(key=lambda item: method(item) or "")


def mark_examples(items):
    """Marks the examples of `SLOW_EXAMPLES` slow."""
    for item in items:
        name = item.name.removeprefix("mu_jax.")
        is_slow = any(fnmatch.fnmatch(name, pattern) for pattern in SLOW_EXAMPLES)
        if isinstance(item, pytest.DoctestItem) and is_slow:
            item.add_marker(pytest.mark.slow)


def patterns(item):
    return [pattern for mark in item.iter_markers("quick") for pattern in mark.args]


def is_of_every_method(item):
    """Whether a law must be quick for every method: not with `quick(..., some_methods=True)`."""
    return not any(mark.kwargs.get("some_methods") for mark in item.iter_markers("quick"))


def matches(item):
    return lambda pattern: fnmatch.fnmatch(item.callspec.id, pattern)


def method(item):
    """The name of the method in a law; None elsewhere."""
    case = item.callspec.params.get("case") if hasattr(item, "callspec") else None
    return case.factory.__name__ if case and item.path.parent.name == "contract" else None


def group(nodeid):
    """A method for the laws, so that these share its programs; else the file."""
    file, _, test = nodeid.partition("::")
    if file.startswith("tests/contract/") and "[" in test:
        return "laws of " + re.split(r"[-\]]", test.partition("[")[2])[0]
    return file


def require_quick_cases(items):
    """Every pattern of `quick` names a case, and every law of methods is quick for every method."""
    tests = collections.defaultdict(list)
    for item in items:
        tests[item.path.name, getattr(item, "originalname", item.name)].append(item)
    for (file, name), cases in tests.items():
        lost = [p for p in patterns(cases[0]) if not any(matches(item)(p) for item in cases)]
        if is_of_every_method(cases[0]):
            quick = {method(item) for item in cases if not item.get_closest_marker("slow")}
            lost += sorted({method(item) for item in cases} - quick - {None})
        if lost:
            raise pytest.UsageError(
                f"expected quick cases of {name} in {file} for {', '.join(lost)}, found none: "
                "name them in pytest.mark.quick"
            )


def pytest_collection_finish():
    gc.collect()
    gc.freeze()  # or every later collection looks at all modules again


@pytest.fixture(autouse=True, scope="module")
def drop_programs():
    """Drop the compiled programs when there are many; never look again at the objects that stay.

    `jax.checking_leaks` collects garbage for every trace that is still alive.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_bytes().count(b"\n") > MOST_MAPS:
        import jax

        jax.clear_caches()
        gc.unfreeze()
    gc.collect()
    gc.freeze()
