"""The form of a certificate on disk: one line of canonical JSON, a record, a key and a signature.

    {"certificate":{...},"key":"64 digits","signature":"128 digits"}

Signed are the bytes `mu_jax certificate 1`, a line end, and the canonical JSON of the record. The
digest of a certificate is the SHA-256 of its line, and stands in the record of the next one.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, NamedTuple

from mu_jax import _json

FORMAT = 1
_SIGNED = b"mu_jax certificate 1\n"


class NotVerified(ValueError):
    """A certificate, or a chain of them, is not what its operator signed."""


class Certificate(NamedTuple):
    """A certificate as it was signed; `certificates.verify` alone says that it was.

    Attributes:
        number: its place in the chain, from 1 upwards.
        previous: digest of the certificate before, or None for the first.
        record: all that it says, as JSON holds it.
        key: public half of the key that signed, 64 hexadecimal digits.
        signature: 128 hexadecimal digits.
    """

    number: int
    previous: str | None
    record: dict[str, Any]
    key: str
    signature: str

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is of."""
        return signed_bytes(self.record)


def signed_bytes(record: dict[str, Any]) -> bytes:
    """The bytes of a record that are signed."""
    return _SIGNED + _json.canonical(record)


def sealed(record: dict[str, Any], key: str, signature: str) -> bytes:
    """The line of a certificate, without its end."""
    return _json.canonical({"certificate": record, "key": key, "signature": signature})


def digest(certificate: bytes) -> str:
    """The SHA-256 of a certificate, 64 hexadecimal digits; the next one names it."""
    return hashlib.sha256(certificate.rstrip(b"\n")).hexdigest()


def opened(certificate: bytes) -> Certificate:
    """What a line holds; its signature is not looked at.

    Raises:
        ValueError: no certificate at all, or one of a newer form.
        NotVerified: one that was written otherwise than it was signed.
    """
    line = certificate.rstrip(b"\n")
    try:
        found = _json.parse(line)
        record, key, signature = found["certificate"], found["key"], found["signature"]
        form, number, previous = record["format"], record["number"], record["previous"]
        fits = set(found) == {"certificate", "key", "signature"}
        fits &= type(number) is int and number > 0 and type(form) is int
        fits &= previous is None or _is_hexadecimal(previous, 64)
        fits &= _is_hexadecimal(key, 64) and _is_hexadecimal(signature, 128)
    except (ValueError, TypeError, KeyError):
        fits = False
    if not fits:
        raise ValueError(
            f"expected a certificate, found {_start(line)}; name the files that the operator issued"
        )
    if form != FORMAT:
        raise ValueError(
            f"expected a certificate of form {FORMAT}, found form {form}; update mu_jax"
        )
    if _json.canonical(found) != line:
        raise NotVerified(
            f"expected certificate {number} as it was signed, found it written otherwise; take the "
            "file from the operator again"
        )
    return Certificate(number, previous, record, key, signature)


def require_next(before: bytes | None, certificate: bytes) -> None:
    """Refuse a certificate that does not follow another one, or none.

    Raises:
        NotVerified: another number, or the digest of another certificate.
    """
    found = opened(certificate)
    number = 1 if before is None else opened(before).number + 1
    if found.number > number:
        where = "at the beginning" if number == 1 else f"after certificate {number - 1}"
        raise NotVerified(
            f"expected certificate {number} {where}, found {found.number}: the chain is cut; give "
            "all certificates from the first on"
        )
    if found.number < number:
        raise NotVerified(
            f"expected certificate {number} after certificate {number - 1}, found {found.number}; "
            "give each certificate once, in the order of their numbers"
        )
    if found.previous != (None if before is None else digest(before)):
        named = "no certificate before" if before is None else f"certificate {number - 1}"
        raise NotVerified(
            f"expected certificate {number} to follow {named}, found that it follows another one: "
            "one of the two was replaced"
        )


def _is_hexadecimal(text: Any, digits: int) -> bool:
    return isinstance(text, str) and re.fullmatch(rf"[0-9a-f]{{{digits}}}", text) is not None


def _start(line: bytes) -> str:
    return repr(line[:40].decode("utf-8", "replace")) if line else "an empty line"
