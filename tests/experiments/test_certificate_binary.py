"""`experiments.certificate`: exit codes that mean something, and one sentence for what is wrong."""

from __future__ import annotations

import pytest
from in_process import call

from mu_jax.service import Statement, certificates, envelopes, keys

FURTHER = "verify, show or make_key, and files"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An operator's key, three certificates, and somebody else's key."""
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("operator", "other"):
        keys.make_key(folder / name)
    previous = None
    for version in (2, 3, 4):
        statement = Statement(
            asked=[],
            forgotten=[version],
            method="scrub",
            aim="removal",
            parameters={},
            parent=version - 1,
            version=version,
            measured={"forget accuracy": 0.25},
        )
        key = keys.read_key(folder / "operator")
        previous = certificates.issue(key, statement, previous=previous, operator="ACME")
        certificates.write(folder, previous)
    (folder / "last").write_text(envelopes.digest(previous))
    return folder


def files(folder, *numbers):
    return [f"{folder}/certificate-{number:08d}.json" for number in numbers]


def run(*arguments):
    ended = call("certificate", *map(str, arguments), further=FURTHER)
    lines = ended.stderr.splitlines()
    assert ended.returncode in (0, 3) or (len(lines) == 1 and lines[0].startswith("error: exp"))
    return ended


def test_a_chain_of_the_operator_is_verified(folder):
    key = f"--key={folder}/operator.pub"
    ended = run("verify", key, *files(folder, 1, 2, 3))
    assert ended.returncode == 0 and "Certificates 1 to 3 are one chain" in ended.stdout
    last = (folder / "last").read_text()
    assert last in ended.stdout and "give --last" in ended.stdout
    ended = run("verify", key, f"--last={last}", *files(folder, 1, 2, 3))
    assert ended.returncode == 0 and "give --last" not in ended.stdout


def test_without_a_key_nobody_knows_whose_it_is(folder):
    ended = run("verify", *files(folder, 1, 2, 3))
    assert ended.returncode == 3 and "by --key" in ended.stdout


@pytest.mark.parametrize(
    "numbers, flags, said",
    [
        ((1, 3), [], "the chain is cut"),
        ((2, 3), [], "expected certificate 1 at the beginning"),
        ((1, 3, 2), [], "expected certificate 2"),
        ((1, 2), ["--last"], "missing at the end"),
        ((1, 2, 3), ["--key=other"], "of the operator's key"),
    ],
)
def test_a_chain_that_does_not_hold_is_exit_code_1(folder, numbers, flags, said):
    flags = [f"--last={(folder / 'last').read_text()}" if f == "--last" else f for f in flags]
    flags = [f"--key={folder}/other.pub" if f == "--key=other" else f for f in flags]
    if not any(flag.startswith("--key") for flag in flags):
        flags.append(f"--key={folder}/operator.pub")
    ended = run("verify", *flags, *files(folder, *numbers))
    assert ended.returncode == 1 and said in ended.stderr and ended.stdout == ""


def test_a_forged_file_is_exit_code_1(folder, tmp_path):
    forged = tmp_path / "forged.json"
    with open(files(folder, 1)[0], "rb") as file:
        forged.write_bytes(file.read().replace(b"0.25", b"0.05"))
    for verb in ("verify", "show"):
        ended = run(verb, f"--key={folder}/operator.pub", forged)
        assert ended.returncode == 1 and "was changed" in ended.stderr and ended.stdout == ""


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["verify"], "expected verify, show or make_key, and files, found 'verify'"),
        (["check", "x"], "found 'check x'"),
        (["verify", "/no/where.json"], "/no/where.json"),
        (["verify", __file__], "expected a certificate, found"),
        (["verify", "--key=/no/where.pub", __file__], "/no/where.pub"),
        (["verify", f"--key={__file__}", "x"], "expected certificates|/x, found none"),
        (["verify", "--form=html", "x"], "expected verify without --form"),
        (["show", "--last=x", "x"], "expected show without --last"),
        (["make_key", "a", "b"], "expected one file for the key, found 2"),
        (["make_key", "--key=x", "a"], "expected make_key without --key"),
    ],
)
def test_bad_input_is_exit_code_2(arguments, said):
    ended = run(*arguments)
    assert ended.returncode == 2
    assert any(each in ended.stderr for each in said.split("|")), ended.stderr


def test_a_page_in_each_form(folder):
    starts = {"text": "Certificate 2\n===", "markdown": "# Certificate 2", "html": "<!doc"}
    for form, start in starts.items():
        ended = run("show", f"--form={form}", *files(folder, 2))
        assert ended.returncode == 0 and ended.stdout.startswith(start)


def test_a_key_is_made_once(tmp_path):
    ended = run("make_key", tmp_path / "mine")
    assert ended.returncode == 0
    assert keys.read_public_key(tmp_path / "mine.pub") in ended.stdout
    assert run("make_key", tmp_path / "mine").returncode == 2
