"""Deletion requests as they arrive: a ledger of who asked, certificates of what was done.

Needs the extra `service`, and `postgresql` for a ledger on a server.
"""

from mu_jax._extras import extra

with extra("service"):
    from mu_jax.service import certificates, fingerprints, keys, pages
    from mu_jax.service.drift import Budget, Drift, of_lineage, put_backs
    from mu_jax.service.envelopes import Certificate, NotVerified
    from mu_jax.service.gate import Gate, Verdict
    from mu_jax.service.guarantees import APPROXIMATE, Guarantee
    from mu_jax.service.ledger import Ledger
    from mu_jax.service.loop import Outcome, Service
    from mu_jax.service.recipes import Job, Made, Recipe
    from mu_jax.service.requests import Event, Request
    from mu_jax.service.runs import Work
    from mu_jax.service.signing import Signer
    from mu_jax.service.statements import Statement
    from mu_jax.service.worker import Worker

__all__ = [
    "APPROXIMATE",
    "Budget",
    "Certificate",
    "Drift",
    "Event",
    "Gate",
    "Guarantee",
    "Job",
    "Ledger",
    "Made",
    "NotVerified",
    "Outcome",
    "Recipe",
    "Request",
    "Service",
    "Signer",
    "Statement",
    "Verdict",
    "Work",
    "Worker",
    "certificates",
    "fingerprints",
    "keys",
    "of_lineage",
    "pages",
    "put_backs",
]
