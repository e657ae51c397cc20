"""The key of an operator: Ed25519, in two files, of which one is nobody else's."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from mu_jax import _files as files
from mu_jax._extras import extra

with extra("service"):
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

_PUBLIC = ".pub"
_MOST = 10_000  # bytes of a file of a key


def make_key(path: str | os.PathLike[str]) -> str:
    """Make a key that signs certificates: `path`, for this user alone, and `path.pub` for all.

    Keep a copy of the first where nobody reads it: without it a chain ends. Publish the second,
    or the 64 digits, where those who verify trust you.

    Returns:
        The public half, 64 hexadecimal digits.

    Raises:
        FileExistsError: there is a file of that name, which stays as it is.
        OSError: no room or no permission.
    """
    path = _place(path)
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    files.make_directory(path.parent)
    _create_secret(path, secret)
    shown = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    files.replace_text(path.with_name(path.name + _PUBLIC), shown.decode())
    return public_text(key.public_key())


def read_key(path: str | os.PathLike[str]) -> Ed25519PrivateKey:
    """The key that signs, of a file that `make_key` wrote.

    Raises:
        PermissionError: others than its owner may read or write the file.
        FileNotFoundError: there is no file.
        ValueError: a file of something else, or a key of another kind or under a passphrase.
    """
    path = _place(path)
    with open(path, "rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        if mode & 0o077:
            raise PermissionError(
                f"expected a key that its owner alone may read in {path}, found the permissions "
                f"{mode:03o}; run chmod 600 on it, and make a new key if others could have read it"
            )
        data = file.read(_MOST)
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(_no_key("a private key without a passphrase", path)) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(_no_key("a private key of Ed25519", path))
    return key


def read_public_key(key: str | os.PathLike[str]) -> str:
    """The public half, 64 hexadecimal digits: of a `.pub` file, or of these digits themselves.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it is another one.
    """
    text = os.fspath(key)
    if len(text) == 64 and set(text.lower()) <= set("0123456789abcdef"):
        return text.lower()
    path = _place(text)
    with open(path, "rb") as file:
        data = file.read(_MOST)
    try:
        found = serialization.load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(_no_key(f"a public key, such as a {_PUBLIC} file", path)) from None
    if not isinstance(found, Ed25519PublicKey):
        raise ValueError(_no_key("a public key of Ed25519", path))
    return public_text(found)


def public_text(key: Any) -> str:
    """The public half of a key as 64 hexadecimal digits."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes_raw().hex()


def is_signature(public: str, signature: str, data: bytes) -> bool:
    """Whether a signature, in hexadecimal, is that of these bytes by the holder of a key."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), data)
    except (InvalidSignature, ValueError):
        return False
    return True


def _create_secret(path: Path, data: bytes) -> None:
    """A file that only its owner may read from its first moment on; it replaces none."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.link(scratch, path)
    except FileExistsError:
        raise FileExistsError(
            f"expected no file at {path}, found one; name another path, or go on with that key"
        ) from None
    finally:
        scratch.unlink()
    files.fsync(path.parent)


def _place(path: str | os.PathLike[str]) -> Path:
    whole = files.absolute(path)
    if files.in_bucket(whole):
        raise ValueError(f"expected a file of this machine for a key, found {path}; copy it here")
    if whole.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(whole))
    return whole


def _no_key(what: str, path: Path) -> str:
    return f"expected {what} in {path}, found something else; name the file of the operator's key"
