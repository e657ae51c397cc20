"""No trace outlives its call: nothing that a transform caches holds a traced array."""

import ast
import inspect
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipes import ARGUMENTS, every
from small_models import setting
from test_composing import numbers
from trees import snapshot

import mu_jax as mu
from mu_jax.loops.gradients import micro_batches, sam

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)
OPTIMIZERS = {
    "sgd": optax.sgd,
    "adamw": lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate)),
}


def given(chosen=None):
    chosen = chosen or setting("raw")
    return KEY, chosen.variables, *chosen.sets()


@every()
def test_no_tracer_outlives_jit(case):
    with jax.checking_leaks():
        jax.eval_shape(jax.jit(case.build(case.setting("raw"))), *given(case.setting("raw")))


@pytest.mark.quick("*-adamw")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@every(variants="none")
def test_no_tracer_outlives_jit_and_vmap_over_hyper_parameters(case, optimizer):
    chosen = case.setting("raw")
    names = numbers(case)
    if not names and not case.takes("optimizer"):
        pytest.skip("takes no number that may be traced")

    arrays = given(chosen)

    def unlearn(scale):
        changes = {name: scale * ARGUMENTS[name](chosen) for name in names}
        if case.takes("optimizer"):
            changes["optimizer"] = OPTIMIZERS[optimizer](0.01 * scale)
        return case.build(chosen, **changes)(*arrays)[0]

    with jax.checking_leaks():
        jax.eval_shape(jax.jit(jax.vmap(unlearn)), np.array([0.9, 1.1], np.float32))


@pytest.mark.parametrize(
    "gradients",
    [
        lambda x: sam(0.1 * x),
        lambda x: mu.gradient_restriction(0.1 * x),
        lambda x: mu.gradient_restriction(0.1 * x, gradients=micro_batches(2)),
        lambda x: mu.loops.per_term(lambda g: optax.tree.scale(x, g["loss"])),
    ],
    ids=["sam", "restriction", "restriction in parts", "per term"],
)
def test_no_tracer_outlives_a_seam(gradients):
    model, arrays = setting("raw").model, given()

    def unlearn(x):
        return mu.finetune(model, optax.sgd(0.1), gradients=gradients(x))(*arrays)[0].params

    with jax.checking_leaks():
        found = snapshot(jax.vmap(unlearn)(np.array([0.5, 2.0], np.float32)))
    one = snapshot(unlearn(2.0))
    for many, alone in zip(jax.tree.leaves(found), jax.tree.leaves(one), strict=True):
        np.testing.assert_allclose(many[1], alone, rtol=1e-4, atol=1e-7)
        assert not np.allclose(many[0], alone)


def test_no_tracer_outlives_a_model_that_holds_one():
    sets = setting("raw").sets()

    def unlearn(temperature):
        model = mu.from_function(lambda w, state, x: x @ w / temperature, mu.losses.cross_entropy)
        start = mu.Variables(jnp.ones((5, 3)))
        transform = mu.masked(mu.finetune(model, optax.sgd(0.1)), lambda name: True)
        return transform(KEY, start, *sets)[0].params

    with jax.checking_leaks():
        jax.vmap(unlearn)(np.array([1.0, 2.0], np.float32))


def test_a_leak_would_be_seen():
    kept = []
    with pytest.raises(Exception, match="Leaked"), jax.checking_leaks():
        jax.vmap(lambda x: kept.append(x) or x)(np.ones(2))


# --- one model in scope ---


FUNCTIONS = (ast.FunctionDef, ast.Lambda)


def shadowing(source):
    """Functions inside a function that take a `model`, or that rebind the name."""
    for outer in ast.walk(ast.parse(source)):
        if not isinstance(outer, ast.FunctionDef) or "model" not in names_of(outer):
            continue
        functions = [node for node in ast.walk(outer) if isinstance(node, FUNCTIONS)]
        for inner in functions:
            if inner is not outer and "model" in names_of(inner):
                yield f"{outer.name}, line {inner.lineno}"


def names_of(function):
    arguments = function.args
    return {a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}


FILES = sorted(Path(inspect.getfile(mu.transforms)).parent.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_method_sees_one_model(path):
    if path.name == "transform.py":  # `method` itself runs a factory again for another model
        return
    assert list(shadowing(path.read_text())) == []


def test_a_second_model_would_be_seen():
    source = "def ssd(model):\n  def unlearn(model, key):\n    return model\n  return unlearn\n"
    assert list(shadowing(source)) == ["ssd, line 2"]


@every(variants="none")
def test_a_restricted_model_reaches_all_of_a_method(case):
    """The factory runs again with the model that the transform was given."""
    chosen = case.setting("raw")
    seen = []

    def watched(model):
        seen.append(model)
        return model

    transform = case.build(chosen).restricted(watched)
    assert transform.model is seen[0]
    free = inspect.getclosurevars(transform.method(transform.model)).nonlocals
    assert free["model"] is transform.model
