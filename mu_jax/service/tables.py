"""The tables of a ledger as queries see them; `migrations` makes them.

examples: a number of the training set, and the id that people have for it.
subjects, owned: who owns which examples; an example may have several owners.
requests: one row each, numbered from 1 without gaps. `opened` and `closed` are the events by which
  it was accepted and refused; what lies between is asked for.
asked: the numbers that a request names.
runs: work on some requests, by one worker at a time; `attempt` counts the workers that began it,
  and `horizon` is the newest event that it looks at.
events: what happened to which request, and when; rows are added and never changed.
certificates: numbered from 1 without gaps, the bytes that were signed, as text.
"""

from __future__ import annotations

from sqlalchemy import column, table

SCHEMA = table("mu_jax_ledger", column("version"))
EXAMPLES = table("examples", column("number"), column("id"))
SUBJECTS = table("subjects", column("subject"), column("kind"), column("name"))
OWNED = table("owned", column("subject"), column("number"))
REQUESTS = table(
    "requests",
    *map(column, ("number", "key", "asked", "ids_digest", "examples", "state", "reason")),
    *map(column, ("accepted", "since", "opened", "closed", "run", "version")),
)
ASKED = table("asked", column("request"), column("number"))
RUNS = table(
    "runs",
    *map(column, ("run", "attempt", "parent", "horizon", "begun", "ended", "outcome", "version")),
)
EVENTS = table("events", *map(column, ("event", "at", "request", "state", "reason")))
CERTIFICATES = table("certificates", *map(column, ("number", "run", "digest", "text")))

TABLES = (SCHEMA, EXAMPLES, SUBJECTS, OWNED, REQUESTS, ASKED, RUNS, EVENTS, CERTIFICATES)
