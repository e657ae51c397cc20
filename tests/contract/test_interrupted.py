"""A run that is stopped in the middle of a loop ends with the same bits."""

import jax
import pytest
from recipes import WAYS, among, every
from small_models import setting
from trees import assert_identical

import mu_jax as mu
from mu_jax.loops.scan import observe

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")


class Stopped(Exception):
    """Thrown by the watch."""


class Watch:
    """Counts the steps of all loops, and stops the run at one of them."""

    def __init__(self, stop_at=None):
        self.steps, self.resumed_at, self._stop_at = 0, 0, stop_at

    def begin(self, total, carry, position):
        self.resumed_at = max(self.resumed_at, position)
        return carry, position

    def advance(self, carry, position):
        self.steps += 1
        if self.steps == self._stop_at:
            raise Stopped

    def end(self, carry, position):
        pass


def streams(chosen):
    return chosen.streams()


def arrays(chosen):
    return chosen.sets()


STREAMED = {"ssd", "finetune", "scrub"}  # quick from streams, the other ways from arrays


@pytest.mark.quick(
    *among("arrays-*", methods=tuple(set(WAYS) - STREAMED)),
    *among("streams-*", methods=tuple(STREAMED)),
    some_methods=True,
)
@pytest.mark.parametrize(("source", "share"), [(arrays, 0.5), (streams, 0.9)])
@every(variants="none")
def test_resumed_is_bit_identical(case, source, share, tmp_path):
    chosen = case.setting("raw")
    transform = case.build(chosen)

    def run():
        return transform(jax.random.key(3), chosen.variables, *source(chosen))

    expected = run()
    whole = Watch()
    with observe(whole):
        assert_identical(run(), expected)
    if not whole.steps:
        pytest.skip("reads no data")
    with (
        pytest.raises(Stopped),
        mu.resumable(tmp_path, config={"seed": 3}, min_seconds=0),
        observe(Watch(stop_at=max(1, int(share * whole.steps)))),
    ):
        run()
    rest = Watch()
    with mu.resumable(tmp_path, config={"seed": 3}, min_seconds=0), observe(rest):
        found = run()
    assert 0 < rest.steps < whole.steps
    assert rest.resumed_at > 0
    assert_identical(found, expected)


def test_another_configuration_is_refused(tmp_path):
    chosen = setting("raw")
    given = (jax.random.key(3), chosen.variables, *chosen.sets())
    transform = mu.ssd(chosen.model, alpha=1.3)
    with (
        pytest.raises(Stopped),
        mu.resumable(tmp_path, config={"alpha": 1.3}, min_seconds=0),
        observe(Watch(2)),
    ):
        transform(*given)
    with (
        pytest.raises(ValueError, match="configuration"),
        mu.resumable(tmp_path, config={"alpha": 2.0}),
    ):
        transform(*given)
