"""Requests by the ids and subjects that people have, from their table to the served version."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from experiments import prepare
from experiments.configs import digits
from experiments.lib import command_line
from experiments.lib.ids import check_ids, named_set
from experiments.lib.tasks import make_task, read_ids
from mu_jax.store import Store

ROOT = pathlib.Path(__file__).parents[2]


def write_people(path, users, seed=0):
    """Twenty rows a user: two numbers, and a class that they tell."""
    rng = np.random.default_rng(seed)
    with open(path, "w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "user", "a", "b", "sick"])
        for user in users:
            for row in range(20):
                sick = row % 2
                a, b = rng.normal(2.0 * sick - 1.0, 0.3, 2).round(4)
                writer.writerow([f"{user}/{row}", user, a, b, sick])


def prepared(folder, users, name="people", *more):
    write_people(folder / f"{name}.csv", users)
    write_people(folder / "test.csv", ["t"], seed=1)
    command_line.parse(
        prepare.FLAGS,
        [
            *("prepare", f"--name={name}", f"--train={folder}/{name}.csv"),
            *(f"--test={folder}/test.csv", "--inputs=a,b", "--target=sick", "--ids=key"),
            *("--subjects=user", f"--data_dir={folder}/data", *more),
        ],
    )
    prepare.run()
    prepare.FLAGS.unparse_flags()
    config = digits.get_config()
    config.dataset, config.data_dir = name, f"{folder}/data"
    return config


USERS = [f"u_{number}" for number in range(5)]


def test_a_task_knows_the_ids_of_its_people(tmp_path, capsys):
    task = make_task(prepared(tmp_path, USERS))
    ids = read_ids(task, "user:u_3")
    assert (
        len(ids) == 20
        and "100 rows, IdTable(100 ids, 5 different 'user')" in capsys.readouterr().out
    )
    named = named_set(task, "user:u_3", ids)
    assert set(named.ids) == {f"u_3/{row}" for row in range(20)} and named.size == 20
    table = task.sources["train"].ids
    store = Store(tmp_path / "store")
    store.publish({"w": np.ones(1)}, method="train", ids=table)
    store.publish({"w": np.ones(1)}, method="ssd", parent=1, forgotten=ids, ids=table)
    check_ids(task, store, 2)
    kept = next((tmp_path / "store").glob("ids-*.csv"))
    left = [user for user in USERS if user != "u_3"]
    moved = make_task(prepared(tmp_path, left, "moved"))
    with pytest.raises(ValueError, match=r"expected the number 80 of 'u_4/0', .* found 60"):
        check_ids(moved, store, 2)
    again = make_task(prepared(tmp_path, left, "again", f"--keep={kept}"))
    check_ids(again, store, 2)
    assert not np.isin(ids, np.asarray(again.train.index)).any()
    assert read_ids(again, "user:u_4").tolist() == read_ids(task, "user:u_4").tolist()
    plain = digits.get_config()
    plain.limit, plain.data_dir = 20, f"{tmp_path}/data"
    with pytest.raises(ValueError, match=r"expected digits with a table .* found it without"):
        check_ids(make_task(plain), store, 2)


def run(binary, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{binary}", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "1", "COLUMNS": "110"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_from_a_table_of_people_to_records_that_name_them(tmp_path):
    prepared(tmp_path, USERS)
    workdir = f"--workdir={tmp_path}/run"
    data = ["--config.dataset=people", f"--config.data_dir={tmp_path}/data"]
    trained = run("train", workdir, *data, "--config.training.epochs=2")
    assert trained.returncode == 0, trained.stderr
    (tmp_path / "request.csv").write_bytes("\ufeffuser\r\nu_1\r\n".encode())
    first = run("unlearn", workdir, f"--request={tmp_path}/request.csv", "--serve_anyway")
    assert first.returncode == 0 and "forget 20 of 100" in first.stdout, first.stdout + first.stderr
    store = Store(tmp_path / "run/store")
    assert set(store.forgotten_ids()) == {f"u_1/{row}" for row in range(20)}
    second = run(
        "unlearn", workdir, "--request=user:u_1,u_2", "--method=finetune", "--serve_anyway"
    )
    assert "20 of 40 examples are forgotten already" in second.stdout, second.stderr
    evaluated = run("evaluate", workdir, "--request=id:u_2/0,u_2/3", "--retrain=1")
    assert evaluated.returncode == 0, evaluated.stderr
    line = (tmp_path / "run/evaluation.jsonl").read_text().splitlines()[0]
    assert json.loads(line)["forget_set"]["ids"] == ["u_2/0", "u_2/3"]
    unknown = run("unlearn", workdir, "--request=user:u_9")
    assert unknown.returncode == 2 and "found 1 unknown (u_9)" in unknown.stderr
