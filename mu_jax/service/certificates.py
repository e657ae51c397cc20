"""Certificates: what was asked, done and measured, signed and chained, and what is not claimed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mu_jax import _files as files
from mu_jax.service import envelopes, fingerprints, guarantees, keys
from mu_jax.service.envelopes import FORMAT, Certificate, NotVerified
from mu_jax.service.guarantees import APPROXIMATE as APPROXIMATE
from mu_jax.service.guarantees import Guarantee as Guarantee
from mu_jax.service.requests import Request
from mu_jax.store import commits
from mu_jax.store.records import now

PyTree = Any


def issue(
    key: Any,
    *,
    previous: bytes | None,
    operator: str,
    asked: Sequence[Request],
    forgotten: Iterable[int] | np.ndarray,
    method: str,
    aim: str,
    guarantee: Guarantee,
    parameters: Mapping[str, Any],
    parent: int | None,
    version: int,
    measured: Mapping[str, Any],
    thresholds: Mapping[str, Any],
    inputs: Mapping[str, PyTree],
    outputs: Mapping[str, PyTree],
    notes: Sequence[str] = (),
) -> bytes:
    """Sign a certificate that follows `previous`.

    Args:
        key: of the operator, `read_key(path)`.
        previous: the certificate before, or None for the first: `ledger.last_certificate()`.
        operator: who signs, in words.
        asked: the requests, `work.requests`. Their words are in the certificate: where people must
            not be named there, let requests name them by pseudonyms.
        forgotten: training ids that the model has forgotten and its parent has not; their digest
            and their number are in the certificate, and they are not.
        method, aim, parameters: of the transform; `aim` is `transform.aim`.
        guarantee: `APPROXIMATE`, or what an exact or a certified method promises.
        parent, version: of the store.
        measured: finite numbers and words by name; a measure that failed is named in `notes`.
        thresholds: what the gate asked of them, by the same names.
        inputs, outputs: trees of arrays by name, such as `{"variables": ..., "retain": ...}`; the
            digest of each array is in the certificate.
        notes: further sentences on what is not claimed.

    Returns:
        One line of JSON, in UTF-8; `Worker.finish` and `write` keep it, `verify` checks it.

    Raises:
        ValueError: JSON cannot hold it, or the guarantee is one that the method cannot give.

    Cost: one pass over all arrays for their digests.
    """
    guarantees.require_consistent(aim, guarantee)
    ids = np.asarray(forgotten if isinstance(forgotten, np.ndarray) else list(forgotten))
    done = {
        "method": method,
        "aim": aim,
        "guarantee": {name: value for name, value in guarantee._asdict().items() if value},
        "parameters": dict(parameters),
        "parent": parent,
        "version": version,
        "forgotten": {"examples": len(np.unique(ids)), "ids": fingerprints.of_ids(ids)},
    }
    record = {
        "format": FORMAT,
        "number": 1 if previous is None else envelopes.opened(previous).number + 1,
        "previous": None if previous is None else envelopes.digest(previous),
        "issued": now(),
        "operator": operator,
        "asked": [_of_request(request) for request in asked],
        "done": done,
        "code": fingerprints.of_code(),
        "measured": dict(measured),
        "thresholds": dict(thresholds),
        "inputs": {name: fingerprints.of_arrays(tree) for name, tree in inputs.items()},
        "outputs": {name: fingerprints.of_arrays(tree) for name, tree in outputs.items()},
        "not_claimed": [*guarantees.not_claimed(aim, guarantee), *notes],
    }
    record = commits.as_json(record, "a certificate")
    public = keys.public_text(key)
    signature = key.sign(envelopes.signed_bytes({**record, "key": public})).hex()
    return envelopes.sealed({**record, "key": public}, public, signature)


def verify(
    certificates: Iterable[bytes], *, key: str | None = None, last: str | None = None
) -> list[Certificate]:
    """Check a chain of certificates, from the first on; nothing but these bytes is looked at.

    Args:
        certificates: in the order of their numbers.
        key: public half of the operator's key, 64 hexadecimal digits. Without it the chain is
            checked against the key that stands in it, which anybody could have made.
        last: digest of the newest certificate, from a place that the operator cannot change
            afterwards. Without it nobody sees that certificates are missing at the end.

    Returns:
        What they say.

    Raises:
        ValueError: there is none, or what is no certificate, or of a newer form.
        NotVerified: one that was changed, is missing, in another place or of another key, or that
            leaves out what every certificate says that it does not claim.

    Example:
        >>> import tempfile
        >>> from mu_jax.service import certificates, keys
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     public = keys.make_key(f"{folder}/operator.pem")
        ...     key = keys.read_key(f"{folder}/operator.pem")
        >>> line = certificates.issue(
        ...     key, previous=None, operator="ACME", asked=[], forgotten=[3, 7], method="ssd",
        ...     aim="removal", guarantee=certificates.APPROXIMATE, parameters={"alpha": 2.0},
        ...     parent=1, version=2, measured={"retain accuracy": 0.97}, thresholds={},
        ...     inputs={}, outputs={})
        >>> [certificate] = certificates.verify([line], key=public)
        >>> certificate.number, certificate.record["done"]["forgotten"]["examples"]
        (1, 2)
        >>> certificates.verify([line.replace(b"0.97", b"0.99")], key=public)
        Traceback (most recent call last):
        mu_jax.service.envelopes.NotVerified: expected the signature of certificate 1 to be ...
    """
    found: list[Certificate] = []
    before: bytes | None = None
    for line in certificates:
        opened = verify_one(line, key=key)
        _require_key(opened, found[0].key if found else opened.key, "the key of the first one")
        envelopes.require_next(before, line)
        found.append(opened)
        before = line
    if before is None:
        raise ValueError("expected certificates, found none; name the files of a chain")
    if last is not None and envelopes.digest(before) != last.lower():
        raise NotVerified(
            f"expected the newest certificate to have the digest {last[:16]}..., found that "
            f"certificate {found[-1].number} has {envelopes.digest(before)[:16]}...: certificates "
            "are missing at the end"
        )
    return found


def verify_one(certificate: bytes, *, key: str | None = None) -> Certificate:
    """Check one certificate by itself; its place in the chain is not looked at.

    Raises:
        ValueError, NotVerified: as for `verify`.
    """
    opened = envelopes.opened(certificate)
    _require_key(opened, opened.key if key is None else key, "the operator's key")
    if not keys.is_signature(opened.key, opened.signature, opened.signed):
        raise NotVerified(
            f"expected the signature of certificate {opened.number} to be of what it says, found "
            "that one of the two was changed; take the file from the operator again"
        )
    _require_sentences(opened)
    return opened


def write(folder: str | os.PathLike[str], certificate: bytes) -> str:
    """Write a certificate as `certificate-00000001.json`, whole or not at all; returns the path.

    Raises:
        FileExistsError: another certificate of this number is there.
    """
    number = envelopes.opened(certificate).number
    path = files.absolute(folder) / f"certificate-{number:08d}.json"
    line = certificate.rstrip(b"\n") + b"\n"
    if files.is_file(path):
        if files.read_text(path).encode() != line:
            raise FileExistsError(
                f"expected no certificate or this one in {path}, found another of the same "
                "number; two ledgers write there"
            )
        return os.fspath(path)
    with files.replacing(path) as file:
        file.write(line)
    return os.fspath(path)


def read(path: str | os.PathLike[str]) -> list[bytes]:
    """The lines of a file that holds one certificate or several; `verify` checks them.

    Raises:
        FileNotFoundError: there is no file. ValueError: it is empty.
    """
    with files.reading(files.absolute(path)) as file:
        lines = file.read().split(b"\n")
    if not (found := [line for line in lines if line.strip()]):
        raise ValueError(f"expected certificates in {path}, found an empty file; copy it again")
    return found


def _of_request(request: Request) -> dict[str, Any]:
    """What a certificate says of a request."""
    return {
        "request": request.number,
        "asked": request.asked,
        "accepted": request.accepted,
        "examples": request.examples,
        "ids": request.ids_digest,
    }


def _require_key(certificate: Certificate, key: str, whose: str) -> None:
    if certificate.key != key or certificate.record.get("key") != key:
        raise NotVerified(
            f"expected certificate {certificate.number} of {whose} {key[:16]}..., found the key "
            f"{certificate.key[:16]}...; ask the operator which key is theirs"
        )


def _require_sentences(certificate: Certificate) -> None:
    """Refuse a certificate that claims more than its method can, or keeps quiet on it."""
    try:
        done, said = certificate.record["done"], certificate.record["not_claimed"]
        guarantee = Guarantee(**done["guarantee"])
        guarantees.require_consistent(done["aim"], guarantee)
        missing = set(guarantees.not_claimed(done["aim"], guarantee)) - set(said)
    except (ValueError, TypeError, KeyError):
        missing = {""}
    if missing:
        raise NotVerified(
            f"expected certificate {certificate.number} to say what it does not claim, found that "
            "a sentence is missing or the claim is none that its method can make; ask the operator"
        )
