"""What the page of a method says that it reads of each set is what it reads, and no less."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recipes import compiled, every
from small_models import CLASSES

import mu_jax as mu

sys.path.insert(0, str(Path(mu.__file__).parents[1] / "docs" / "_ext"))

from method_facts import needs_of_page, words

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
# With one key, labels that are drawn may be the same by chance.
KEYS = jax.random.split(jax.random.key(3), 4)


def other_inputs(data):
    """The same examples with other inputs, of the same shapes."""
    return data.replace(inputs=jnp.flip(data.inputs, -1) - 2 * data.inputs)


def other_labels(data):
    """The same examples with other labels, each of them: their mean moves as well."""
    last = CLASSES - 1
    return data.replace(targets=jnp.where(data.targets == last, 0, last))


def other_tokens(data):
    """The same masks with other tokens, as inputs and as targets."""
    return data.replace(inputs=rolled(data.inputs), targets=rolled(data.targets))


def rolled(tree):
    def each(x):
        return jnp.roll(x, 1, axis=-1) if jnp.issubdtype(x.dtype, jnp.integer) else x

    return jax.tree.map(each, tree)


def same(one, two):
    return all(np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, two))))


def changes_of(name, of_tokens):
    """Whether the page of a method says that it reads what a change changes, for both sets."""
    needs = needs_of_page(name)
    for position, part in enumerate((needs.forget, needs.retain)):
        said = words(part)
        if of_tokens:
            yield position, other_tokens, "tokens" in said
        else:
            yield position, other_inputs, "inputs" in said
            yield position, other_labels, "labels" in said


@every(variants="none")
def test_a_method_reads_what_its_page_says(case):
    name = case.factory.__name__
    chosen = case.setting("raw")
    unlearn = compiled(case, "raw")
    sets = chosen.sets()

    @functools.cache
    def unchanged(number):
        return unlearn(KEYS[number], chosen.variables, *sets)[0]

    def differs(changed, number):
        return not same(unchanged(number), unlearn(KEYS[number], chosen.variables, *changed)[0])

    for position, change, says in changes_of(name, name in mu.transforms.LANGUAGE):
        changed = list(sets)
        changed[position] = change(sets[position])
        reads = any(differs(changed, number) for number in range(len(KEYS)))
        where = ("forget", "retain")[position]
        assert reads == says, f"{change.__name__} of the {where} set of {name}"
