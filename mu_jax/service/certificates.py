"""Certificates: statements that an operator signs, in a chain that anybody can check."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from mu_jax import _files as files
from mu_jax.service import envelopes, guarantees, keys
from mu_jax.service.envelopes import FORMAT, Certificate, NotVerified
from mu_jax.service.guarantees import Guarantee
from mu_jax.service.statements import Statement
from mu_jax.store.records import now


def issue(
    key: Any,
    statement: Statement,
    *,
    previous: bytes | None,
    operator: str,
    next_key: str | None = None,
) -> bytes:
    """Sign a certificate that follows `previous`.

    Args:
        key: of the operator, `keys.read_key(path)`.
        statement: what it says.
        previous: the certificate before, `ledger.last_certificate()`; None for the first.
        operator: who signs, in words.
        next_key: public half of the key that signs from the next certificate on, where the key
            changes.

    Returns:
        One line of JSON, in UTF-8; `Worker.finish` and `write` keep it, `verify` checks it.

    Raises:
        ValueError: JSON cannot hold the statement, or its method cannot give the guarantee.

    Cost: one pass over all arrays of the statement for their digests.
    """
    public = keys.public_text(key)
    record = {
        "format": FORMAT,
        "number": 1 if previous is None else envelopes.opened(previous).number + 1,
        "previous": None if previous is None else envelopes.digest(previous),
        "issued": now(),
        "operator": operator,
        "key": public,
        **statement.record(),
    }
    if next_key is not None:
        record["next_key"] = keys.read_public_key(next_key)
    signature = key.sign(envelopes.signed_bytes(record)).hex()
    return envelopes.sealed(record, public, signature)


def verify(
    certificates: Iterable[bytes], *, key: str | None = None, last: str | None = None
) -> list[Certificate]:
    """Check a chain of certificates, from the first on; nothing but these bytes is looked at.

    Args:
        certificates: in the order of their numbers.
        key: public half of the operator's first key, 64 hexadecimal digits; later ones are named
            by the certificates themselves. Without it the chain is checked against the key that
            stands in it, which anybody could have made.
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
        >>> statement = certificates.Statement(
        ...     asked=[], forgotten=[3, 7], method="ssd", aim="removal", parameters={"alpha": 2.0},
        ...     parent=1, version=2, measured={"retain accuracy": 0.97})
        >>> line = certificates.issue(key, statement, previous=None, operator="ACME")
        >>> [certificate] = certificates.verify([line], key=public)
        >>> certificate.number, certificate.record["done"]["forgotten"]["examples"]
        (1, 2)
        >>> certificates.verify([line.replace(b"0.97", b"0.99")], key=public)
        Traceback (most recent call last):
        mu_jax.service.envelopes.NotVerified: expected the signature of certificate 1 to be ...
    """
    found: list[Certificate] = []
    before: bytes | None = None
    expected = key
    for line in certificates:
        opened = verify_one(line, key=expected)
        envelopes.require_next(before, line)
        found.append(opened)
        expected = opened.record.get("next_key", opened.key)
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
    _require_key(opened, opened.key if key is None else key)
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


def _require_key(certificate: Certificate, key: str) -> None:
    if certificate.key != key or certificate.record.get("key") != key:
        raise NotVerified(
            f"expected certificate {certificate.number} of the operator's key {key[:16]}..., found "
            f"the key {certificate.key[:16]}...; ask the operator which key is theirs"
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
