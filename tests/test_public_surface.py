"""The public names: documented, with the signatures that others call, and cheap to import."""

from __future__ import annotations

import ast
import configparser
import fnmatch
import graphlib
import importlib
import inspect
import json
import subprocess
import sys
import types
from pathlib import Path

import optax
import pytest

import mu_jax as mu

ROOT = Path(mu.__file__).parent
SUBPACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def public_names(module):
    names = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
    return [n for n in names if not isinstance(getattr(module, n), types.ModuleType)]


def public_objects():
    for name in ["", *SUBPACKAGES, "evaluation.language", "datasets.language"]:
        module = importlib.import_module(f"mu_jax.{name}".rstrip("."))
        for attribute in public_names(module):
            yield pytest.param(getattr(module, attribute), id=f"{module.__name__}.{attribute}")


def assert_documented(thing, name):
    text = inspect.getdoc(thing) or ""
    assert not text.startswith(f"{name}("), f"{name} has the docstring of its NamedTuple only"
    lines = text.splitlines()
    assert lines and (len(lines) > 1 or text.endswith(".")), f"{name} says {text!r}"


@pytest.mark.parametrize("thing", public_objects())
def test_every_public_name_is_documented(thing):
    if not callable(thing) or not getattr(thing, "__module__", "").startswith("mu_jax"):
        return
    assert_documented(thing, thing.__name__)
    if not inspect.isclass(thing):
        return
    for name, member in vars(thing).items():
        is_method = isinstance(member, types.FunctionType) and member.__name__ == name
        if (is_method or isinstance(member, property)) and not name.startswith("_"):
            assert_documented(member, name)


@pytest.mark.parametrize("name", SUBPACKAGES)
def test_every_package_says_what_is_in_it(name):
    module = importlib.import_module(f"mu_jax.{name}")
    assert module.__doc__
    assert len(module.__all__) == len(set(module.__all__)) > 0


MODEL = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
SIGNATURES = {
    "Variables": "params, state=()",
    "from_function": "predict, loss",
    "from_linen": "module, loss",
    "from_nnx": "module, loss",
    "batches": "inputs, targets, *, batch_size, weight=None, index=None",
    "split": "data, forget_ids",
    "collect": "statistic, variables, batches",
    "statistics.mean_gradient": "model",
    "statistics.importance": "model, definition='per_example', group_size=None",
    "edits.dampen": "params, forget_importance, full_importance, *, alpha, dampening",
    "ssd": "model, alpha, dampening=1.0, *, definition='per_example', full_importance=None",
    "iau": "model, optimizer",
    "dmm": "model",
    "blindspot": "model",
    "retrain": "model",
    "finetune": "model",
    "gradient_ascent": "model",
    "magnitude_prune": "model",
    "evaluation.margins": "logits, labels",
    "evaluation.klom": "oracle_margins, unlearned_margins, *, preset=None",
}
CALLS = {  # as in the first example of the guide, arguments by name
    "ssd": "alpha, dampening",
    "iau": "optimizer",
    "dmm": "attribution, optimizer",
    "blindspot": "init, optimizer, teacher_epochs, epochs",
    "finetune": "optimizer, epochs",
    "from_linen": "loss",
    "from_nnx": "loss",
}


def look_up(name):
    thing = mu
    for part in name.split("."):
        thing = getattr(thing, part)
    return thing


@pytest.mark.parametrize("name", SIGNATURES)
def test_fixed_signatures(name):
    wanted = eval(f"lambda {SIGNATURES[name]}: None")  # a signature read as one
    wanted = list(inspect.signature(wanted).parameters.values())
    found = inspect.signature(look_up(name)).parameters
    leading = [p.name for p in wanted if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert list(found)[: len(leading)] == leading
    for parameter in wanted:
        assert found[parameter.name].kind is parameter.kind
        if parameter.default is not inspect.Parameter.empty:
            assert found[parameter.name].default == parameter.default


@pytest.mark.parametrize("name", CALLS)
def test_arguments_that_are_given_by_name(name):
    found = inspect.signature(look_up(name)).parameters
    assert set(CALLS[name].split(", ")) <= set(found)


def test_the_parts_of_a_statistic():
    statistic = mu.statistics.importance(MODEL)
    assert list(inspect.signature(statistic.init).parameters) == ["variables"]
    assert list(inspect.signature(statistic.update).parameters) == ["acc", "variables", "batch"]
    assert list(inspect.signature(statistic.finalize).parameters) == ["acc"]
    fields = set(inspect.signature(mu.Accumulator).parameters)
    assert {"sum", "weight"} <= fields and isinstance(mu.Accumulator.value, property)


def test_a_transform_is_called_with_key_variables_forget_retain():
    tune = mu.finetune(MODEL, optax.sgd(0.1))
    for transform in (tune, mu.ssd(MODEL, 2.0), mu.chain(tune), mu.scaled(tune, 0.5)):
        parameters = list(inspect.signature(transform).parameters)
        assert parameters == ["key", "variables", "forget", "retain"]


HEAVY = ("tensorflow", "tensorflow_datasets", "orbax", "grain", "sklearn", "rich", "altair")
HEAVY += ("sqlalchemy", "cryptography")


def modules_after(statement):
    code = f"{statement}\nimport json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stdout)}


def test_importing_the_package_imports_nothing_heavy():
    assert modules_after("import mu_jax") & set(HEAVY) == set()


def test_subpackages_load_when_touched():
    loaded = "import sys, mu_jax; print([n for n in {names} if 'mu_jax.' + n in sys.modules])"
    lazy = ["attribution", "datasets", "ensembles", "evaluation", "models", "probes", "reporting"]
    lazy += ["plots", "scoring", "service", "tuning"]
    code = loaded.format(names=lazy)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    for name in SUBPACKAGES:
        assert getattr(mu, name) is importlib.import_module(f"mu_jax.{name}")
    assert mu.checkpoints is mu.store
    assert mu.task_vector is mu.task_negation


def test_the_wheel_installs_the_library_alone():
    configuration = configparser.ConfigParser()
    assert configuration.read(ROOT.parent / "setup.cfg")
    include = configuration["options.packages.find"]["include"].split()
    folders = {path.parent.relative_to(ROOT.parent) for path in ROOT.parent.rglob("*.py")}
    packages = {".".join(folder.parts) for folder in folders} - {""}
    installed = {name for name in packages if any(fnmatch.fnmatch(name, p) for p in include)}
    assert installed == {name for name in packages if name.partition(".")[0] == "mu_jax"}
    assert {"mu_jax", "mu_jax.store", "mu_jax.statistics._engine"} <= installed


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nosuch"):
        mu.nosuch  # noqa: B018


WITHOUT_EXTRAS = """
import sys
optional = "array_record grain ml_collections pyarrow sklearn PIL tensorflow_datasets"
sys.modules.update(dict.fromkeys(optional.split()))
import jax, jax.numpy as jnp, optax, mu_jax as mu
model = mu.from_function(lambda w, state, x: x @ w, optax.squared_error)
data = mu.batches(jnp.eye(4), jnp.arange(4.0), batch_size=2)
after, _ = mu.ssd(model, 1.5)(jax.random.key(0), mu.Variables(jnp.ones(4)), *mu.split(data, [3]))
print(after.params.tolist())
for name, touch in dict(
    datasets=lambda: mu.datasets.load("digits"),
    evaluation=lambda: mu.evaluation.loss_mia(jnp.arange(40.0), jnp.arange(40.0) + 1, seed=0),
    streams=lambda: list(mu.stream([(jnp.ones(2), 0)] * 4, batch_size=2)),
).items():
    try:
        touch()
    except ModuleNotFoundError as error:
        print(f"mu_jax[{name}]" in str(error), error)
"""


def test_the_core_runs_without_the_extras_and_says_which_one_is_missing():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS], capture_output=True, text=True, timeout=120
    )
    params, *missing = done.stdout.splitlines() or [done.stderr]
    assert json.loads(params) == [1.0, 1.0, 1.0, 0.25], done.stderr
    assert [line.split()[0] for line in missing] == ["True"] * 3, done.stdout + done.stderr


def test_no_subpackage_imports_tensorflow():
    statement = "import " + ", ".join(f"mu_jax.{name}" for name in SUBPACKAGES)
    assert "tensorflow" not in modules_after(statement)


FLOORS = (
    {
        "_version",
        "_arguments",
        "_callables",
        "_extras",
        "_files",
        "_named_arrays",
        "_json",
        "_gguf",
        "_gguf_tokenizer",
        "_target",
        "_nnx",
        "_objects",
        "_paths",
        "_progress",
        "_tracing",
        "_words",
        "_at_once",
        "data",
        "losses",
        "projected",
        "token_losses",
        "model",
        "freezing",
        "reparameterized",
        "datasets",
        "evaluation",
    },
    {"loops", "mesh", "models"},
    {"store"},  # stands on arrays and the loop alone, so that ensembles and versions are kept alike
    {"statistics", "objectives", "edits", "merging", "adapters", "entries", "pruning"},
    {"solvers"},
    {"attribution"},
    {"transforms"},
    {"combinators", "exact", "subspaces", "ensembles", "probes", "suppression"},
    {"reporting"},
    {"scoring"},
    {"tuning"},
    {"plots"},
    {"page"},
    {"service"},
)
ALONE = {"evaluation", "datasets", "models", "losses"}
NOT_ALONE = (
    "mu_jax.models.decoder",  # makes a `Model`, and reads its arrays onto a mesh
    "mu_jax.datasets.language",  # makes `Batches`
)
IDS = {f"mu_jax.data.{name}" for name in ("ids", "id_text", "id_table")}


def module_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for path in ROOT.rglob("*.py")}


def imports_of(path):
    """Modules of this package that a file imports anywhere: in functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text())):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in found:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield name


def unit(module):
    return module.split(".")[1]


def floor(module):
    for number, members in enumerate(FLOORS):
        if unit(module) in members:
            return number
    raise AssertionError(f"give {unit(module)} a floor in FLOORS")


def test_a_file_of_a_family_is_a_method_of_its_name():
    files = [name.rpartition(".") for name in MODULES if name.count(".") == 3]
    families = {f"mu_jax.transforms.{family}" for family in ("general", "language")}
    methods = {name for room, _, name in files if room in families}
    public = {n for n in mu.transforms.__all__ if inspect.isfunction(getattr(mu.transforms, n))}
    assert methods == public
    assert {"npo", "rmu"} < mu.transforms.LANGUAGE < methods


LOWER = sorted(name for name in MODULES if name != "mu_jax")


@pytest.mark.parametrize("module", LOWER)
def test_imports_run_downwards(module):
    for imported in imports_of(MODULES[module]):
        assert imported != "mu_jax", f"{module} imports the roof"
        assert floor(imported) <= floor(module), f"{module} imports {imported} above it"
        if unit(module) in ALONE and not module.startswith(NOT_ALONE):
            shared = {"_at_once", "_extras", "_files", "_json", "_progress", "_target", "projected"}
            own = unit(imported) in {unit(module), *shared}
            assert own or imported in IDS, f"{module} does not stand alone"


def test_no_imports_run_in_a_circle():
    graph = {name: set(imports_of(path)) - {name} for name, path in MODULES.items()}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


def test_the_walk_sees_imports():
    """The tests above could not fail if it saw none."""
    assert "mu_jax.loops.scan" in set(imports_of(MODULES["mu_jax.loops.fit"]))
    assert "mu_jax.model" in set(imports_of(MODULES["mu_jax.statistics.collecting"]))
    assert len(LOWER) > 40
