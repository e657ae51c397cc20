"""CodeEraser's stopping rule: what is measured behind an epoch, and where the fit ends."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_models import setting
from trees import assert_close, assert_identical, is_one_sentence

import mu_jax as mu
from mu_jax.loops import Phase, Until, fit_phases
from mu_jax.transforms._shared.stopping import memorization

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
KEY, EPOCHS = jax.random.key(3), 8
RATES = {100: 2.0, 2: 1.0}  # of a batch size: memorization falls in the middle of the fit


@functools.cache
def start():
    """A model that knows its secrets by heart."""
    chosen = setting("tokens")
    fit = mu.fit(
        chosen.model,
        mu.supervised(chosen.model),
        optax.adam(0.1),
        chosen.variables,
        sets()[0],
        key=KEY,
        steps=100,
    )
    return fit[0].variables


def sets(batch_size=100):
    return [x.replace(batch_size=batch_size) for x in setting("tokens").sets()]


def run(stop=None, epochs=EPOCHS, batch_size=100, data=None):
    chosen = setting("tokens")
    sgd = optax.sgd(RATES[batch_size])
    unlearn = mu.code_eraser(chosen.model, sgd, epochs=epochs, stop=stop)
    return unlearn(KEY, start(), *(data or sets(batch_size)))


def by_hand(variables):
    """A mean over rows of the share of secret tokens that are predicted."""
    chosen, forget = setting("tokens"), sets()[0]
    logits = np.asarray(chosen.model.apply(variables, forget.inputs))
    shares = []
    for row, tokens in enumerate(np.asarray(forget.targets.tokens)):
        places = np.flatnonzero(np.asarray(forget.targets.secret)[row])
        if places.size:
            hits = [logits[row, t - 1].argmax() == tokens[t] for t in places]
            shares.append(np.mean(hits))
    return np.mean(shares)


def curve(epochs=EPOCHS):
    return [by_hand(run(epochs=n)[0]) for n in range(1, epochs + 1)]


@pytest.fixture(scope="module")
def memorized():
    """MA behind each epoch, and a threshold that it falls below in the middle."""
    found = curve()
    place = next(n for n, x in enumerate(found) if x < found[0])
    assert 0 < place < EPOCHS - 1
    return found, float(found[0] + found[place]) / 2, place


def test_memorization_by_hand():
    chosen, forget = setting("tokens"), sets()[0]
    for size in (2, 100):
        found = memorization(chosen.model, chosen.variables, forget.replace(batch_size=size))
        np.testing.assert_allclose(found, by_hand(chosen.variables), rtol=1e-6)
    assert by_hand(start()) == 1


@pytest.mark.quick("100")
@pytest.mark.parametrize("batch_size", [2, 100])
def test_the_fit_ends_behind_the_epoch_that_meets_the_threshold(batch_size):
    values = [by_hand(run(epochs=n, batch_size=batch_size)[0]) for n in range(1, EPOCHS + 1)]
    place = next(n for n, x in enumerate(values) if x < values[0])
    stop = mu.CodeEraserStop((values[0] + values[place]) / 2)
    after, info = run(stop, batch_size=batch_size)
    assert_identical(after, run(epochs=place + 1, batch_size=batch_size)[0])
    found = info.details.stopped
    assert int(found.epochs) == place + 1 and bool(found.reached)
    np.testing.assert_allclose(found.memorization[: place + 1], values[: place + 1], rtol=1e-6)
    assert np.isnan(found.memorization[place + 1 :]).all() and np.isnan(found.extraction).all()
    assert int(info.steps) == 2 * (place + 1) * -(-6 // batch_size)


@pytest.mark.slow
def test_inside_a_program_and_in_a_grid_of_thresholds(memorized):
    values, threshold, place = memorized
    chosen, data, first = setting("tokens"), sets(), start()

    def unlearned(threshold):
        stop = mu.CodeEraserStop(threshold)
        unlearn = mu.code_eraser(chosen.model, optax.sgd(2.0), epochs=EPOCHS, stop=stop)
        after, info = unlearn(KEY, first, *data)
        return after, info.details.stopped, info.details.forget.examples

    expected = unlearned(threshold)
    assert_close(jax.jit(unlearned)(threshold), expected, rtol=1e-4, atol=1e-5)
    after, stopped, examples = jax.vmap(unlearned)(jnp.array([threshold, 0.0, 1.0]))
    assert stopped.epochs.tolist() == [place + 1, EPOCHS, 1 if values[0] < 1 else place + 1]
    assert stopped.reached.tolist() == [True, False, True]
    assert (examples > 0).sum(1).tolist() == stopped.epochs.tolist()
    assert_close(jax.tree.map(lambda x: x[0], after), expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_devices_and_explicit_axes_do_not_matter(memorized):
    stop = mu.CodeEraserStop(memorized[1])
    expected = run(stop)
    for kind in (jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit):
        mesh = jax.make_mesh((2,), ("data",), (kind,), devices=jax.devices()[:2])
        data = tuple(mu.shard(x, mesh) for x in sets())
        found = run(stop, data=data)
        assert_close(found[0], expected[0])
        chosen = setting("tokens")
        unlearn = mu.code_eraser(chosen.model, optax.sgd(2.0), epochs=EPOCHS, stop=stop)
        assert_close(jax.jit(unlearn)(KEY, start(), *data)[0], expected[0])


class Measure:
    """Extraction that is told, one value a call."""

    def __init__(self, *values):
        self.values, self.calls = values, 0

    def __call__(self, variables):
        self.calls += 1
        return self.values[min(self.calls, len(self.values)) - 1]


@pytest.mark.slow
def test_extraction_is_measured_near_the_threshold_and_decides_too(memorized):
    values, threshold, place = memorized
    far = values[place - 1] - threshold
    assert far > 0
    measure = Measure(0.9, 0.05, 0.9)
    stop = mu.CodeEraserStop(threshold, 0.1, measure, margin=far / 2)
    _, info = run(stop)
    found = info.details.stopped
    assert np.isnan(found.extraction[:place]).all()  # not near yet
    np.testing.assert_allclose(found.extraction[place : place + 2], [0.9, 0.05], rtol=1e-6)
    assert int(found.epochs) == place + 2 and measure.calls == 2
    early = mu.CodeEraserStop(threshold, 0.1, Measure(0.9, 0.05), margin=1.0)
    assert not np.isnan(run(early)[1].details.stopped.extraction[0])


def test_extraction_without_a_new_low_is_waited_for_no_longer_than_its_patience(memorized):
    (_, threshold, _), ends = memorized, []
    for patience in (1, 6):
        stop = mu.CodeEraserStop(threshold, 0.1, Measure(0.5, 0.6), margin=1.0, patience=patience)
        found = run(stop, epochs=12)[1].details.stopped
        low, low_extracted, waited, ended = 1.0, 1.0, 0, 12
        for epoch, value in enumerate(found.memorization.tolist()):
            extracted = 0.5 if epoch == 0 else 0.6
            if value <= low and extracted <= low_extracted:
                low, low_extracted, waited = value, extracted, 0
            elif value <= low:
                waited += 1
            if value < threshold and (extracted < 0.1 or waited >= patience):
                ended = epoch + 1
                break
        assert int(found.epochs) == ended < 12
        ends.append(ended)
    assert ends[0] < ends[1]


def test_a_rule_that_is_never_met_is_told():
    chosen = setting("tokens")
    unlearn = mu.code_eraser(chosen.model, optax.sgd(2.0), epochs=2, stop=mu.CodeEraserStop(0.0))
    with pytest.warns(mu.UnlearningWarning, match="stopping rule was not met in 2 epochs"):
        unlearn(KEY, start(), *sets())


REFUSED = {
    "expected memorization from 0 to 1": {"memorization": 45.0},
    "found extraction without measure": {"extraction": 0.1},
    "found measure without extraction": {"measure": Measure(0.1)},
    "expected patience": {"patience": 0},
}


@pytest.mark.parametrize("says", REFUSED)
def test_a_rule_that_cannot_be_is_refused_in_one_sentence(says):
    stop = mu.CodeEraserStop(**{"memorization": 0.5, **REFUSED[says]})
    with pytest.raises(ValueError, match=says) as error:
        mu.code_eraser(setting("tokens").model, optax.sgd(2.0), stop=stop)
    assert is_one_sentence(str(error.value))


class Stopped(Exception):
    pass


class StopAt:
    """Stops the run in its n-th loop."""

    def __init__(self, loop):
        self.loops, self.loop = 0, loop

    def begin(self, total, carry, position):
        self.loops += 1
        return carry, position

    def advance(self, carry, position):
        if self.loops == self.loop:
            raise Stopped

    def end(self, carry, position):
        pass


@pytest.mark.quick("2")
@pytest.mark.parametrize("loop", [2, 5])
def test_an_interrupted_run_ends_in_the_same_epoch(memorized, tmp_path, loop):
    stop = mu.CodeEraserStop(memorized[1])
    expected = run(stop)
    interrupted = mu.resumable(tmp_path, config=0, min_seconds=0)
    with pytest.raises(Stopped), interrupted, mu.loops.observe(StopAt(loop)):
        run(stop)
    with mu.resumable(tmp_path, config=0, min_seconds=0):
        found = run(stop)
    assert_identical(found, expected)


def test_any_fit_of_phases_may_end_by_a_rule():
    model = mu.from_function(lambda w, state, x: w * x, lambda z, y: -z)
    data = mu.batches(jnp.ones(1), jnp.zeros(1), batch_size=1)
    phases = [Phase(mu.supervised(model), optax.sgd(1.0), data)]
    until = Until(jnp.int32(0), lambda calls, v: (calls + 1, v.params >= 4), every=2)

    def fitted(cycles):
        return fit_phases(
            model, phases, mu.Variables(jnp.zeros(())), key=KEY, cycles=cycles, until=until
        )

    for cycles, steps in ((9, 4), (3, 3)):
        state, info = fitted(cycles)
        assert (float(state.variables.params), int(state.steps[0])) == (steps, steps)
        assert int(info.known) == steps // 2
        assert_close(jax.jit(fitted, static_argnums=0)(cycles), (state, info))
