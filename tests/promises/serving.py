"""What a service promises to people who ask: the ledger, the certificates, the protocols."""

from __future__ import annotations

from promises import Mutation

_LEDGER = "tests/service/test_ledger.py::"
_CRASHES = "tests/service/test_crashes.py::test_killed_at_some_points"
_PROTOCOLS = "tests/experiments/test_protocols.py::"
_CERTIFICATES = "tests/service/test_certificates.py::"
_RUNS = "mu_jax/service/runs.py"
_SETS = "mu_jax/service/sets.py"
_CHECKS = "mu_jax/service/certificates.py"

LEDGER = (
    Mutation(
        "the ledger lets a retain set hold what waits to be forgotten",
        _RUNS,
        "        sets.excluded(connection, row.horizon),\n",
        "        sets.forgotten(connection),\n",
        (_LEDGER + "test_no_retain_set_holds_what_was_asked_for_or_forgotten",),
    ),
    Mutation(
        "the ledger shows a worker that takes over another retain set",
        _RUNS,
        "        sets.excluded(connection, row.horizon),\n",
        "        sets.excluded(connection),\n",
        (_LEDGER + "test_a_run_that_is_taken_over_sees_what_the_first_worker_saw",),
    ),
    Mutation(
        "the ledger lets a worker finish a run that is another one's",
        _RUNS,
        "    require_current(connection, work)\n    values",
        "    values",
        (_LEDGER + "test_a_run_that_is_taken_over_sees_what_the_first_worker_saw",),
    ),
    Mutation(
        "the ledger begins anew with requests that a dead worker has",
        _RUNS,
        "    if last is not None:\n",
        "    if False:\n",
        (_CRASHES,),
    ),
    Mutation(
        "the ledger forgets twice what is forgotten already",
        _SETS,
        "    return np.setdiff1d(asked, forgotten(connection))\n",
        "    return asked\n",
        (_LEDGER + "test_what_is_forgotten_already_is_done_at_once_or_left_out",),
    ),
    Mutation(
        "the ledger takes a request that was rolled back for done",
        _RUNS,
        '"accepted", serves)',
        '"done", serves)',
        (_LEDGER + "test_requests_agree_with_what_the_serving_version_has_forgotten",),
    ),
    Mutation(
        "the ledger says done before the certificate is kept",
        "mu_jax/service/worker.py",
        '            runs.end(connection, work, "done", reason, version)\n',
        '            runs.end(connection, work, "done", reason, version)\n'
        "        with self._database.writing() as connection:\n",
        (_CERTIFICATES + "test_a_ledger_keeps_a_chain_that_grows_at_its_end",),
    ),
    Mutation(
        "two writers of a ledger do not exclude one another",
        "mu_jax/service/database.py",
        '"BEGIN IMMEDIATE" if writes else "BEGIN"',
        '"BEGIN"',
        (_LEDGER + "test_a_second_writer_waits_and_is_refused_in_a_sentence",),
    ),
)

CERTIFICATES = (
    Mutation(
        "a certificate with another signature is taken for signed",
        "mu_jax/service/keys.py",
        "    except (InvalidSignature, ValueError):\n        return False\n",
        "    except (InvalidSignature, ValueError):\n        return True\n",
        (_CERTIFICATES + "test_a_chain_that_was_forged_is_told",),
    ),
    Mutation(
        "a certificate that was replaced stays in its chain",
        "mu_jax/service/envelopes.py",
        "    if found.previous != (None if before is None else digest(before)):\n",
        "    if False:\n",
        (_CERTIFICATES + "test_a_chain_that_was_forged_is_told",),
    ),
    Mutation(
        "a certificate keeps quiet on what it does not claim",
        _CHECKS,
        "    _require_sentences(opened)\n",
        "",
        (_CERTIFICATES + "test_a_chain_that_was_forged_is_told",),
    ),
    Mutation(
        "a certificate is signed with a key that others can read",
        "mu_jax/service/keys.py",
        "        if mode & 0o077:\n",
        "        if mode & 0o007:\n",
        ("tests/service/test_keys.py::test_a_key_that_others_can_read_is_refused",),
    ),
)

PROTOCOLS = (
    Mutation(
        "requests to a protocol are answered one by one",
        "experiments/lib/serving.py",
        "        whole=task.protocol is not None,\n",
        "",
        (_PROTOCOLS + "test_what_sisa_serves_is_its_training_without_the_rows",),
    ),
    Mutation(
        "a removal by a protocol is certified as approximate",
        "experiments/lib/serving.py",
        "        return exactly(task.protocol)\n",
        "        return APPROXIMATE\n",
        (_PROTOCOLS + "test_what_sisa_serves_is_its_training_without_the_rows",),
    ),
    Mutation(
        "the room of a shard follows the rows that are left",
        "experiments/lib/protocols.py",
        '    fields["capacity"] = fields["capacity"] or room',
        '    fields["capacity"] = room',
        (_PROTOCOLS + "test_rows_that_are_gone_since_leave_the_lineage_as_it_was",),
    ),
    Mutation(
        "the layout of a lineage follows the machine that serves it",
        "experiments/lib/protocols.py",
        '    fields["layout"] = _layout(fields["layout"])\n',
        '    fields["layout"] = _layout(None)\n',
        (_PROTOCOLS + "test_a_lineage_keeps_the_layout_of_the_machine_on_which_it_began",),
    ),
    Mutation(
        "an exact model that tells what the others taught it is withheld",
        "experiments/lib/guard.py",
        "    if task.protocol is not None:\n",
        "    if False:\n",
        (_PROTOCOLS + "test_what_s3t_serves_until_it_is_spent_and_a_new_lineage_then",),
    ),
    Mutation(
        "a new lineage of S3T has another base",
        "experiments/lib/serving.py",
        "tasks.train(of_lineage(task, job.before), key, job.retain)",
        "tasks.train(task, key, job.retain)",
        (_PROTOCOLS + "test_what_s3t_serves_until_it_is_spent_and_a_new_lineage_then",),
    ),
    Mutation(
        "the base of S3T has seen the rows",
        "experiments/lib/bases.py",
        "    if shared:\n",
        "    if False:\n",
        (_PROTOCOLS + "test_a_base_is_a_model_of_other_rows",),
    ),
    Mutation(
        "an approximate method is run on the checkpoints of a protocol",
        "experiments/lib/protocols.py",
        "    if own is not None and given not in (None, own):\n",
        "    if False:\n",
        (_PROTOCOLS + "test_a_method_that_does_not_fit_the_model_is_refused",),
    ),
)

SERVING = (*LEDGER, *CERTIFICATES, *PROTOCOLS)
