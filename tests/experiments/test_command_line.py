"""The command line: every binary shows and takes its own flags alone, and says what is wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import every_binary
import pytest
from absl import flags
from every_binary import MODULES, module_of

from experiments.lib.command_line import define_config, parse
from experiments.lib.own_flags import alone

ROOT = Path(__file__).resolve().parents[2]
OWN = {
    "benchmark": {"config", "models", "oracles", "requests", "task", "workdir"},
    "certificate": {"form", "key", "last"},
    "corrective": {"config", "fractions", "manipulations", "seeds", "task", "workdir"},
    "ensemble": {"config", "export", "fraction", "models", "request", "seed", "task", "workdir"},
    "evaluate": {"request", "retrain", "versions", "workdir"},
    "language": {"config", "methods", "picture", "seeds", "task", "workdir", "write"},
    "nomus": {"config", "request", "seeds", "task", "workdir"},
    "passage": {
        *("alpha", "beta", "groups", "model", "models", "relearning", "seed"),
        *("learning_rate", "steps", "texts", "workdir"),
    },
    "prepare": {
        *("data_dir", "ids", "inputs", "keep", "name", "side", "subjects", "target", "test"),
        *("train", "version"),
    },
    "quickstart": {"config", "first_seed", "models", "request", "seeds", "task", "workdir"},
    "regression": {"config", "seeds", "task", "workdir"},
    "report": {"html", "markdown", "over_runs", "picture", "title"},
    "sequential": {
        *("config", "every", "methods", "models", "requests", "seed", "shards", "size", "slices"),
        *("task", "workdir"),
    },
    "launch": {"budget_chip_hours", "dry_run", "engine", "spec", "yes"},
    "local": {"labels", "max_seconds", "processes"},
    "preflight": {
        *("batch_per_chip", "config", "data", "forget", "fsdp", "json", "methods", "sweep"),
        *("task", "topology"),
    },
    "serve_requests": {
        *("accept", "attempts", "batch", "budget", "data_dir", "gate", "key", "ledger", "method"),
        *("only_accept", "operator", "oracles", "poll", "reason", "refuse", "requests", "retrain"),
        *("seed", "workdir"),
    },
    "sweep": {
        *("attempts", "block", "data_dir", "deaths", "dry_run", "lease_s", "storage", "sweep"),
        *("table", "workdir", "workers"),
    },
    "train": {"config", "restart", "seed", "task", "workdir"},
    "unlearn": {
        *("data_dir", "dry_run", "method", "request", "roll_back", "seed", "set", "swap"),
        *("restart", "serve", "serve_anyway", "workdir"),
    },
    "worker": {"devices", "join_seconds", "max_seconds", "module", "processes"},
}
REQUIRED = {
    "evaluate": {"request", "workdir"},
    "launch": {"spec"},
    "local": {"max_seconds", "processes"},
    "prepare": {"ids", "name", "train"},
    "serve_requests": {"workdir"},
    "sweep": {"sweep"},
    "train": {"workdir"},
    "unlearn": {"workdir"},
    "worker": {"devices", "max_seconds", "module", "processes"},
}

HELP = """
import contextlib, io, json, runpy, sys
found = {}
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        found[name] = [end.code, out.getvalue()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def helps():
    command = [sys.executable, "-W", "ignore", "-c", HELP, *MODULES.values()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize("binary", OWN)
def test_help_shows_the_flags_of_the_binary_alone(helps, binary):
    code, text = helps[MODULES[binary]]
    assert code == 0
    about, shown = text.split("\nFlags:\n")
    assert MODULES[binary] in about
    names = set(re.findall(r"^  --(?:\[no\])?(\w+):", shown, re.MULTILINE))
    assert names == OWN[binary]
    required = set(re.findall(r"^  --(\w+): \(required\)", shown, re.MULTILINE))
    assert required == REQUIRED.get(binary, set())


def test_a_binary_that_is_imported_defines_no_flag():
    for name in OWN:
        module_of(name)
    ours = ("experiments", "launch_tpu")
    assert [m for m in flags.FLAGS.flags_by_module_dict() if m.startswith(ours)] == []


def test_what_starts_other_processes_loads_no_jax():
    program = (
        "import sys, launch_tpu.launch, launch_tpu.hosts.worker, launch_tpu.hosts.engines.local"
    )
    command = [sys.executable, "-c", f"{program}; sys.exit('jax' in sys.modules)"]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0


def test_every_binary_is_in_the_table():
    found = set()
    for room in ("experiments", "launch_tpu"):
        for path in (ROOT / room).rglob("*.py"):
            if re.search(r'^if __name__ == "__main__":', path.read_text("utf-8"), re.MULTILINE):
                found.add(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert {name.removesuffix(".__main__") for name in found} == set(MODULES.values())
    assert set(OWN) == set(MODULES)


@pytest.mark.parametrize(
    "binary, arguments, said",
    [
        ("train", [], "expected a value of --workdir, found none; add --workdir=..."),
        ("evaluate", ["--workdir=w"], "expected a value of --request, found none"),
        ("evaluate", ["--workdir=w", "--request=class:3", "--method=iau"], "found --method;"),
        ("evaluate", ["--workdir=w", "--request=class:3", "--set=alpha=3"], "found --set;"),
        ("quickstart", ["class:3"], "expected flags only, found 'class:3'"),
        ("report", [], "expected files of records"),
        ("certificate", [], "expected verify, show or make_key, and files, found none"),
        ("certificate", ["verify", "--form=pdf"], "--form=pdf"),
        ("regression", ["--seeds=0"], "--seeds=0"),
        ("regression", ["--seeds=many"], "--seeds=many"),
        ("nomus", ["--config.training.epocs=3"], "epocs"),
        ("nomus", ["--config.training.epochs=many"], "many"),
        ("nomus", ["--config.training.epochs"], "epochs"),
        ("nomus", ["--config"], "expected a value after --config"),
        ("nomus", ["--config=/no/where.py"], "found none; check the path"),
        ("nomus", ["--config=/tmp"], "found none; check the path"),
        ("train", ["--workdir=w", "--task"], "expected a value after --task"),
        ("train", ["--workdir=w", "--task=digits"], "expected package.module:function for --task"),
        ("train", ["--workdir=w", "--task=no_such:make"], "ModuleNotFoundError No module named"),
        ("train", ["--workdir=w", "--task=json:no_such"], "expected a function no_such in json"),
        ("train", ["--workdir=w", "--task=os:getcwd"], "return an OwnTask of experiments.lib"),
        ("train", ["--workdir=w", "--task=os:getcwd", "--config=a.py"], "--config or --task"),
        ("nomus", ["--flagfile=/no/where"], "where"),
        ("unlearn", ["--workdir=w", "--method=sdd"], "sdd"),
        ("quickstart", ["--models=-5"], "flag --models=-5: -5 is not an integer in the range [0, "),
        ("benchmark", ["--models=99999999999"], "flag --models=99999999999"),
        ("launch", [], "expected a value of --spec, found none; add --spec=..."),
        ("launch", ["--spec=x"], "expected up, down, reap or status, found none"),
        ("launch", ["--spec=x", "--v=1", "up"], "expected flags among --spec, --dry_run, "),
        ("preflight", ["--fsdp=0"], "flag --fsdp=0"),
        ("preflight", ["--spec=x"], "found --spec; see --help"),
        ("worker", ["--processes=1", "--devices=1", "--max_seconds=1"], "a value of --module"),
        ("local", ["--processes=99", "--max_seconds=1", "--", "ls"], "flag --processes=99"),
        ("local", ["--processes=1", "--max_seconds=1"], "expected a command, after --, found none"),
        ("sweep", ["--sweep=x", "--workers=0"], "flag --workers=0"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(binary, arguments, said):
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        every_binary.parse(binary, arguments)
    sentence = str(caught.value)
    assert said in sentence and sentence.startswith("expected ") and "\n" not in sentence


@pytest.mark.parametrize("binary", ["ensemble", "quickstart", "sequential", "train", "unlearn"])
def test_a_seed_of_another_key_is_refused(binary):
    module = module_of(binary)
    name = "first_seed" if binary == "quickstart" else "seed"
    for seed in (2**32, 2**31, 2**64, -1):
        with pytest.raises(ValueError, match=rf"^expected .*--{name}={seed}: .*\[0, 2147483647\]"):
            parse(module.FLAGS, [binary, "--workdir=w", f"--{name}={seed}"])
    parse(module.FLAGS, [binary, "--workdir=w", f"--{name}={2**31 - 1}"])
    assert module.FLAGS[name].value == 2**31 - 1


def test_no_binary_defines_a_seed_by_itself():
    for binary in OWN:
        values = module_of(binary).FLAGS
        for name in {"seed", "first_seed"} & set(values):
            assert values[name].parser.upper_bound == 2**31 - 1


@pytest.mark.parametrize("binary", [name for name, own in OWN.items() if "workdir" in own])
def test_a_bucket_for_a_working_directory_is_refused_at_once(binary):
    module = module_of(binary)
    request = ["--request=class:3"] if "request" in OWN[binary] else []
    request += ["--sweep=x"] if "sweep" in OWN[binary] else []
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
