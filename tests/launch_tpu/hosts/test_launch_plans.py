from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess

import pytest
from fake_cloud import JOB, ROOT

from launch_tpu.hosts import plan as plans
from launch_tpu.hosts import scripts
from launch_tpu.hosts.commands import LABEL, Command, join, quote, render
from launch_tpu.hosts.spec import from_dict

RECIPES = (ROOT / "docs" / "launch.md").read_text()
AWKWARD = ['--note=it\'s a "test"', "--text=two\nlines", "--cost=$HOME `id` \\n", "--x=!*?;&|", ""]


def all_specs():
    """Every engine with every kind of slice, spot or not, with and without a cluster."""
    topologies = ["v4:2x2x1", "v4:4x4x4", "v5e:1x1", "v5e:4x4", "v5p:2x2x4", "v6e:2x4", "v7x:4x4x4"]
    engines = ["queued_resources", "instance_groups", "xpk", "local"]
    for engine, topology, slices, spot, cluster in itertools.product(
        engines, topologies, (1, 3), (False, True), ("", "shared")
    ):
        change = {"engine": engine, "topology": topology, "slices": slices, "spot": spot}
        try:
            spec = from_dict({**JOB, **change, "cluster": cluster, "max_hours": 1.5})
            yield spec, plans.plan(spec)
        except ValueError:
            continue


EVERYTHING = list(all_specs())


def is_creation(step: Command) -> bool:
    return "create" in step.argv


def test_every_engine_is_among_the_plans():
    assert {spec.engine for spec, _ in EVERYTHING} == set(plans._ENGINES)
    assert len(EVERYTHING) > 60


@pytest.mark.parametrize(
    ("spec", "steps"), EVERYTHING, ids=[f"{s.engine}-{i}" for i, (s, _) in enumerate(EVERYTHING)]
)
def test_no_plan_lacks_a_limit_a_label_and_an_undo(spec, steps):
    text = "\n".join([*map(join, (s.argv for s in steps)), *(s.file.text for s in steps if s.file)])
    creations = [step for step in steps if is_creation(step)]
    assert bool(creations) == (spec.engine != "local")
    for step in creations:
        assert step.undo and "delete" in step.undo, step
        assert step.probe, step
        mark = f"--workload=mu-jax-{spec.name}"
        assert LABEL in join(step.argv) or mark in step.argv or "--template" in join(step.argv)
    # The job ends itself; whatever is paid for also ends without it.
    assert f"--max_seconds={spec.max_seconds}" in text
    if spec.engine == "queued_resources":
        assert "--valid-until-duration=86400s" in creations[0].argv
        script = creations[0].file.text
        assert f"+ {spec.max_seconds}))" in script and join(creations[0].undo) in script
    elif spec.engine == "instance_groups" or (spec.engine == "xpk" and not spec.cluster):
        assert f"--max-run-duration={spec.max_seconds}s" in text
    # In the end everything is given back, the last made first, and `down` does the same.
    undone = [step.undo for step in reversed(creations)]
    assert [step.argv for step in steps if "delete" in step.argv] == list(dict.fromkeys(undone))
    assert [step.undo for step in plans.down(spec)] == list(dict.fromkeys(undone))


@pytest.mark.parametrize(("spec", "steps"), EVERYTHING[:: len(EVERYTHING) // 12])
def test_a_dry_run_is_a_bash_script(spec, steps):
    for shown in (steps, plans.reap(spec), plans.undoing(plans.down(spec)), plans.status(spec)):
        subprocess.run(["bash", "-n"], input=render(shown), text=True, check=True)


def recipes() -> list[tuple[str, str]]:
    return re.findall(r"```json\n(.*?)```\n.*?```bash\n(.*?)```", RECIPES, re.DOTALL)


@pytest.mark.parametrize("number", range(4))
def test_the_recipes_of_the_documentation(number):
    specification, shown = recipes()[number]
    spec = from_dict(json.loads(specification))
    expected = f"{render(plans.plan(spec))}"
    assert shown == expected, f"paste this into docs/launch.md:\n{expected}"


def test_a_recipe_for_every_engine():
    engines = [from_dict(json.loads(specification)).engine for specification, _ in recipes()]
    assert sorted(engines) == sorted(plans._ENGINES)


@pytest.mark.parametrize("engine", ["queued_resources", "instance_groups"])
def test_startup_scripts_are_bash(engine):
    spec = from_dict({**JOB, "engine": engine, "flags": AWKWARD, "setup": ["echo 'a b' && :"]})
    scripted = [step.file.text for step in plans.plan(spec) if step.file]
    assert len(scripted) == 1
    subprocess.run(["bash", "-n"], input=scripted[0], text=True, check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-"], input=scripted[0], text=True, check=True)


def test_words_come_through_bash_unchanged():
    line = f"printf '%s\\0' {join(AWKWARD)}"
    assert "\n" not in line
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == AWKWARD
    assert quote("plain") == "plain"


def test_flags_come_through_two_shells_unchanged():
    spec = from_dict({**JOB, "flags": AWKWARD})
    ssh = next(step for step in plans.plan(spec) if "ssh" in step.argv)
    command = ssh.argv[-1].removeprefix("--command=")
    assert "\n" not in command
    # The local shell of who copies the dry run, then the shell of the host.
    shown = render([ssh]).replace("\\\n", " ").splitlines()[-1]
    assert shlex.split(shown) == list(ssh.argv)
    job = command[command.index("python3 -m") : command.index(" || code=")]
    line = f"printf '%s\\0' {job}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == list(scripts.worker(spec))


def recorder(path):
    """A program that writes down its arguments."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('#!/bin/bash\nprintf "%s\\0" "$0" "$@" > "$RECORD"\n')
    path.chmod(0o755)
    return str(path)


def piped(text, tmp_path):
    """What bash does with a text as its input; the arguments of the program that it ran last."""
    record, folder = tmp_path / "record", tmp_path / "launched"
    folder.mkdir()
    subprocess.run(
        ["bash"],
        input=text,
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "RECORD": str(record)},
        cwd=folder,
        text=True,
        check=True,
    )
    return record.read_text().split("\0")[:-1], sorted(str(p) for p in folder.rglob("*"))


def test_a_dry_run_that_is_piped_to_a_shell_runs_no_part_of_a_word(tmp_path):
    python = recorder(tmp_path / "my env" / "python$(touch broken); touch broken #'")
    spec = from_dict({**JOB, "engine": "local", "python": python, "flags": AWKWARD})
    steps = plans.plan(spec)
    assert piped(render(steps), tmp_path) == (list(steps[0].argv), [])


def test_no_line_of_the_setup_ends_the_file_that_holds_it(tmp_path):
    recorder(tmp_path / "bin" / "gcloud")
    setup = ["END_OF_FILE", "touch broken", "END_OF_FILE_", "cat <<'END_OF_FILE'", "a"]
    spec = from_dict({**JOB, "setup": setup})
    step = plans.plan(spec)[0]
    (_, *arguments), made = piped(render([step]), tmp_path)
    written = tmp_path / "launched" / step.file.path
    assert arguments == list(step.argv[1:]) and str(written) in made
    assert written.read_text() == step.file.text
    assert [path for path in made if path.endswith("broken")] == []


@pytest.mark.parametrize(
    ("setup", "runs"),
    [
        (["true # prepared"], True),
        (["false || true", "cd /; x=1", "test $x = 1"], True),
        (["true; false # not prepared"], False),
        (["cat <<'END'", "text", "END"], False),
    ],
)
def test_a_container_runs_the_job_after_its_setup_and_not_without(tmp_path, setup, runs):
    python = recorder(tmp_path / "python")
    spec = from_dict({**JOB, "engine": "xpk", "setup": setup, "python": python})
    line, record = scripts.in_container(spec), tmp_path / "record"
    done = subprocess.run(["sh", "-c", line], env={"PATH": "/bin", "RECORD": str(record)})
    assert (done.returncode == 0) == record.exists() == runs and "\n" not in line
    assert not runs or record.read_text().split("\0")[:-1] == list(scripts.worker(spec))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="needs the Google Cloud CLI")
def test_gcloud_knows_every_flag(tmp_path):
    """The parser of gcloud itself reads the commands; nothing is run, no account is needed."""
    steps = [step for spec, steps in EVERYTHING for step in [*steps, *plans.status(spec)]]
    words = {word for step in steps for word in (step.argv, step.undo, step.probe) if word}
    for spec, _ in EVERYTHING:
        for step in plans.reap(spec):
            words |= {step.argv} | ({step.deletion("n")} if hasattr(step, "deletion") else set())
    # gcloud's checker moves flags about by blanks, so the remote command is reduced to a word.
    short = {
        shlex.join("--command=x" if word.startswith("--command=") else word for word in argv)
        for argv in words
        if argv[0] == "gcloud"
    }
    path = tmp_path / "commands.json"
    path.write_text(json.dumps([{"command_string": line} for line in sorted(short)]))
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path)}
    done = subprocess.run(
        ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={path}"],
        env={**environment, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert len(found) == len(short) > 20
    assert [one["error_message"] for one in found if not one["success"]] == []
