"""Check the certificates of an operator, show one as a page, or make the operator's key.

    python -m experiments.certificate verify --key=operator.pem.pub certificates/*.json
    python -m experiments.certificate verify --key=operator.pem.pub --last=DIGEST chain.jsonl
    python -m experiments.certificate show --form=html certificates/certificate-00000003.json
    python -m experiments.certificate make_key operator.pem

Nothing but the files is looked at. `verify` takes them from the first certificate on, in the order
of their numbers. Its exit codes: 0, all are what the holder of the key signed; 1, they are not, or
one is missing; 2, the input is no certificate; 3, they agree with one another, but no --key says
whose they are. Certificates that are missing at the end are seen with --last alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from absl import flags

from experiments.lib.command_line import start
from experiments.lib.own_flags import only
from experiments.lib.running import exit_with_sentence
from experiments.lib.sentences import refuse
from mu_jax.service import NotVerified, certificates, envelopes, keys, pages

FLAGS = flags.FlagValues()
KEY = flags.DEFINE_string(
    "key", None, "The operator's public key: a .pub file, or its 64 digits.", flag_values=FLAGS
)
LAST = flags.DEFINE_string(
    "last",
    None,
    "The digest of the newest certificate, as the operator tells it.",
    flag_values=FLAGS,
)
FORM = flags.DEFINE_enum(
    "form", "text", ["text", "markdown", "html"], "Of the page.", flag_values=FLAGS
)
ARGUMENTS = "verify, show or make_key, and files"
NOT_VERIFIED, WHOSE = 1, 3


def main(argv: list[str]) -> None:
    with exit_with_sentence():
        verb, paths = argv[1], argv[2:]
        if verb not in ("verify", "show", "make_key") or not paths:
            raise ValueError(f"expected {ARGUMENTS}, found {' '.join(argv[1:])!r}; see --help")
        try:
            if verb == "verify":
                only(FLAGS, verb, "key", "last")
                sys.exit(verify(paths))
            elif verb == "show":
                only(FLAGS, verb, "key", "form")
                show(paths)
            else:
                only(FLAGS, verb)
                make_key(paths)
        except NotVerified as error:
            refuse(error, NOT_VERIFIED)


def verify(paths: Sequence[str]) -> int:
    """Check a chain, and say what was seen; the exit code."""
    lines = [line for path in paths for line in certificates.read(path)]
    key = None if KEY.value is None else keys.read_public_key(KEY.value)
    found = certificates.verify(lines, key=key, last=LAST.value)
    print(
        f"Certificates 1 to {found[-1].number} are one chain, signed with the key {found[0].key}; "
        f"the newest has the digest {envelopes.digest(lines[-1])}"
    )
    if LAST.value is None:
        print("Whether there are later ones this does not show: compare the digest, or give --last")
    if key is None:
        print("Whose key it is this does not show: give the operator's public key by --key")
    return WHOSE if key is None else 0


def show(paths: Sequence[str]) -> None:
    """Print the page of each certificate."""
    key = None if KEY.value is None else keys.read_public_key(KEY.value)
    for line in (line for path in paths for line in certificates.read(path)):
        found = certificates.verify_one(line, key=key)
        print(pages.render(found, FORM.value), end="")


def make_key(paths: Sequence[str]) -> None:
    """Make a key, which replaces none."""
    if len(paths) > 1:
        raise ValueError(f"expected one file for the key, found {len(paths)}; name one")
    public = keys.make_key(paths[0])
    print(f"{paths[0]} signs, keep it to yourself; {paths[0]}.pub is for all: {public}")


if __name__ == "__main__":
    start(main, FLAGS, arguments=ARGUMENTS)
