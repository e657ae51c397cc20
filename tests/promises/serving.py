"""What a service promises to people who ask: ledger, certificates, the loop, protocols."""

from __future__ import annotations

from promises import Mutation

_LEDGER = "tests/service/test_ledger.py::"
_CRASHES = "tests/service/test_crashes.py::test_killed_at_some_points"
_PROTOCOLS = "tests/experiments/test_protocols.py::"
_CERTIFICATES = "tests/service/test_certificates.py::"
_RUNS = "mu_jax/service/runs.py"
_SETS = "mu_jax/service/sets.py"
_CHECKS = "mu_jax/service/certificates.py"
_LOOP = "mu_jax/service/loop.py"
_LOOPS = "tests/service/test_serving.py::"
_OTHERS = "tests/service/test_other_hands.py::"
_GATES = "tests/service/test_gate.py::"
_SWAPS = "mu_jax/store/swaps.py"
_STORE = "tests/store/test_promises.py::"
_WATCH = "tests/store/test_watching.py::"

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

LOOP = (
    Mutation(
        "a version serves although it does not pass the gate",
        _LOOP,
        "reasons = [self.gate.judge(made.measured, made.withheld).sentence]",
        "reasons = [made.withheld]",
        (
            _LOOPS + "test_what_does_not_pass_the_gate_is_put_back_with_the_reason_"
            "and_never_tried_for_ever",
        ),
    ),
    Mutation(
        "the service serves whatever the parent has become",
        _LOOP,
        "self.store.swap(version, expected=work.parent)",
        "self.store.swap(version)",
        (
            _OTHERS
            + "test_a_version_of_somebody_else_that_began_to_serve_is_the_parent_of_the_next",
        ),
    ),
    Mutation(
        "the service serves again what was rolled back",
        _LOOP,
        "        if version in self.store.withdrawn():\n",
        "        if False:\n",
        (
            _OTHERS
            + "test_what_an_operator_went_back_from_after_a_death_is_not_served_by_the_next_worker",
        ),
    ),
    Mutation(
        "a service that is always overtaken tries for ever",
        _LOOP,
        "lost = lost + 1 if ended",
        "lost = 1 if ended",
        (_OTHERS + "test_a_loop_that_others_are_always_faster_than_ends_with_a_sentence",),
    ),
    Mutation(
        "a request is done of which a part is forgotten",
        _LOOP,
        "self.store.forgotten(serving := self._serving())).all():",
        "self.store.forgotten(serving := self._serving())).any():",
        (_OTHERS + "test_what_somebody_else_has_forgotten_in_part_is_not_done_yet",),
    ),
    Mutation(
        "a service works without the examples that it should forget",
        _LOOP,
        "        self._require_at_hand(worker, work)\n",
        "",
        (_LOOPS + "test_examples_that_are_not_at_hand_are_not_said_to_be_forgotten",),
    ),
    Mutation(
        "a retraining leaves out those who wait",
        _LOOP,
        "        if np.setdiff1d(work.excluded, gone).size:",
        "        if False:",
        (_LOOPS + "test_what_was_put_back_too_often_is_retrained_with_all_that_wait",),
    ),
    Mutation(
        "a retrained lineage does not know what was forgotten before",
        _LOOP,
        "self._version(work, self.retraining, None, gone)",
        "self._version(work, self.retraining, None, work.forget)",
        (_LOOPS + "test_a_lineage_that_has_come_too_far_begins_anew",),
    ),
    Mutation(
        "a protocol that must hold every row answers one request at a time",
        _LOOP,
        "None if self.unlearning.whole else self.batch",
        "self.batch",
        (_LOOPS + "test_sisa_serves_requests_and_equals_its_protocol_bit_for_bit",),
    ),
    Mutation(
        "what a version lost is no part of the budget",
        _LOOP,
        "approximate=recipe.approximate, measured=made.measured",
        "approximate=recipe.approximate",
        (_LOOPS + "test_a_version_that_lost_more_than_the_budget_does_not_serve",),
    ),
    Mutation(
        "a certificate is written before the version serves",
        _LOOP,
        "        try:\n            self.store.swap(",
        "        if self.signer is not None:\n"
        "            record = self.store.lineage(version)[0]\n"
        "            self.signer.write(self._certificate(work, record))\n"
        "        try:\n            self.store.swap(",
        (_OTHERS + "test_no_certificate_says_that_a_version_serves_that_was_overtaken",),
    ),
    Mutation(
        "a certificate names bounds that nobody held the version to",
        _LOOP,
        "thresholds=self.gate.thresholds if made else {}",
        "thresholds=self.gate.thresholds",
        (
            _LOOPS
            + "test_a_death_after_the_swap_is_followed_by_no_second_version_whatever_is_asked_then",
        ),
    ),
    Mutation(
        "a certificate that a dead worker did not write is no file",
        "mu_jax/service/signing.py",
        "        for line in ledger.certificates():\n            self.write(line)\n",
        "        ledger.certificates()\n",
        (
            _LOOPS
            + "test_a_certificate_whose_file_a_dead_worker_did_not_write_is_written_by_the_next",
        ),
    ),
    Mutation(
        "another key goes on with a chain of certificates",
        "mu_jax/service/signing.py",
        "        if named != own:\n",
        "        if not own:\n",
        (_LOOPS + "test_the_key_of_the_certificates_is_asked_for_before_anything_is_done",),
    ),
    Mutation(
        "a measure that is missing passes the gate",
        "mu_jax/service/gate.py",
        'return "" if bound.optional else',
        'return "" if bound.side else',
        (_GATES + "test_a_gate_refuses_what_is_low_or_failed",),
    ),
    Mutation(
        "an attack that is always wrong passes the gate",
        "mu_jax/service/gate.py",
        "round(max(attack, 1 - attack), 12)",
        "attack",
        (_GATES + "test_an_attack_that_is_wrong_too_often_tells_members_too",),
    ),
    Mutation(
        "what was overtaken counts as a try",
        "mu_jax/service/drift.py",
        "startswith((UNTRIED, OVERTAKEN))",
        "startswith(UNTRIED)",
        (_OTHERS + "test_being_overtaken_is_no_try_of_the_method",),
    ),
    Mutation(
        "tries count on after a request was done",
        "mu_jax/service/drift.py",
        'if event.state in ("done", "refused"):',
        'if event.state == "refused":',
        (_GATES + "test_put_backs_count_from_when_a_request_was_last_done",),
    ),
    Mutation(
        "the steps of a protocol that is exact spend the budget",
        "mu_jax/service/recipes.py",
        'return self.guarantee.kind != "exact"',
        "return bool(self.guarantee.kind)",
        (_LOOPS + "test_sisa_serves_requests_and_equals_its_protocol_bit_for_bit",),
    ),
    Mutation(
        "requests are refused one by one where one cannot be",
        "mu_jax/service/ledger.py",
        '                if found.state != "accepted":',
        '                if found.state == "refused":',
        (_LEDGER + "test_several_are_refused_together_or_none",),
    ),
    Mutation(
        "a roll-back takes back what another operator serves",
        _SWAPS,
        "if expected is not ... and serving != (expected or 0):",
        "if expected is None:",
        (_STORE + "test_of_two_operators_the_second_does_not_take_back_what_the_first_one_serves",),
    ),
    Mutation(
        "a version that is refused by a watch is not named",
        "mu_jax/store/watching.py",
        "            self._refused = refused\n",
        "            self._refused = None\n",
        (_WATCH + "test_what_cannot_be_taken_up_never_serves",),
    ),
    Mutation(
        "a watch gives the arrays of other dtypes than were asked for",
        "mu_jax/store/watching.py",
        "with jax.enable_x64(self._wide), jax.default_device",
        "with jax.default_device",
        (_WATCH + "test_arrays_of_all_kinds_come_as_they_are_in_like",),
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

SERVING = (*LEDGER, *CERTIFICATES, *LOOP, *PROTOCOLS)
