"""The operator who signs what a loop has done, and keeps the certificates in files too."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from mu_jax.service import certificates, envelopes, keys
from mu_jax.service.ledger import Ledger
from mu_jax.service.statements import Statement


@dataclasses.dataclass(frozen=True, eq=False)
class Signer:
    """Who signs the certificates of a ledger.

    Attributes:
        key: that signs, `keys.read_key(path)`.
        operator: who signs, in words.
        folder: where each certificate is a file too, for those who check offline.
    """

    key: Any
    operator: str
    folder: str | os.PathLike[str]

    def require_next(self, ledger: Ledger) -> None:
        """Refuse a key that cannot sign the next certificate, before anything is done.

        Raises:
            ValueError: the last certificate names another key.
        """
        if (line := ledger.last_certificate()) is None:
            return
        last, own = envelopes.opened(line), keys.public_text(self.key)
        named = last.record.get("next_key", last.key)
        if named != own:
            raise ValueError(
                f"expected the key {named[:16]}..., which follows certificate {last.number}, found "
                f"{own[:16]}...; give the operator's key of now"
            )

    def sign(self, ledger: Ledger, statement: Statement) -> bytes:
        """The certificate that follows the last one of the ledger."""
        previous = ledger.last_certificate()
        return certificates.issue(self.key, statement, previous=previous, operator=self.operator)

    def write_all(self, ledger: Ledger) -> None:
        """Write the certificates that are no files yet, such as after a death."""
        for line in ledger.certificates():
            self.write(line)

    def write(self, certificate: bytes) -> None:
        """Write a certificate, `certificate-00000001.json`."""
        certificates.write(self.folder, certificate)
