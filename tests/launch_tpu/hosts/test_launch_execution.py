from __future__ import annotations

import fcntl
import json
import os
import subprocess

import pytest
from fake_cloud import JOB, Cloud

from launch_tpu.hosts import execute
from launch_tpu.hosts import plan as plans
from launch_tpu.hosts.commands import Command, File, Until, join
from launch_tpu.hosts.spec import from_dict

SPEC = from_dict({**JOB, "setup": ["echo once >> setups"], "python": "true"})


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """The fake, for commands of this process."""
    return lambda **given: use(Cloud(tmp_path, **given), tmp_path, monkeypatch)


def use(fake, directory, monkeypatch):
    monkeypatch.chdir(directory)
    for name in ("PATH", "PYTHONPATH"):
        monkeypatch.setenv(name, fake.environment[name])
    return fake


def verbs(fake):
    """The verbs of the calls, in order."""
    known = ("create", "describe", "ssh", "delete", "list")
    return [next(word for word in argv if word in known) for argv in fake.calls()]


def launch(spec=SPEC):
    """Launch without waiting; the lines for the user."""
    said: list[str] = []
    execute.up(plans.plan(spec), say=said.append, first_pause=0)
    return said


def test_a_launch_from_queue_to_deletion(cloud):
    fake = cloud(states=["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], boot=True)
    said = launch()
    assert verbs(fake) == ["describe", "create", *["describe"] * 3, "ssh", "delete"]
    assert said[2:5] == ["  WAITING_FOR_RESOURCES", "  PROVISIONING", "  ACTIVE"]
    assert fake.made == []
    for host in ("host0", "host1"):
        assert (fake.state / host / "digits" / "setups").read_text() == "once\n"
    seconds, deletion = fake.armed[0].removeprefix("--collect --on-active=").split("s ", 1)
    assert 14390 <= int(seconds) <= 14400
    assert deletion == join(plans.plan(SPEC)[0].undo)


def test_the_startup_script_may_run_again(cloud):
    fake = cloud(boot=True, workers=1)
    steps = plans.plan(SPEC)
    execute.up(steps[:1], say=lambda _: None)
    home = fake.state / "host0" / "digits"
    end = (home / "deadline").read_text()
    (home / "deadline").write_text(str(int(end) - 14000))  # it has run for long
    environment = {**fake.environment, "MU_JAX_HOME": str(home.parent)}
    subprocess.run(["bash", steps[0].file.path], env=environment, check=True)
    assert (home / "setups").read_text() == "once\n"
    left = [int(line.split("=")[1].split("s ")[0]) for line in fake.armed]
    assert left[0] > 14390 and left[1] < 401


def test_a_failed_setup_ends_the_launch(cloud, capfd):
    fake = cloud(boot=True, workers=1)
    spec = from_dict({**JOB, "setup": ["exit 3"], "python": "true"})
    fake_path = fake.state / "host0" / "digits" / "failed"
    with pytest.raises(execute.LaunchError) as error:
        launch(spec)
    assert fake_path.exists()
    assert error.value.code == 1
    assert "found that its set-up failed" in capfd.readouterr().err
    assert fake.made == []


def test_creation_fails_and_nothing_remains(cloud):
    fake = cloud()
    fake.fail(create=7)
    with pytest.raises(execute.LaunchError, match="queued-resources create digits") as error:
        launch()
    assert error.value.code == 7
    assert "found exit code 7" in str(error.value)
    assert verbs(fake) == ["describe", "create", "describe"]


def test_creation_fails_after_it_has_made_something(cloud):
    fake = cloud()
    fake.fail(create=7, half=True)
    with pytest.raises(execute.LaunchError) as error:
        launch()
    assert (error.value.code, fake.made) == (7, [])
    assert verbs(fake)[-1] == "delete"


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED", "SUSPENDING"])
def test_a_bad_state_undoes_the_creation(cloud, state):
    fake = cloud(states=["WAITING_FOR_RESOURCES", state])
    with pytest.raises(execute.LaunchError, match=f"expected ACTIVE, found {state}") as error:
        launch()
    assert (error.value.code, fake.made) == (1, [])
    assert "ssh" not in verbs(fake)


def test_the_queue_takes_too_long(cloud):
    fake = cloud(states=["WAITING_FOR_RESOURCES"])
    steps = plans.plan(SPEC)
    steps[1] = steps[1]._replace(until=steps[1].until._replace(seconds=0))
    with pytest.raises(execute.LaunchError, match="found WAITING_FOR_RESOURCES; raise queue_hours"):
        execute.up(steps, say=lambda _: None, first_pause=0)
    assert fake.made == []


def test_the_job_fails_and_its_exit_code_is_reported(cloud):
    fake = cloud(boot=True)
    with pytest.raises(execute.LaunchError, match="queued-resources ssh digits") as error:
        launch(from_dict({**JOB, "python": "false"}))
    assert (error.value.code, fake.made) == (1, [])
    fake.fail(ssh=42)
    with pytest.raises(execute.LaunchError, match="found exit code 42") as error:
        launch()
    assert error.value.code == 42


def test_undoing_fails_and_the_command_is_printed(cloud):
    fake = cloud(boot=True)
    fake.fail(ssh=5, delete=6)
    with pytest.raises(execute.LaunchError) as error:
        launch()
    sentence, by_hand = str(error.value).split("\n  run by hand: ")
    assert "could not be undone and may cost money" in sentence
    assert by_hand == join(plans.plan(SPEC)[0].undo)
    assert (error.value.code, fake.made) == (5, ["digits"])


def test_a_second_launch_leaves_the_first_alone(cloud):
    fake = cloud(boot=True)
    execute.up(plans.plan(SPEC)[:2], say=lambda _: None)
    fake.fail(ssh=3)
    with pytest.raises(execute.LaunchError):
        launch()
    assert fake.made == ["digits"]
    assert len(fake.calls("create")) == 1


def test_a_second_job_on_a_host_ends_with_a_sentence(cloud, capfd):
    fake = cloud(boot=True, workers=1)
    execute.up(plans.plan(SPEC)[:2], say=lambda _: None)
    lock = fake.state / "host0" / "digits" / "run.lock"
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(execute.LaunchError) as error:
            launch()
    assert error.value.code == 75
    assert "expected one run of digits on a host, found another" in capfd.readouterr().err
    assert fake.made == ["digits"]


def test_down_of_what_is_there_and_of_what_is_not(cloud):
    fake = cloud()
    execute.up(plans.plan(SPEC)[:2], say=lambda _: None)
    assert execute.undo(plans.down(SPEC), say=lambda _: None) == []
    assert fake.made == []
    assert execute.undo(plans.down(SPEC), say=lambda _: None) == []
    fake.fail(delete=1, describe=1)  # not to be told from an account without rights
    assert execute.undo(plans.down(SPEC), say=lambda _: None) == [plans.plan(SPEC)[0].undo]


def test_reap_deletes_what_carries_our_label_and_nothing_else(cloud):
    fake = cloud()
    for name in ("one", "two"):
        step = plans.plan(from_dict({**JOB, "name": name}))[0]
        execute.up([step], say=lambda _: None)
    argv = ["--labels=team=vision"]
    (fake.state / "made" / "theirs").write_text(json.dumps(argv))
    asked: list[str] = []
    refuse = execute.reap(plans.reap(SPEC), agree=lambda q: asked.append(q), say=lambda _: None)
    assert (refuse, fake.made) == ([], ["one", "theirs", "two"])
    assert "delete one" in asked[0] and "delete two" in asked[0] and "theirs" not in asked[0]
    fake.fail(list=1)
    assert len(execute.reap(plans.reap(SPEC), agree=bool, say=lambda _: None)) == 1
    fake.fail()
    assert execute.reap(plans.reap(SPEC), agree=bool, say=lambda _: None) == []
    assert fake.made == ["theirs"]


def test_undo_runs_backwards_and_once():
    ran: list[tuple[str, ...]] = []

    def run(argv, quiet):
        ran.append(argv)
        return execute.Result(1 if argv == ("bad",) else 0)

    steps = [
        Command(("a",), "a", undo=("undo a",)),
        Command(("b",), "b", undo=("undo both",)),
        Command(("c",), "c", undo=("undo both",)),
        Command(("bad",), "bad"),
        Command(("never",), "never"),
    ]
    with pytest.raises(execute.LaunchError, match="expected success of bad"):
        execute.up(steps, run=run, say=lambda _: None)
    assert ran == [("a",), ("b",), ("c",), ("bad",), ("undo both",), ("undo a",)]


def test_an_interrupt_undoes_too():
    ran: list[tuple[str, ...]] = []

    def run(argv, quiet):
        ran.append(argv)
        if argv == ("wait",):
            raise KeyboardInterrupt
        return execute.Result(0)

    steps = [Command(("a",), "a", undo=("undo a",)), Command(("wait",), "wait")]
    with pytest.raises(KeyboardInterrupt):
        execute.up(steps, run=run, say=lambda _: None)
    assert ran[-1] == ("undo a",)


def test_whatever_goes_wrong_is_undone():
    def run(argv, quiet):
        if argv == ("undo a",):
            raise KeyboardInterrupt  # pressed once more
        if argv == ("b",):
            raise OSError("no space")
        return execute.Result(0)

    steps = [
        Command(("c",), "c", undo=("undo c",)),
        Command(("a",), "a", undo=("undo a",)),
        Command(("b",), "b"),
    ]
    with pytest.raises(execute.LaunchError) as error:
        execute.up(steps, run=run, say=lambda _: None)
    assert str(error.value) == (
        "no space; these could not be undone and may cost money\n  run by hand: 'undo a'"
    )


def test_a_look_may_fail_some_times_but_not_for_ever():
    until = Until(frozenset({"ACTIVE"}), frozenset({"FAILED"}), 60)
    steps = [Command(("look",), "wait", until=until)]
    fault = execute.Result(1, "", "connection reset")

    def look(results):
        left = iter(results)
        execute.up(steps, run=lambda *_: next(left), say=lambda _: None, first_pause=0)

    look([fault] * 4 + [execute.Result(0, "WAITING")] + [fault] * 4 + [execute.Result(0, "ACTIVE")])
    with pytest.raises(execute.LaunchError, match="found exit code 1: connection reset"):
        look([fault] * 5)
    with pytest.raises(execute.LaunchError, match="was not found"):
        look([execute.Result(1, "", "it was not found")])


def test_a_killed_command_has_the_code_of_a_shell():
    assert execute.in_shell(("bash", "-c", "kill -9 $$"), True).code == 137


def test_no_output_may_end_a_wait():
    until = Until(frozenset({"TERMINATED", ""}), frozenset(), 60)
    outputs = iter(["RUNNING\nRUNNING\n", "RUNNING\nTERMINATED", ""])
    steps = [Command(("list",), "wait", until=until)]
    execute.up(
        steps, run=lambda *_: execute.Result(0, next(outputs)), say=lambda _: None, first_pause=0
    )
    assert list(outputs) == []


def test_a_program_that_is_not_there():
    with pytest.raises(execute.LaunchError, match="expected the program no-such-gcloud on PATH"):
        execute.up([Command(("no-such-gcloud",), "try")], say=lambda _: None)


@pytest.mark.parametrize("broken", ["mode", "interpreter", "folder"])
def test_a_program_that_does_not_start(broken, tmp_path, monkeypatch):
    program = tmp_path / "gcloud"
    if broken == "folder":
        program = tmp_path / "file" / "gcloud"
        program.parent.write_text("")
    else:
        program.write_text("#!/no/such/interpreter\n")
        program.chmod(0o644 if broken == "mode" else 0o755)
    with pytest.raises(execute.LaunchError, match="found that the system refuses it") as error:
        execute.up([Command((str(program),), "try")], say=lambda _: None)
    assert error.value.code == 126 and str(program) in str(error.value)


def test_two_launches_at_once_leave_a_whole_script(tmp_path, monkeypatch):
    path, real = tmp_path / "jobs" / "startup.sh", os.replace

    def meanwhile(source, target):
        monkeypatch.undo()
        execute._write(File(str(path), "another launch\n"))
        assert path.read_text() == "another launch\n"
        real(source, target)

    monkeypatch.setattr(os, "replace", meanwhile)
    execute._write(File(str(path), "this launch\n"))
    assert path.read_text() == "this launch\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["startup.sh"]


def test_a_file_that_cannot_be_written(cloud):
    fake = cloud()
    (fake.state.parent / ".launch_tpu").write_text("")
    with pytest.raises(execute.LaunchError, match=r"expected to write \.launch_tpu/digits/start"):
        launch()
    assert verbs(fake) == ["describe", "describe"]
