"""What every transform shares: the check of its sets, and its report."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import EXAMPLES, FORGET_IDS, setting

import mu_jax as mu
from mu_jax.transforms._shared.transform import method, report

KEY = jax.random.key(0)
RAW = setting("raw")


def moving(change, sets=None, **options):
    """A transform that applies `change` to every parameter."""

    @method
    def factory(model):
        def unlearn(key, variables, forget, retain):
            after = model.with_params(variables, jax.tree.map(change, model.params(variables)))
            given = (forget, retain) if sets is None else sets
            return report(
                model, variables, after, given, **{"steps": 3, "example_passes": 7, **options}
            )

        return unlearn

    return factory(RAW.model)


def run(transform, *sets):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _, info = transform(KEY, RAW.variables, *(sets or RAW.sets()))
    return info, [str(warning.message) for warning in caught]


def test_a_sound_edit_says_nothing():
    info, said = run(moving(lambda x: 2 * x))
    assert said == info.messages() == []
    assert (info.steps, info.example_passes, info.overlap) == (3, 7, 0)
    assert (info.steps.dtype, info.example_passes.dtype) == (jnp.int32, jnp.float32)
    assert info.edit.changed == 1
    np.testing.assert_allclose(info.edit.update_norm, info.edit.params_norm, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [(lambda x: x, "Nothing was changed"), (lambda x: x / 0, "parameters are not finite")],
)
def test_a_no_op_and_a_blow_up_are_said_once(change, says):
    info, said = run(moving(change))
    assert said == info.messages()
    assert len(said) == 1
    assert says in said[0]


def test_the_warning_is_of_its_own_class():
    with pytest.warns(mu.UnlearningWarning, match="Nothing was changed"):
        moving(lambda x: x)(KEY, RAW.variables, *RAW.sets())


def test_messages_of_the_method_come_along():
    class Details(tuple):
        def messages(self):
            return ["The method has something to say."]

    info, said = run(moving(lambda x: 2 * x, details=Details()))
    assert said == info.messages() == ["The method has something to say."]


def test_under_jit_nothing_is_issued_and_info_tells():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, info = jax.jit(moving(lambda x: x))(KEY, RAW.variables, *RAW.sets())
    assert "Nothing was changed" in info.messages()[0]


def test_messages_of_many_results():
    changes = jnp.array([1.0, 2.0, jnp.inf])
    _, info = jax.vmap(lambda c: moving(lambda x: c * x)(KEY, RAW.variables, *RAW.sets()))(changes)
    assert len(info.messages()) == 2


@pytest.mark.filterwarnings("ignore:The forget set has")
@pytest.mark.parametrize("ids", [FORGET_IDS, [0], list(range(EXAMPLES - 1))])
def test_the_overlap_is_counted_under_jit(ids):
    data = RAW.data()
    forget, retain = mu.split(data, ids)
    transform = jax.jit(moving(lambda x: 2 * x))
    assert transform(KEY, RAW.variables, forget, retain)[1].overlap == 0
    info = transform(KEY, RAW.variables, forget, data)[1]
    assert info.overlap == len(ids)
    assert f"share {len(ids)} examples" in info.messages()[0]


@pytest.mark.xfail(strict=True, reason="ids are compared whatever the weight of their rows")
def test_rows_of_weight_0_are_not_shared():
    data = RAW.data()
    chosen = jnp.isin(data.index, jnp.array(FORGET_IDS))
    forget = data.replace(weight=chosen * 1.0)
    retain = data.replace(weight=~chosen * 1.0)
    info, said = run(moving(lambda x: 2 * x), forget, retain)
    assert (info.overlap, said) == (0, [])


def test_iterables_have_no_known_overlap():
    forget, retain = RAW.sets()
    info, said = run(moving(lambda x: 2 * x), list(forget), list(retain))
    assert (info.overlap, said) == (-1, [])


def test_restricted_reports_on_what_may_change():
    only = moving(lambda x: 2 * x).restricted(lambda m: mu.restrict(m, lambda n: n == "bias"))
    after, info = only(KEY, RAW.variables, *RAW.sets())
    assert info.edit.changed == 1
    np.testing.assert_array_equal(after.params["head"], RAW.variables.params["head"])
    np.testing.assert_array_equal(after.params["bias"], 2 * RAW.variables.params["bias"])
