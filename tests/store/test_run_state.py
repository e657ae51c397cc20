from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mu_jax.store.run_state import clear, config_digest, latest_state, save_state

OPTIMIZER = optax.adam(1e-2)
INPUTS = jax.random.normal(jax.random.key(7), (16, 3))


def start():
    params = {"kernel": jnp.ones((3, 1)), "bias": jnp.zeros((1,))}
    return {"params": params, "optimizer": OPTIMIZER.init(params), "key": jax.random.key(0)}


@jax.jit
def advance(state):
    key, noise_key = jax.random.split(state["key"])
    noise = jax.random.normal(noise_key, (16, 1))

    def loss(params):
        return jnp.mean((INPUTS @ params["kernel"] + params["bias"] - noise) ** 2)

    gradient = jax.grad(loss)(state["params"])
    updates, optimizer = OPTIMIZER.update(gradient, state["optimizer"], state["params"])
    params = optax.apply_updates(state["params"], updates)
    return {"params": params, "optimizer": optimizer, "key": key}


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    data = [
        jax.tree.map(np.asarray, {**tree, "key": jax.random.key_data(tree["key"])})
        for tree in (actual, expected)
    ]
    jax.tree.map(np.testing.assert_array_equal, *data)


def test_a_fit_resumes_bit_identically_and_without_recompiling(tmp_path):
    expected = start()
    for _ in range(10):
        expected = advance(expected)
    state = start()
    for _ in range(5):
        state = advance(state)
    save_state(tmp_path, 5, state, {"phase": "teach"})
    compiled = advance._cache_size()
    step, resumed, metadata = latest_state(tmp_path, start())
    assert (step, metadata) == (5, {"phase": "teach"})
    for _ in range(5):
        resumed = advance(resumed)
    assert_same(resumed, expected)
    assert advance._cache_size() == compiled


def test_a_statistic_resumes_bit_identically(tmp_path):
    batches = jax.random.normal(jax.random.key(1), (6, 4))

    def fold(carry, some):
        for batch in some:
            carry = (carry[0] + jnp.square(batch).sum(), carry[1] + batch.shape[0], carry[2] + 1)
        return carry

    empty = (jnp.float32(0), jnp.asarray(0), 0)
    save_state(tmp_path, 3, fold(empty, batches[:3]))
    position, carry, _ = latest_state(tmp_path, empty)
    resumed, expected = fold(carry, batches[position:]), fold(empty, batches)
    assert [float(leaf) for leaf in resumed] == [float(leaf) for leaf in expected]
    assert resumed[1].weak_type == expected[1].weak_type
    assert type(resumed[2]) is int


def test_nothing_saved_is_none_and_makes_nothing(tmp_path):
    assert latest_state(tmp_path / "missing", start()) is None
    clear(tmp_path / "missing")
    assert not (tmp_path / "missing").exists()


def test_non_finite_values_are_saved(tmp_path):
    save_state(tmp_path, 0, {"loss": jnp.array([jnp.nan, jnp.inf])})
    restored = latest_state(tmp_path, {"loss": jnp.zeros(2)}).tree
    np.testing.assert_array_equal(restored["loss"], [np.nan, np.inf])


def test_only_the_latest_state_is_kept(tmp_path):
    for step in (1, 5, 12):
        save_state(tmp_path, step, {"x": jnp.full(2, step)})
    assert [path.name for path in (tmp_path / "steps").iterdir()] == ["00000012"]
    assert latest_state(tmp_path, {"x": jnp.zeros(2, jnp.int32)}).step == 12
    clear(tmp_path)
    assert latest_state(tmp_path, {"x": jnp.zeros(2, jnp.int32)}) is None


@pytest.mark.parametrize("step", [3, 2])
def test_a_step_that_is_not_later_is_refused(tmp_path, step):
    save_state(tmp_path, 3, {"x": jnp.zeros(2)})
    with pytest.raises(ValueError, match=f"expected a step after 3, .* found {step}; resume"):
        save_state(tmp_path, step, {"x": jnp.ones(2)})
    np.testing.assert_array_equal(latest_state(tmp_path, {"x": jnp.zeros(2)}).tree["x"], 0.0)


def test_another_configuration_is_refused(tmp_path):
    ours, theirs = config_digest({"alpha": 2, "seed": 0}), config_digest({"alpha": 3, "seed": 0})
    assert ours == config_digest({"seed": 0, "alpha": np.int32(2)}) != theirs
    like = {"x": jnp.zeros(2)}
    save_state(tmp_path, 1, like, {"config_digest": ours})
    assert latest_state(tmp_path, like, config_digest=ours).step == 1
    with pytest.raises(ValueError, match=f"expected a state of configuration {theirs}"):
        latest_state(tmp_path, like, config_digest=theirs)
    with pytest.raises(ValueError, match=f"found one of {ours}; resume with"):
        save_state(tmp_path, 2, like, {"config_digest": theirs})
    save_state(tmp_path, 2, like, {"config_digest": ours})
    clear(tmp_path)
    save_state(tmp_path, 1, like)
    with pytest.raises(ValueError, match="found one of None"):
        latest_state(tmp_path, like, config_digest=ours)


def test_another_structure_is_refused(tmp_path):
    save_state(tmp_path, 1, {"x": jnp.zeros(2)})
    with pytest.raises(ValueError, match=r"expected float32\[3\] at 'x', found float32\[2\]"):
        latest_state(tmp_path, {"x": jnp.zeros(3)})


@pytest.mark.parametrize(
    ("stage", "step"), [("00000002.staging", 1), ("00000002", 1), ("00000001.discarded", 2)]
)
def test_a_save_cut_short_leaves_a_whole_state(tmp_path, monkeypatch, stage, step):
    rename = os.rename

    def cut_at_stage(source, target):
        if os.path.basename(target) == stage:
            raise KeyboardInterrupt
        rename(source, target)

    save_state(tmp_path, 1, {"x": jnp.ones(2)})
    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", cut_at_stage)
        with pytest.raises(KeyboardInterrupt):
            save_state(tmp_path, 2, {"x": jnp.full(2, 2.0)})
    state = latest_state(tmp_path, {"x": jnp.zeros(2)})
    assert state.step == step
    np.testing.assert_array_equal(state.tree["x"], float(step))
    save_state(tmp_path, 3, {"x": jnp.zeros(2)})
    assert [path.name for path in (tmp_path / "steps").iterdir()] == ["00000003"]


def test_refused_input_leaves_nothing_behind(tmp_path):
    directory = tmp_path / "run"
    for step, tree, metadata, sentence in (
        (-1, {"x": jnp.zeros(2)}, {}, "expected a step of 0 or more, found -1"),
        (1, {"x": "text"}, {}, "found str at 'x'"),
        (1, {"x": jnp.zeros(2)}, {"loss": jnp.nan}, "expected metadata of finite numbers"),
    ):
        with pytest.raises(ValueError, match=sentence):
            save_state(directory, step, tree, metadata)
    assert not directory.exists()
