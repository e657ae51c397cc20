"""Which methods remove and which suppress, as every transform says of itself."""

from __future__ import annotations

import optax
import pytest
from small_models import setting

import mu_jax as mu

SGD = optax.sgd(0.1)
MODEL, ADAPTED = setting("tokens").model, setting("adapted raw").model


def test_methods_that_hide_say_so_and_no_others():
    factories = {name: getattr(mu, name) for name in mu.transforms.__all__ if name.islower()}
    found = {name for name, factory in factories.items() if _aim(factory) == "suppression"}
    assert found == {"dpo", "o3"}
    assert mu.suppression.eco.aim == "suppression"


def _aim(factory):
    return getattr(factory, "aim", "removal")


@pytest.mark.parametrize("name", ["dpo", "o3"])
def test_docstrings_of_methods_that_hide_say_so_too(name):
    assert "hides rather than removes" in getattr(mu, name).__doc__ or (
        "*Suppression, not removal*" in getattr(mu, name).__doc__
    )


def test_transforms_of_transforms_keep_the_aim():
    hides, removes = mu.dpo(MODEL, SGD), mu.npo(MODEL, SGD)
    assert (hides.aim, removes.aim, mu.o3(ADAPTED, SGD).aim) == (
        "suppression",
        "removal",
        "suppression",
    )
    for change in (
        lambda t: mu.masked(t, lambda name: True),
        lambda t: mu.scaled(t, 0.5),
        lambda t: mu.watched(t),
        lambda t: mu.low_rank(t),
        lambda t: mu.chain(removes, t),
    ):
        assert change(hides).aim == "suppression" and change(removes).aim == "removal"
