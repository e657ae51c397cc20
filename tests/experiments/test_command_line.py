"""The command line: every binary shows and takes its own flags alone, and says what is wrong."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys

import pytest
from absl import flags

from experiments.lib.command_line import alone, define_config, parse

OWN = {
    "benchmark": {"config", "models", "oracles", "requests", "workdir"},
    "corrective": {"config", "fractions", "manipulations", "seeds", "workdir"},
    "ensemble": {"config", "export", "fraction", "models", "request", "seed", "workdir"},
    "evaluate": {"request", "retrain", "versions", "workdir"},
    "nomus": {"config", "request", "seeds", "workdir"},
    "prepare": {
        *("data_dir", "ids", "inputs", "keep", "name", "side", "subjects", "target", "test"),
        *("train", "version"),
    },
    "quickstart": {"config", "first_seed", "models", "request", "seeds", "workdir"},
    "regression": {"config", "seeds", "workdir"},
    "report": {"markdown"},
    "train": {"config", "restart", "seed", "workdir"},
    "unlearn": {
        *("data_dir", "dry_run", "method", "request", "roll_back", "seed", "set", "swap"),
        *("restart", "serve", "serve_anyway", "workdir"),
    },
}
REQUIRED = {
    "evaluate": {"request", "workdir"},
    "prepare": {"ids", "name", "train"},
    "train": {"workdir"},
    "unlearn": {"workdir"},
}

HELP = """
import contextlib, io, json, runpy, sys
found = {}
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_module("experiments." + name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        found[name] = [end.code, out.getvalue()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def helps():
    command = [sys.executable, "-W", "ignore", "-c", HELP, *OWN]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("binary", OWN)
def test_help_shows_the_flags_of_the_binary_alone(helps, binary):
    code, text = helps[binary]
    assert code == 0
    about, shown = text.split("\nFlags:\n")
    assert f"experiments.{binary}" in about
    names = set(re.findall(r"^  --(?:\[no\])?(\w+):", shown, re.MULTILINE))
    assert names == OWN[binary]
    required = set(re.findall(r"^  --(\w+): \(required\)", shown, re.MULTILINE))
    assert required == REQUIRED.get(binary, set())


def test_a_binary_that_is_imported_defines_no_flag():
    for name in OWN:
        importlib.import_module(f"experiments.{name}")
    own = [m for m in flags.FLAGS.flags_by_module_dict() if m.startswith("experiments")]
    assert own == []


def test_every_binary_is_in_the_table():
    from pathlib import Path

    here = Path(importlib.import_module("experiments").__file__).parent
    started = {p.stem for p in here.glob("*.py") if "__main__" in p.read_text("utf-8")}
    assert started == set(OWN)


@pytest.mark.parametrize(
    "binary, arguments, said",
    [
        ("train", [], "expected a value of --workdir, found none; add --workdir=..."),
        ("evaluate", ["--workdir=w"], "expected a value of --request, found none"),
        ("evaluate", ["--workdir=w", "--request=class:3", "--method=iau"], "found --method;"),
        ("evaluate", ["--workdir=w", "--request=class:3", "--set=alpha=3"], "found --set;"),
        ("quickstart", ["class:3"], "expected flags only, found 'class:3'"),
        ("report", [], "expected files of records"),
        ("regression", ["--seeds=0"], "--seeds=0"),
        ("regression", ["--seeds=many"], "--seeds=many"),
        ("nomus", ["--config.training.epocs=3"], "epocs"),
        ("nomus", ["--config.training.epochs=many"], "many"),
        ("nomus", ["--config.training.epochs"], "epochs"),
        ("nomus", ["--config"], "expected a path after --config"),
        ("nomus", ["--config=/no/where.py"], "found none; check the path"),
        ("nomus", ["--config=/tmp"], "found none; check the path"),
        ("nomus", ["--flagfile=/no/where"], "where"),
        ("unlearn", ["--workdir=w", "--method=sdd"], "sdd"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(binary, arguments, said):
    module = importlib.import_module(f"experiments.{binary}")
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        further = "files of records" if binary == "report" else ""
        parse(module.FLAGS, [binary, *arguments], arguments=further)
    sentence = str(caught.value)
    assert said in sentence and sentence.startswith("expected ") and "\n" not in sentence


@pytest.mark.parametrize("binary", ["ensemble", "quickstart", "train", "unlearn"])
def test_a_seed_of_another_key_is_refused(binary):
    module = importlib.import_module(f"experiments.{binary}")
    name = "first_seed" if binary == "quickstart" else "seed"
    for seed in (-1, 2**31, 2**32, 2**64):
        with pytest.raises(ValueError, match=rf"^expected .*--{name}={seed}: .*\[0, 2147483647\]"):
            parse(module.FLAGS, [binary, "--workdir=w", f"--{name}={seed}"])
    parse(module.FLAGS, [binary, "--workdir=w", f"--{name}={2**31 - 1}"])
    assert module.FLAGS[name].value == 2**31 - 1


def test_no_binary_defines_a_seed_by_itself():
    for binary in OWN:
        values = importlib.import_module(f"experiments.{binary}").FLAGS
        for name in {"seed", "first_seed"} & set(values):
            assert values[name].parser.upper_bound == 2**31 - 1


@pytest.mark.parametrize("binary", [name for name, own in OWN.items() if "workdir" in own])
def test_a_bucket_for_a_working_directory_is_refused_at_once(binary):
    module = importlib.import_module(f"experiments.{binary}")
    request = ["--request=class:3"] if "request" in OWN[binary] else []
    with pytest.raises(ValueError, match=r"^expected a local path or gs://.*, found 's3:"):
        parse(module.FLAGS, [binary, "--workdir=s3://b/run", *request])


@pytest.mark.parametrize(
    "text, said",
    [
        ("x = 1", "expected a function get_config"),
        ("get_config = 3", "expected a function get_config"),
        ("def get_config(): return None", "found NoneType"),
        ("def get_config(): return [1]", "found list"),
        ("def get_config(:", "raises SyntaxError"),
        ("import nosuchmodule", "raises ModuleNotFoundError No module named 'nosuchmodule'"),
        ("def get_config(): return 1 / 0", "raises ZeroDivisionError division by zero"),
        ("def get_config(size): return size", "raises TypeError"),
        ("raise SystemExit(3)", "raises SystemExit 3"),
        ("def get_config(): raise OSError('no disk')", "raises OSError no disk"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path, text, said):
    values = flags.FlagValues()
    define_config(values, "digits", "What to run.")
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        parse(values, ["binary", f"--config={file}"])
    assert said in str(caught.value) and str(file) in str(caught.value)


def test_a_configuration_is_read_with_its_changes_and_afresh_every_time():
    values = flags.FlagValues()
    config = define_config(values, "digits", "What to run.")
    changes = ["--config.training.epochs=7", "--config.model.features=(3,)", "--config.limit", "9"]
    assert parse(values, ["binary", *changes]) == ["binary"]
    assert config.value.training.epochs == 7
    assert config.value.model.features == (3,) and config.value.limit == 9
    parse(values, ["binary"])
    assert config.value.training.epochs == 40
    parse(values, ["binary", "--config", "experiments/configs/diabetes.py"])
    assert config.value.dataset == "diabetes"


def test_flags_that_would_be_ignored_are_refused():
    values = flags.FlagValues()
    for name in ("roll_back", "swap"):
        flags.DEFINE_bool(name, False, "What it does.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Where.", flag_values=values)
    parse(values, ["binary", "--roll_back", "--workdir=w"])
    alone(values, "roll_back", "workdir")
    parse(values, ["binary", "--swap", "--workdir=w"])
    alone(values, "roll_back", "workdir")
    parse(values, ["binary", "--roll_back", "--noswap", "--workdir=w"])
    with pytest.raises(ValueError, match="expected --roll_back without --swap"):
        alone(values, "roll_back", "workdir")
