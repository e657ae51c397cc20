"""Deletion requests as they arrive: a ledger of who asked, certificates of what was done.

Needs the extra `service`, and `postgresql` for a ledger on a server.
"""

from mu_jax._extras import extra

with extra("service"):
    from mu_jax.service import certificates, fingerprints, keys, pages
    from mu_jax.service.envelopes import Certificate, NotVerified
    from mu_jax.service.guarantees import APPROXIMATE, Guarantee
    from mu_jax.service.ledger import Ledger
    from mu_jax.service.requests import Event, Request
    from mu_jax.service.runs import Work
    from mu_jax.service.statements import Statement
    from mu_jax.service.worker import Worker

__all__ = [
    "APPROXIMATE",
    "Certificate",
    "Event",
    "Guarantee",
    "Ledger",
    "NotVerified",
    "Request",
    "Statement",
    "Work",
    "Worker",
    "certificates",
    "fingerprints",
    "keys",
    "pages",
]
