"""Certificates: what they say, what they do not claim, and every way to forge a chain."""

from __future__ import annotations

import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mu_jax as mu
from mu_jax import _json
from mu_jax.service import (
    APPROXIMATE,
    Guarantee,
    Ledger,
    NotVerified,
    Statement,
    certificates,
    envelopes,
    fingerprints,
    guarantees,
    keys,
)
from mu_jax.service.requests import Request

ASKED = Request(7, "user:ada", "pending", "", "2026-01-02", "2026-01-03", 2, "ab", None, 3, None)
EXACT = Guarantee("exact", "SISA, 4 shards of 3 slices")
CERTIFIED = Guarantee("certified", "features of public data", 1.0, 1e-4)


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "operator.pem"
    keys.make_key(path)
    return keys.read_key(path)


def certify(key, previous=None, *, operator="ACME GmbH", next_key=None, **changed):
    fields = {
        "asked": [ASKED],
        "forgotten": [3, 1, 3],
        "method": "ssd",
        "aim": "removal",
        "guarantee": APPROXIMATE,
        "parameters": {"alpha": 2.0, "name": "café"},
        "parent": 1,
        "version": 2,
        "measured": {"retain accuracy": jnp.float32(0.5), "collapsed": False},
        "thresholds": {"retain accuracy": ">= 0.4"},
        "inputs": {"variables": {"w": np.ones(2, np.float32)}},
        "outputs": {"variables": {"w": np.zeros(2, np.float32)}},
    }
    statement = Statement(**(fields | changed))
    return certificates.issue(
        key, statement, previous=previous, operator=operator, next_key=next_key
    )


def make_chain(key, number=3):
    lines = []
    for version in range(2, 2 + number):
        lines.append(certify(key, lines[-1] if lines else None, version=version))
    return lines


@pytest.fixture(scope="module")
def chain(key):
    return make_chain(key)


def test_a_chain_says_what_was_asked_done_and_measured(key, chain):
    found = certificates.verify(chain, key=keys.public_text(key))
    assert [each.number for each in found] == [1, 2, 3]
    assert [each.previous for each in found] == [None, *map(envelopes.digest, chain[:2])]
    record = found[0].record
    assert record["asked"][0]["asked"] == "user:ada" and record["asked"][0]["request"] == 7
    assert record["done"]["parameters"] == {"alpha": 2.0, "name": "café"}
    assert record["done"]["forgotten"] == {"examples": 2, "ids": mu.datasets.digest([1, 3])}
    assert record["measured"] == {"retain accuracy": 0.5, "collapsed": False}
    assert record["code"]["mu_jax"] == mu.__version__ and len(record["code"]["source_sha256"]) == 64
    assert fingerprints.differing(record["outputs"]["variables"], {"w": np.zeros(2, "f4")}) == []
    assert fingerprints.differing(record["outputs"]["variables"], {"w": np.ones(2, "f4")}) == ["w"]


@pytest.mark.parametrize(
    "aim, guarantee, said",
    [
        ("removal", APPROXIMATE, "There is no guarantee"),
        ("suppression", APPROXIMATE, "Nothing was removed"),
        ("removal", EXACT, "Equality is by the protocol that is named"),
        ("removal", CERTIFIED, "a bound on what can be told apart, not equality"),
    ],
)
def test_every_certificate_says_what_it_does_not_claim(key, aim, guarantee, said):
    (found,) = certificates.verify([certify(key, aim=aim, guarantee=guarantee, notes=["More."])])
    sentences = found.record["not_claimed"]
    assert any(sentence.startswith(said) or said in sentence for sentence in sentences)
    assert any("does not prove" in sentence for sentence in sentences)
    assert any("backups" in sentence for sentence in sentences) and sentences[-1] == "More."
    assert ("There is no guarantee" in " ".join(sentences)) == (guarantee == APPROXIMATE)
    claim = guarantees.claimed(guarantee)
    assert guarantee.protocol in claim


@pytest.mark.parametrize(
    "changed, said",
    [
        ({"aim": "suppression", "guarantee": EXACT}, "what is hidden is still there"),
        ({"aim": "hiding"}, "expected removal or suppression"),
        ({"guarantee": Guarantee("exact")}, "expected a protocol for the exact guarantee"),
        ({"guarantee": Guarantee("approximate", "SISA")}, "no protocol for an approximate"),
        ({"guarantee": Guarantee("certified", "x")}, "expected epsilon and delta above 0"),
        ({"guarantee": EXACT._replace(epsilon=1.0)}, "for a certified guarantee, and for no other"),
        ({"guarantee": CERTIFIED._replace(delta=float("nan"))}, "expected epsilon and delta"),
        ({"guarantee": Guarantee("perfect")}, "expected approximate, certified or exact"),
        ({"measured": {"accuracy": float("nan")}}, "expected a certificate of finite numbers"),
        ({"parameters": {"optimizer": object()}}, "found object"),
        ({"inputs": {"model": {"w": "text"}}}, "expected arrays"),
        ({"forgotten": [0.5]}, "expected integer example ids"),
    ],
)
def test_a_claim_that_the_method_cannot_make_is_not_signed(key, changed, said):
    with pytest.raises(ValueError, match=said):
        certify(key, **changed)


def resign(key, line, change):
    """What the holder of a key could sign, against the rules of the house."""
    record = json.loads(line)["certificate"]
    change(record)
    record["key"] = keys.public_text(key)
    signature = key.sign(envelopes.signed_bytes(record)).hex()
    return envelopes.sealed(record, record["key"], signature)


def forgeries(key, other, chain):
    first, second, third = chain
    stranger = make_chain(other)
    flipped = json.loads(second)
    flipped["signature"] = "0" * 128
    kept_quiet = resign(key, first, lambda record: record["not_claimed"].pop(0))
    claims = resign(key, first, lambda record: record["done"].update(guarantee={"kind": "exact"}))
    fork = certify(key, first, version=9)
    return {
        "a number changed": (
            [first.replace(b"0.5", b"0.9"), second],
            "to be of what it says",
        ),
        "a word changed": ([first.replace(b"user:ada", b"user:bob")], "one of the two was changed"),
        "a key changed in the envelope": (
            [first.replace(keys.public_text(key).encode(), keys.public_text(other).encode(), 1)],
            "found the key|one of the two",
        ),
        "no signature": ([first, _json.canonical(flipped), third], "certificate 2 to be of what"),
        "spaces": ([first.replace(b'":', b'": ', 1)], "found it written otherwise"),
        "a name twice": ([first.replace(b"{", b'{"key":"x",', 1)], "found it written otherwise"),
        "cut at the beginning": (
            [second, third],
            "1 at the beginning, found 2",
        ),
        "cut in the middle": (
            [first, third],
            "certificate 2 after certificate 1, found 3",
        ),
        "in another order": ([first, third, second], "expected certificate 2 after certificate 1"),
        "backwards": (
            [first, second, first],
            "certificate 3 after certificate 2, found 1",
        ),
        "one twice": ([first, first], "expected certificate 2 after certificate 1, found 1"),
        "one replaced": ([first, fork, third], "expected certificate 3 to follow certificate 2"),
        "of another key": (stranger, "of the operator's key"),
        "the end of another key": ([first, stranger[1]], "found the key"),
        "a sentence left out": (
            [kept_quiet],
            "to say what it does not claim",
        ),
        "a claim without a protocol": ([claims], "the claim is none that its method can make"),
    }


NAMES = [
    *("a number changed", "a word changed", "a key changed in the envelope", "no signature"),
    *("spaces", "a name twice", "cut at the beginning", "cut in the middle", "in another order"),
    *("backwards", "one twice", "one replaced", "of another key", "the end of another key"),
    *("a sentence left out", "a claim without a protocol"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_chain_that_was_forged_is_told(key, chain, tmp_path, name):
    keys.make_key(tmp_path / "other.pem")
    every = forgeries(key, keys.read_key(tmp_path / "other.pem"), chain)
    assert set(every) == set(NAMES)
    lines, said = every[name]
    with pytest.raises(NotVerified, match=said) as error:
        certificates.verify(lines, key=keys.public_text(key))
    text = str(error.value)
    assert text.startswith("expected ") and "found" in text and "\n" not in text


def test_without_a_key_a_chain_must_agree_with_itself(key, chain, tmp_path):
    assert len(certificates.verify(chain)) == 3
    keys.make_key(tmp_path / "other.pem")
    mixed = [chain[0], certify(keys.read_key(tmp_path / "other.pem"), chain[0])]
    with pytest.raises(NotVerified, match="certificate 2 of the operator's key"):
        certificates.verify(mixed)


def test_a_key_names_the_one_that_follows_it(key, tmp_path):
    public = keys.make_key(tmp_path / "second.pem")
    second = keys.read_key(tmp_path / "second.pem")
    first = certify(key, next_key=f"{tmp_path}/second.pem.pub")
    lines = [first, certify(second, first)]
    lines.append(certify(second, lines[-1]))
    found = certificates.verify(lines, key=keys.public_text(key))
    assert [each.key for each in found] == [keys.public_text(key), public, public]
    with pytest.raises(NotVerified, match="certificate 2 of the operator's key"):
        certificates.verify([first, certify(key, first)])  # the former key is over
    with pytest.raises(NotVerified, match="certificate 1 of the operator's key"):
        certificates.verify(lines, key=public)


def test_no_damage_of_a_chain_is_taken_for_it(key, chain):
    """Bytes flipped, cut out, doubled or put in: a sentence, each time."""
    public, draws = keys.public_text(key), random.Random(0)
    for _ in range(300):
        lines = list(chain)
        which = draws.randrange(3)
        line, place = bytearray(lines[which]), draws.randrange(len(lines[which]))
        kind = draws.choice(["flip", "cut", "double", "put"])
        if kind == "flip":
            line[place] ^= 1 << draws.randrange(8)
        elif kind == "cut":
            del line[place : place + draws.randrange(1, 40)]
        else:
            part = line[place : place + draws.randrange(1, 40)]
            line[place:place] = part if kind == "double" else bytes([draws.randrange(256)])
        lines[which] = bytes(line)
        if lines[which].rstrip(b"\n") == chain[which]:
            continue
        with pytest.raises(ValueError) as error:
            certificates.verify(lines, key=public)
        text = str(error.value)
        assert text.startswith("expected ") and "\n" not in text, text


def test_what_is_missing_at_the_end_is_seen_by_the_digest_of_the_last(chain):
    last = envelopes.digest(chain[-1])
    assert len(certificates.verify(chain, last=last)) == 3
    with pytest.raises(NotVerified, match="certificates are missing at the end"):
        certificates.verify(chain[:2], last=last)


@pytest.mark.parametrize(
    "line, said",
    [
        (b"", "found an empty line"),
        (b"{}", "expected a certificate, found '{}'"),
        (b"[" * 100_000, "expected a certificate, found"),
        (b'{"certificate":{"format":1,"number":true},"key":"","signature":""}', "expected a cert"),
        (b"\xff\xfe", "expected a certificate"),
        (b'{"certificate":[],"key":1,"signature":2}', "expected a certificate"),
    ],
)
def test_what_is_no_certificate_is_bad_input(line, said):
    with pytest.raises(ValueError, match=said) as error:
        certificates.verify([line])
    assert not isinstance(error.value, NotVerified)
    with pytest.raises(ValueError, match="expected certificates, found none"):
        certificates.verify([])


def test_a_certificate_of_a_newer_form_is_bad_input(key, chain):
    newer = resign(key, chain[0], lambda record: record.update(format=2))
    with pytest.raises(ValueError, match="expected a certificate of form 1, found form 2"):
        certificates.verify([newer])


def test_what_is_signed_is_what_other_programs_read(key, chain):
    """The form that the documentation describes, with nothing of this package."""
    found = json.loads(chain[1])
    form = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
    signed = b"mu_jax certificate 1\n" + json.dumps(found["certificate"], **form).encode()
    key.public_key().verify(bytes.fromhex(found["signature"]), signed)
    assert chain[1] == json.dumps(found, **form).encode() and "café".encode() in chain[1]


def test_files_of_a_chain(key, chain, tmp_path):
    paths = [certificates.write(tmp_path, line) for line in chain]
    assert paths == [certificates.write(tmp_path, line) for line in chain]  # again is the same
    assert [line for path in paths for line in certificates.read(path)] == chain
    (tmp_path / "all.jsonl").write_bytes(b"\n".join(chain) + b"\n")
    assert certificates.read(tmp_path / "all.jsonl") == chain
    with pytest.raises(FileExistsError, match="found another of the same number"):
        certificates.write(tmp_path, certify(key, chain[0], version=9))
    (tmp_path / "empty").touch()
    with pytest.raises(ValueError, match="found an empty file"):
        certificates.read(tmp_path / "empty")


def test_a_ledger_keeps_a_chain_that_grows_at_its_end(tmp_path, table, key):
    with Ledger(tmp_path / "ledger.db") as ledger, ledger.worker() as worker:
        ledger.enroll(table)
        for number, user in enumerate(("ada", "bob"), 1):
            ledger.accept(f"user:{user}")
            work = worker.start()
            before = ledger.last_certificate()
            with pytest.raises(NotVerified, match=f"expected certificate {number}"):
                worker.finish(work, version=2, certificate=make_chain(key)[2])
            assert ledger.request(number).state == "pending"
            worker.finish(work, version=2, certificate=certify(key, before, asked=work.requests))
        found = certificates.verify(ledger.certificates())
    assert [each.record["asked"][0]["asked"] for each in found] == ["user:ada", "user:bob"]


def test_the_digest_of_an_array_is_of_its_bytes_type_and_shape():
    arrays = {
        "w": np.arange(6, dtype=np.float32),
        "shape": np.arange(6, dtype=np.float32).reshape(2, 3),
        "dtype": np.arange(6, dtype=np.int32),
        "order": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "bytes": np.arange(6, dtype=">f4"),
        "half": jnp.arange(6, dtype=jnp.bfloat16),
        "key": jax.random.key(3),
        "number": 3,
    }
    found = fingerprints.of_arrays(arrays)["arrays"]
    assert found["shape"] == found["order"] and found["w"] == found["bytes"]
    assert len({json.dumps(each) for each in found.values()}) == 6
    changed = {**arrays, "number": 4}
    recorded = fingerprints.of_arrays(arrays)
    assert recorded["sha256"] != fingerprints.of_arrays(changed)["sha256"]
    assert fingerprints.differing(recorded, changed) == ["number"]
    del changed["half"]
    assert fingerprints.differing(recorded, changed) == ["half", "number"]
