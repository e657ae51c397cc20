"""Files of keys: nobody else reads the one that signs, and none is replaced."""

from __future__ import annotations

import os
import stat

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from mu_jax.service import keys


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys" / "operator.pem"


def test_a_key_signs_and_its_public_half_verifies(path):
    public = keys.make_key(path)
    assert sorted(os.listdir(path.parent)) == ["operator.pem", "operator.pem.pub"]
    key = keys.read_key(path)
    assert keys.public_text(key) == keys.read_public_key(f"{path}.pub") == public
    assert keys.read_public_key(public.upper()) == public
    signature = key.sign(b"text").hex()
    assert keys.is_signature(public, signature, b"text")
    assert not keys.is_signature(public, signature, b"test")
    assert not keys.is_signature("0" * 64, signature, b"text")


def test_only_its_owner_reads_it_whatever_the_umask(path):
    before = os.umask(0)
    try:
        keys.make_key(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(path, mode):
    keys.make_key(path)
    os.chmod(path, mode)
    with pytest.raises(PermissionError, match=f"found the permissions {mode:o}; run chmod 600"):
        keys.read_key(path)
    os.chmod(path, 0o400)
    keys.read_key(path)


def test_no_key_is_replaced(path):
    keys.make_key(path)
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="expected no file at"):
        keys.make_key(path)
    assert path.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == ["operator.pem", "operator.pem.pub"]


def private(key, password=None):
    none = serialization.NoEncryption()
    encryption = serialization.BestAvailableEncryption(password) if password else none
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, encryption)


@pytest.mark.parametrize("kind", ["text", "empty", "elliptic", "passphrase", "public"])
def test_a_file_of_something_else_is_refused(path, kind):
    keys.make_key(path)
    public = path.with_name("operator.pem.pub").read_bytes()
    data = {
        "text": b"id\n1\n",
        "empty": b"",
        "elliptic": private(ec.generate_private_key(ec.SECP256R1())),
        "passphrase": private(ed25519.Ed25519PrivateKey.generate(), b"secret"),
        "public": public,
    }
    path.write_bytes(data[kind])
    with pytest.raises(ValueError, match=r"expected a private key .* found something else"):
        keys.read_key(path)
    if kind != "public":
        with pytest.raises(ValueError, match=r"expected a public key.* found something else"):
            keys.read_public_key(path)


def test_paths_that_are_none(path, tmp_path):
    for call in (keys.read_key, keys.read_public_key):
        with pytest.raises(FileNotFoundError):
            call(path)
        with pytest.raises(IsADirectoryError):
            call(tmp_path)
