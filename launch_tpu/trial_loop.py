"""The loop of one worker: claim a trial, run it, publish its result, until all have ended."""

from __future__ import annotations

import hashlib
import os
import time
import traceback
from collections.abc import Callable, Sequence

from launch_tpu.claims import Claim, Claims, machine

Report = Callable[[str], None]


def work(
    claims: Claims,
    names: Sequence[str],
    run: Callable[[str], str],
    *,
    report: Report = print,
    poll_s: float = 1.0,
) -> None:
    """Run trials until each has a result or has failed, whoever ran it.

    Any number of processes do this on the same list and folder. A worker starts somewhere in the
    list, goes round, and then waits for those that others are running: it takes them over should
    they die.

    Args:
      claims: of the shared folder.
      names: the work list, the same for all.
      run: the result of a trial; what it raises is kept as the error of the attempt.
      report: takes a line after every attempt: what came of it, how many trials have ended so far.
      poll_s: seconds between looks at the folder while others run what is left.
    """
    order = _from(_place(len(names)), names)
    ended: set[str] = set()
    while len(ended) < len(order):
        attempts = 0
        for name in order:
            if name in ended:
                continue
            outcome = _attempt(claims, name, run)
            if claims.state(name) in ("done", "failed"):
                ended.add(name)
            if outcome:
                attempts += 1
                report(f"{name}: {outcome}; {len(ended)} of {len(order)} trials have ended")
        if not attempts and len(ended) < len(order):
            time.sleep(poll_s)


def _attempt(claims: Claims, name: str, run: Callable[[str], str]) -> str:
    """Run a trial if it is to be had; what came of that in words, empty if it was not."""
    with claims.claim(name) as claim:
        if claim is None:
            return ""
        start = time.monotonic()
        outcome = _run(claim, name, run)
        return f"{outcome} after {time.monotonic() - start:.1f} s"


def _run(claim: Claim, name: str, run: Callable[[str], str]) -> str:
    try:
        result = run(name)
    except Exception as error:
        claim.fail(traceback.format_exc())
        return f"attempt {claim.number} failed: {error}"
    return "done" if claim.finish(result) else "done by another process too"


def _place(size: int) -> int:
    """Where in the list this process starts: spread by a digest of who it is."""
    digest = hashlib.sha256(f"{machine()} {os.getpid()}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % max(size, 1)


def _from(start: int, names: Sequence[str]) -> list[str]:
    return [*names[start:], *names[:start]]
