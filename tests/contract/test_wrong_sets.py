"""Empty, overlapping and broken sets: one sentence, or a field of `info` that says so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import WAYS, compiled, every
from small_models import FORGET_IDS, pairs_of
from trees import is_one_sentence

import mu_jax as mu
from mu_jax.losses import squared_error
from mu_jax.transforms import ADAPTED, LANGUAGE

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY = jax.random.key(3)


def broken(chosen, kind):
    """Forget and retain sets that cannot be right, and what the sentence says."""
    data = chosen.data()
    forget, retain = chosen.sets()
    weight = jnp.zeros(forget.num_examples)
    pairs = pairs_of(data)
    return {
        "overlapping": (forget, data, "without a common example, found 6 in both"),
        "overlapping streams": (
            mu.stream(pairs[:3], batch_size=2),
            mu.stream(pairs, batch_size=2),
            "without a common example, found 3 in both",
        ),
        "overlapping iterables": (
            list(forget),
            list(data),
            "without a common example, found 6 in both",
        ),
        "iterables and arrays": (list(forget), data, "found 6 in both"),
        "empty forget": (forget.replace(weight=weight), retain, "in the forget set, found none"),
        "empty retain": (retain, forget.replace(weight=weight), "in the retain set, found none"),
        "NaN weight": (forget.replace(weight=weight + jnp.nan), retain, "for the forget set"),
        "negative": (forget, retain.replace(weight=retain.weight - 2), "for the retain set"),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "overlapping",
        "overlapping streams",
        "overlapping iterables",
        "iterables and arrays",
        "empty forget",
        "empty retain",
        "NaN weight",
        "negative",
    ],
)
@every(variants="none")
def test_refused_in_one_sentence(case, kind):
    chosen = case.setting("raw")
    forget, retain, says = broken(chosen, kind)
    with pytest.raises(ValueError, match=says) as error:
        case.build(chosen)(KEY, chosen.variables, forget, retain)
    assert is_one_sentence(str(error.value))


def as_regression(chosen):
    """The setting with the first output alone, which is to be a number, and numbers as labels."""
    predict = chosen.model.predict
    model = mu.from_function(lambda p, state, x: predict(p, state, x)[:, 0], squared_error)
    sets = [part.replace(targets=part.targets.astype(float)) for part in chosen.sets()]
    return chosen._replace(model=model), sets


# What needs classes; every other method is computed for a regression as well.
NEED_CLASSES = {
    *("bad_teacher", "boundary_expand", "boundary_shrink", "fisher_forgetting", "ntk_scrub"),
    *("random_labels", "salun", "scrub", "unsir"),
}


@every(lambda case: case.factory.__name__ not in {*LANGUAGE, *ADAPTED}, variants="none")
def test_a_regression_is_refused_in_one_sentence_where_classes_are_needed(case):
    chosen, sets = as_regression(case.setting("raw"))
    unlearn = case.build(chosen)
    if case.factory.__name__ not in NEED_CLASSES:
        jax.eval_shape(unlearn, KEY, chosen.variables, *sets)
        return
    with pytest.raises(ValueError, match=r"classifier|outputs are the logits") as error:
        unlearn(KEY, chosen.variables, *sets)
    assert is_one_sentence(str(error.value))


@pytest.mark.quick(*WAYS, some_methods=True)
@every(variants="none")
def test_an_overlap_under_jit_is_counted(case):
    chosen = case.setting("raw")
    forget, retain = chosen.sets()
    # As many rows as in the other laws, whose program this is.
    shared = chosen.data().take([*FORGET_IDS, *np.asarray(retain.index)[len(FORGET_IDS) :]])
    _, info = compiled(case, "raw")(KEY, chosen.variables, forget, shared)
    assert info.overlap == 6
    assert any("share 6 examples" in message for message in info.messages())


def with_not_a_number(data):
    """The second row full of NaN, in whatever is no integer."""

    def spoiled(array):
        whole = jnp.issubdtype(array.dtype, jnp.integer)
        return array if whole else array.at[1].set(jnp.nan)

    inputs, targets = jax.tree.map(spoiled, (data.inputs, data.targets))
    return data.replace(inputs=inputs, targets=targets)


@every(variants="none")
def test_not_a_number_is_never_silent(case):
    chosen = case.setting("raw")
    sets = [with_not_a_number(data) for data in chosen.sets()]
    try:
        after, info = case.build(chosen)(KEY, chosen.variables, *sets)
    except ValueError as error:
        assert is_one_sentence(str(error))
        return
    finite = all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(after))
    assert finite == bool(info.edit.finite)
    assert finite or any("not finite" in message for message in info.messages())
