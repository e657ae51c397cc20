"""Protocols of exact unlearning in the binaries: what is served is what they train without it."""

from __future__ import annotations

import json
import shutil

import jax
import numpy as np
import pytest
from flax import linen as nn
from in_process import call, refused
from trees import assert_identical

import mu_jax as mu
from experiments.lib import own_tasks, protocols, tasks
from experiments.lib.running import read_config
from mu_jax.service import Ledger, certificates, keys
from mu_jax.store import Store

pytestmark = pytest.mark.filterwarnings("ignore::mu_jax.UnlearningWarning")
THIS = __name__
ROWS = 64
INPUTS = np.random.default_rng(0).normal(size=(2 * ROWS, 5)).astype(np.float32)
TARGETS = (INPUTS[:, 0] > 0).astype(np.int32) + (INPUTS[:, 1] > 0)
USERS = [f"u_{row // 4}" for row in range(ROWS)]
FIELD = "--config.training.protocol"
SISA = [f"{FIELD}.name=sisa", f"{FIELD}.shards=4", f"{FIELD}.slices=2"]
S3T = [f"{FIELD}.name=s3t", f"{FIELD}.layers=top", f"{FIELD}.layers=low", f"{FIELD}.head=head"]
S3T += [f"{FIELD}.shards=2", f"{FIELD}.rank=2"]


class Network(nn.Module):
    """Two layers that S3T may adapt, and a head."""

    @nn.compact
    def __call__(self, x):
        for name in ("low", "top"):
            x = nn.tanh(nn.Dense(5, name=name)(x))
        return nn.Dense(3, name="head")(x)


NETWORK = Network()


def rows(places, start=0):
    index = np.arange(start, start + len(places))
    return mu.batches(INPUTS[places], TARGETS[places], batch_size=16, index=index)


def private(kept=range(ROWS)):
    """Rows that people may take back."""
    kept, train = np.asarray(kept), rows(np.arange(ROWS))
    names = [f"row {row}" for row in kept]
    return own_tasks.OwnTask(
        model=mu.from_linen(NETWORK, mu.losses.cross_entropy),
        train=train.take(kept),
        test=rows(np.arange(ROWS, ROWS + 32), start=500),
        kind="classification",
        init=lambda key: NETWORK.init(key, INPUTS[:1]),
        training={"epochs": 12, "batch_size": 8, "learning_rate": 5e-2},
        ids=mu.id_table(names, index=kept, user=[USERS[row] for row in kept]),
    )


def others():
    """Rows of nobody, to train a base on."""
    own = private()
    train = rows(np.arange(ROWS, 2 * ROWS))
    return own_tasks.OwnTask(own.model, train, own.test, own.kind, own.init)


def left():
    """The private rows of which the first half was deleted."""
    return private(range(ROWS // 2, ROWS))


def outputs_in_pairs():
    """A regression of two outputs."""
    own = private()
    model = mu.from_linen(NETWORK, mu.losses.squared_error)
    parts = (part.replace(targets=np.asarray(part.inputs)[:, :3]) for part in (own.train, own.test))
    return own_tasks.OwnTask(model, *parts, "regression", own.init, training=own.training)


def weighted():
    """A task that brings weights."""
    own = private()
    weights = own.init(jax.random.key(0))
    return own_tasks.OwnTask(own.model, own.train, own.test, own.kind, own.init, weights=weights)


@pytest.fixture(autouse=True)
def again():
    own_tasks.load.cache_clear()


def train(workdir, *fields, task="private"):
    return call("train", f"--workdir={workdir}", f"--task={THIS}:{task}", *fields)


def serve(workdir, *arguments):
    return call("serve_requests", f"--workdir={workdir}", *arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    own_tasks.load.cache_clear()
    folder = tmp_path_factory.mktemp("trained")
    for name, fields in (("sisa", SISA), ("s3t", S3T), ("plain", [])):
        ended = train(folder / name, *fields)
        assert ended.returncode == 0, ended
    return folder


@pytest.fixture
def sisa(trained, tmp_path):
    return shutil.copytree(trained / "sisa", tmp_path / "sisa")


@pytest.fixture
def s3t(trained, tmp_path):
    return shutil.copytree(trained / "s3t", tmp_path / "s3t")


def served(workdir):
    task = protocols.make_task(read_config(workdir))
    store = Store(workdir / "store")
    left = tasks.without(task, store.forgotten()).train
    return task, left, store.restore(like=tasks.like(task))


def test_what_sisa_serves_is_its_training_without_the_rows(sisa):
    public = keys.make_key(sisa / "operator.pem")
    signed = [f"--key={sisa}/operator.pem", "--operator=ACME"]
    task, left, variables = served(sisa)
    assert_identical(variables, task.protocol.train(jax.random.key(0), left)[0])
    first = serve(sisa, "--accept=user:u_3", "--method=sisa", *signed)
    assert first.returncode == 0 and "sisa forgot 4 examples" in first.stdout, first
    second = serve(sisa, "--accept=id:row 40", "--accept=user:u_9", "--batch=1", *signed)
    assert second.returncode == 0 and "sisa forgot 5 examples" in second.stdout, second
    task, left, variables = served(sisa)
    assert left.num_examples == ROWS - 9
    assert_identical(variables, task.protocol.train(jax.random.key(0), left)[0])
    with Ledger(sisa / "ledger.db", create=False) as ledger:
        found = certificates.verify(ledger.certificates(), key=public)
    said = "SISA, 4 shards, 2 slices: training on the retained examples, with the key of the"
    for one in found:
        guarantee = one.record["done"]["guarantee"]
        assert guarantee == {"kind": "exact", "protocol": f"{said} lineage"}
        assert one.record["done"]["parameters"]["shards"] == 4
    assert len(found) == 2


def test_rows_that_are_gone_since_leave_the_lineage_as_it_was(sisa):
    ended = serve(sisa, *(f"--accept=user:u_{user}" for user in range(8)))
    assert ended.returncode == 0, ended
    config = json.loads((sisa / "config.json").read_text())
    config["task"] = config["dataset"] = f"{THIS}:left"
    assert config["training"]["protocol"]["capacity"] == 64
    (sisa / "config.json").write_text(json.dumps(config))
    ended = serve(sisa, "--accept=user:u_12")
    assert ended.returncode == 0, ended
    task, left, variables = served(sisa)
    assert left.num_examples == ROWS // 2 - 4
    assert_identical(variables, task.protocol.train(jax.random.key(0), left)[0])


def test_a_lineage_keeps_the_layout_of_the_machine_on_which_it_began(sisa, monkeypatch):
    monkeypatch.setattr(protocols, "default_layout", lambda: "together")  # as on an accelerator
    ended = serve(sisa, "--accept=user:u_3")
    assert ended.returncode == 0, ended
    assert read_config(sisa).training.protocol.layout == "one_by_one"


def test_a_lineage_is_evaluated_and_unlearned_by_the_other_binaries_too(sisa):
    ended = call("unlearn", f"--workdir={sisa}", "--request=user:u_3")
    assert ended.returncode == 0 and "with sisa {" in ended.stdout, ended
    task, left, variables = served(sisa)
    assert_identical(variables, task.protocol.train(jax.random.key(0), left)[0])
    asked = ["--request=user:u_3", "--retrain=1"]
    ended = call("evaluate", f"--workdir={sisa}", *asked)
    assert ended.returncode == 0 and "2: sisa" in ended.stdout, ended


def test_what_s3t_serves_until_it_is_spent_and_a_new_lineage_then(s3t):
    ended = serve(s3t, "--accept=id:row 1")
    assert ended.returncode == 0, ended
    task, left, variables = served(s3t)
    key, base, gone = jax.random.key(0), variables.base, variables.gone
    assert gone.sum() == 1
    assert_identical(variables, task.protocol.train(key, base, left, without=gone)[0])
    (shard, piece), *_ = np.argwhere(gone)
    number = variables.rows.shard(shard, [piece])[0]
    ended = serve(s3t, f"--accept=ids:{number}")  # what is switched off already: nothing changes
    assert ended.returncode == 0, ended
    assert_identical(served(s3t)[2].stages, variables.stages)
    said = "expected a shard with a slice to begin with that lost no row"
    ended = call("unlearn", f"--workdir={s3t}", "--request=ids:" + ",".join(map(str, range(2, 34))))
    assert ended.returncode == 3 and f"Version 3 keeps serving: {said}" in ended.stdout, ended
    ended = serve(s3t, *(f"--accept=user:u_{user}" for user in range(1, 9)))
    assert ended.returncode == 3 and said in ended.stderr, ended
    assert Store(s3t / "store").serving() == 3
    ended = serve(s3t, "--retrain", "--seed=3")
    assert ended.returncode == 0, ended
    assert [one.method for one in Store(s3t / "store").lineage(4)] == ["retrain"]
    task, left, variables = served(s3t)
    assert left.num_examples == ROWS - len({1, number, *range(4, 36)})
    assert_identical(variables.base, base)
    assert_identical(variables, task.protocol.train(variables.key, base, left)[0])
    assert not np.array_equal(*map(jax.random.key_data, (variables.key, key)))
    ended = call("evaluate", f"--workdir={s3t}", "--request=id:row 1", "--retrain=1")
    assert ended.returncode == 0, ended


def test_a_base_is_a_model_of_other_rows(trained, tmp_path):
    assert train(tmp_path / "base", task="others").returncode == 0
    named = [*S3T, f"{FIELD}.base={tmp_path / 'base'}"]
    ended = train(tmp_path / "s3t", *named)
    assert ended.returncode == 0, ended
    variables = served(tmp_path / "s3t")[2]
    task = tasks.make_task(read_config(tmp_path / "base"))
    assert_identical(
        variables.base, Store(tmp_path / "base" / "store").restore(like=tasks.like(task))
    )
    shutil.rmtree(tmp_path / "base")  # the lineage holds it
    spent = [*(f"--accept=user:u_{user}" for user in range(9)), "--retrain"]
    ended = serve(tmp_path / "s3t", *spent)
    assert ended.returncode == 0 and "retrain forgot 36" in ended.stdout, ended
    assert_identical(served(tmp_path / "s3t")[2].base, variables.base)
    arguments = [f"--workdir={tmp_path / 'new'}", f"--task={THIS}:private", *S3T]
    line = refused("train", *arguments, f"{FIELD}.base={trained / 'plain'}")
    assert f"was trained on {ROWS} of them" in line
    assert "no config.json there" in refused("train", *arguments, f"{FIELD}.base=nowhere")
    line = refused("train", *arguments, f"{FIELD}.base={trained / 'sisa'}")
    assert "expected ordinary training" in line


def test_a_regression_is_answered_by_the_mean_of_the_shards(tmp_path):
    assert train(tmp_path / "run", *SISA, task="outputs_in_pairs").returncode == 0
    task, left, variables = served(tmp_path / "run")
    found = task.protocol.model.apply(variables, left.inputs)
    parts = [
        NETWORK.apply(jax.tree.map(lambda x, k=k: x[k], variables.last.variables), left.inputs)
        for k in range(4)
    ]
    np.testing.assert_allclose(found, np.mean(parts, axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "fields, said",
    [
        ([f"{FIELD}.shards=4"], "expected the field training.protocol.name"),
        ([f"{FIELD}.name=sisa"], "expected the field training.protocol.shards"),
        ([f"{FIELD}.name=arcane"], "expected a protocol among sisa, s3t"),
        ([*SISA, f"{FIELD}.shards=0"], "whole number from 1 on for training.protocol.shards"),
        ([*SISA, f"{FIELD}.rank=4"], "found 'rank'"),
        ([*SISA, f"{FIELD}.slices=9"], "found 4 shards of 9 slices for 64 training examples"),
        ([*S3T, f"{FIELD}.head=nose"], "expected the head nose among"),
        ([*S3T, f"{FIELD}.layers=topp"], "expected kernels to adapt in topp, found none"),
        ([*S3T, f"{FIELD}.layers=(3,4)"], "expected names of layers"),
        ([f"{FIELD}.name=s3t", f"{FIELD}.layers=()", f"{FIELD}.head=head"], "names of layers"),
        ([*SISA, f"{FIELD}.layout=sideways"], "expected a layout among"),
        ([*S3T, f"{FIELD}.orders=9"], "at most 2 orders of 2 slices"),
        ([*SISA, "--config.training.optimizer=eve"], "expected a optimizer"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused_in_one_sentence(tmp_path, fields, said):
    given = [f"--workdir={tmp_path / 'run'}", f"--task={THIS}:private"]
    assert said in refused("train", *given, *fields)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_method_that_does_not_fit_the_model_is_refused(trained, tmp_path):
    for binary, asked in (("unlearn", "--request=user:u_3"), ("serve_requests", "--accept=ids:1")):
        for name, method, said in (
            ("sisa", "ssd", "expected --method=sisa, the protocol by which the model was trained"),
            ("sisa", "s3t", "expected --method=sisa"),
            ("plain", "sisa", "expected an approximate method for a model of ordinary training"),
        ):
            line = refused(binary, f"--workdir={trained / name}", asked, f"--method={method}")
            assert said in line
    named = [f"--workdir={trained / 'sisa'}", "--request=user:u_3", "--set=shards=2"]
    assert "without --set" in refused("unlearn", *named)
    assert not (trained / "sisa" / "ledger.db").exists()


def test_what_a_protocol_cannot_train_is_refused(tmp_path):
    given = [f"--workdir={tmp_path / 'run'}", f"--task={THIS}:weighted", *SISA]
    assert "brings weights, which have seen all rows" in refused("train", *given)
    given = [f"--workdir={tmp_path / 'run'}", f"--task={THIS}:private", *SISA]
    line = refused("benchmark", *given)
    assert "expected ordinary training, found training.protocol" in line
    wide = ["--config.training.optimizer=adamw", "--config.limit=200"]
    line = refused("ensemble", f"--workdir={tmp_path / 'run'}", *wide, *SISA)
    assert "expected ordinary training, found training.protocol" in line
