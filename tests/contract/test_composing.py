"""`jit`, and `vmap` over keys, models and numbers: one trace, the same answer."""

import inspect

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipes import ARGUMENTS, WAYS, cases, compiled, every
from trees import assert_close, snapshot, stack

import mu_jax as mu
from mu_jax.data.tokens import parts_of
from mu_jax.loops.labels import counted

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)


class Traces:
    """Counts how often a function is traced or run in Python."""

    def __init__(self, function):
        self.count, self._function = 0, function

    def __call__(self, *args):
        self.count += 1
        return self._function(*args)


@pytest.fixture
def compilations():
    """The names of the events of compilation since the start of the test."""
    events, active = [], [True]

    def listen(event, duration, **kwargs):
        if active and "backend_compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    active.clear()


def numbers(case):
    """The parameters of a transform that say that they may be arrays, and are numbers here."""
    found = inspect.signature(case.factory).parameters.items()
    arrays = [name for name, p in found if "jax.Array | float" in str(p.annotation)]
    return [name for name in arrays if name in ARGUMENTS and name not in dict(case.changes)]


@pytest.mark.quick(*WAYS, "ssd-adaptive", some_methods=True)
@every()
def test_jit_equals_eager_and_a_second_call_compiles_nothing(case, compilations):
    chosen = case.setting("raw")
    given = [
        (jax.random.key(seed), chosen.init(jax.random.key(seed)), *chosen.sets(seed=seed))
        for seed in range(2)
    ]
    expected = case.build(chosen)(*given[0])
    assert_close(compiled(case, "raw")(*given[0]), expected)
    del compilations[:]
    other = compiled(case, "raw")(*given[1]), case.build(chosen)(*given[1])
    assert not compilations
    assert_close(*other)


@pytest.mark.quick("ssd", "finetune", "scrub", "dmm", some_methods=True)
@every(variants="none")
def test_losses_before_and_after_are_there_by_default_and_change_nothing_else(case):
    chosen = case.setting("raw")
    given = (KEY, chosen.variables, *chosen.sets())
    expected, plain = case.build(chosen)(*given)
    after, info = case.watched(chosen)(*given)
    assert_close((after, info), (expected, plain), rtol=0, atol=0)
    assert plain.effect == ()
    assert jax.eval_shape(case.watched(chosen), *given)[1].effect == ()
    forget = given[2]
    answers = (parts_of(part)[-1] for part in (forget.inputs, forget.targets))
    whole = mu.Batch(*answers, forget.weight, forget.index)
    weight = counted(chosen.model, whole).weight
    for found, variables in zip(info.effect.forget.loss, (chosen.variables, after)):
        expected = np.average(chosen.model.losses(variables, whole), weights=weight)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert info.effect.retain.weight.shape == whole.weight.shape


def test_a_compilation_would_be_seen(compilations):
    jax.jit(lambda x: x + 1)(jnp.ones(3))
    assert compilations


@pytest.mark.quick("ssd", "iau", "finetune", "scrub", "blindspot", "dmm", some_methods=True)
@every(variants="slow")
def test_vmap_over_an_ensemble_equals_the_loop_in_one_trace(case):
    chosen, one = case.setting("raw"), compiled(case, "raw")
    traces = Traces(case.build(chosen))
    members = [chosen.init(key) for key in jax.random.split(KEY, 16)]
    keys = jax.random.split(KEY, 16)
    sets = chosen.sets()
    many = jax.jit(jax.vmap(traces, in_axes=(0, 0, None, None)))(keys, stack(members), *sets)
    assert traces.count == 1
    assert_close(many, stack([one(key, v, *sets) for key, v in zip(keys, members)]))


@pytest.mark.parametrize(
    ("case", "parameter"),
    [(case, p) for case in cases().values() for p in numbers(case)],
    ids=[f"{name}-{p}" for name, case in cases().items() for p in numbers(case)],
)
def test_every_number_counts(case, parameter):
    chosen = case.setting("raw")
    given = (KEY, chosen.variables, *chosen.sets())
    values = [factor * ARGUMENTS[parameter](chosen) for factor in (0.8, 1.2)]
    found = [case.build(chosen, **{parameter: value})(*given)[0] for value in values]
    first, second = (jax.tree.leaves(snapshot(variables)) for variables in found)
    assert any(np.any(a != b) for a, b in zip(first, second, strict=True))


def scaled(case, scale):
    """The arguments of a transform that may be traced, multiplied by `scale`."""
    chosen = case.setting("raw")
    changes = {name: scale * ARGUMENTS[name](chosen) for name in numbers(case)}
    return changes | ({"optimizer": optax.sgd(0.1 * scale)} if case.takes("optimizer") else {})


@pytest.mark.quick(*WAYS, some_methods=True)
@every(variants="slow")
def test_vmap_over_keys_and_all_numbers_equals_the_loop_and_leaves_no_tracer(case):
    chosen = case.setting("raw")
    given = (chosen.variables, *chosen.sets())
    unlearn = Traces(lambda key, scale: case.build(chosen, **scaled(case, scale))(key, *given))
    keys, scales = jax.random.split(KEY, 2), np.array([0.5, 1.1], np.float32)
    with jax.checking_leaks():
        found = jax.vmap(unlearn)(keys, scales)
    assert unlearn.count == 1
    assert_close(found, stack([unlearn(key, scale) for key, scale in zip(keys, scales)]))


@pytest.mark.quick("ssd", "finetune", some_methods=True)
@every(variants="slow")
def test_vmap_over_keys_and_all_numbers_under_jit(case):
    chosen = case.setting("raw")
    given = (chosen.variables, *chosen.sets())
    keys, scales = jax.random.split(KEY, 2), np.array([0.5, 1.1], np.float32)

    def unlearn(key, scale):
        return case.build(chosen, **scaled(case, scale))(key, *given)

    found = jax.jit(jax.vmap(unlearn))(keys, scales)
    assert_close(found, stack([unlearn(key, scale) for key, scale in zip(keys, scales)]))
