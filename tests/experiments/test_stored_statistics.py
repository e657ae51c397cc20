"""Statistics kept for the next request: used while they are valid, never for other variables."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from in_process import call

import mu_jax as mu
from experiments.lib import stored_statistics, tasks
from experiments.lib.running import read_config
from mu_jax.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
AS_STORED = "importance: per_example over 600 examples: as stored"


def unlearn(workdir, *arguments, method="ssd") -> str:
    ended = call("unlearn", f"--workdir={workdir}", f"--method={method}", *arguments)
    assert ended.returncode in (0, 3), ended
    return ended.stdout + ended.stderr  # where lines on the progress go


def at_hand(workdir) -> list[str]:
    """What is stored and not deleted."""
    return [each.method for each in kept(workdir).history() if each.restorable]


def kept(workdir) -> Store:
    return Store(workdir / stored_statistics.FOLDER)


def case(workdir, request):
    """The task, the first version, and the sets of a request."""
    task = tasks.make_task(read_config(workdir))
    like = jax.eval_shape(task.init, jax.random.key(0))
    sets = tasks.split(task, tasks.read_ids(task, request))
    return task, Store(workdir / "store").restore(1, like=like), sets


def test_another_request_of_the_same_version_uses_what_the_first_has_stored(workdir):
    assert AS_STORED not in unlearn(workdir, "--request=class:3", "--noswap")
    assert AS_STORED in unlearn(workdir, "--request=class:4", "--noswap")
    assert at_hand(workdir) == ["importance: per_example"]
    task, before, (forget, retain) = case(workdir, "class:4")
    statistic = mu.statistics.importance(task.model)
    full = mu.collect(statistic, before, task.train)
    (record,) = kept(workdir).history()
    stored = kept(workdir).restore(record.version, like=full)
    for one, other in zip(jax.tree.leaves(stored), jax.tree.leaves(full)):
        np.testing.assert_array_equal(one, other)
    arguments = dict(task.config.methods["ssd"])
    for known in (None, full):  # a request alone, by its own pass over all, agrees
        ssd = mu.ssd(task.model, **arguments, full_importance=known)
        alone, _ = ssd(jax.random.key(0), before, forget, retain)
        found = Store(workdir / "store").restore(3, like=alone)
        for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(alone)):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-7)


def test_the_mean_gradient_of_iau_is_kept_too(workdir):
    assert "as stored" not in unlearn(workdir, "--request=class:3", "--noswap", method="iau")
    found = unlearn(workdir, "--request=ids:1,5", "--noswap", method="iau")
    assert "mean gradient over 600 examples: as stored" in found
    task, before, sets = case(workdir, "ids:1,5")
    direct, _ = mu.iau(task.model, tasks.make_optimizer("adam", 1e-3))(None, before, *sets)
    found = Store(workdir / "store").restore(3, like=direct)
    gap = jax.tree.map(lambda a, b: np.abs(a - b).max(), found, direct)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), found, before)
    assert max(jax.tree.leaves(gap)) < 0.01 * max(jax.tree.leaves(moved))


def test_nothing_of_a_version_that_no_longer_serves_is_kept_or_used(workdir):
    unlearn(workdir, "--request=class:3")
    assert Store(workdir / "store").serving() == 2 and at_hand(workdir) == []
    found = unlearn(workdir, "--request=class:4", "--noswap")
    assert "as stored" not in found and "over 545 examples" in found  # of all but class 3
    Store(workdir / "store").roll_back()
    found = unlearn(workdir, "--request=class:4", "--noswap")
    assert "stored for other variables: not valid any more, deleted" in found
    assert "as stored" not in found and at_hand(workdir) == ["importance: per_example"]


def test_a_damaged_statistic_is_computed_again(workdir):
    unlearn(workdir, "--request=class:3", "--noswap")
    arrays = kept(workdir).directory / "versions" / "00000001" / "arrays"
    longest = max(arrays.rglob("*/d/*"), key=lambda path: path.stat().st_size)
    data = bytearray(longest.read_bytes())
    data[len(data) // 2] ^= 1
    longest.write_bytes(data)
    assert "as stored" not in unlearn(workdir, "--request=class:4", "--noswap")
    assert AS_STORED in unlearn(workdir, "--request=class:5", "--noswap")


@pytest.mark.parametrize("setting", ['definition="grouped"', 'alpha="adaptive"'])
def test_what_needs_the_retain_set_itself_keeps_nothing(workdir, setting):
    further = ["--set", "group_size=64"] if "grouped" in setting else []
    unlearn(workdir, "--request=class:3", "--noswap", "--set", setting, *further)
    assert not kept(workdir).directory.exists()


def test_the_loop_tries_again_from_what_is_stored_until_the_request_is_done(workdir):
    arguments = f"--workdir={workdir}", "--accept=class:3", "--attempts=3"
    ended = call("serve_requests", *arguments, "--gate=retain_accuracy=1.0")
    assert ended.returncode == 3 and at_hand(workdir) == ["importance: per_example"]
    assert ended.stderr.count(AS_STORED) == 2  # the second and the third time
    assert call("serve_requests", *arguments[:1], "--attempts=9").returncode == 0
    assert Store(workdir / "store").forgotten().size and at_hand(workdir) == []
