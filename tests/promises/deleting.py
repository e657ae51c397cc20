"""What people who delete are promised: lineages, requests, stored versions, requests in files."""

from __future__ import annotations

from promises import Mutation

_PROMISES = "tests/store/test_promises.py::"
_BECOMING = "tests/experiments/test_becoming_of_requests.py::"
_UNLEARN = "experiments/unlearn.py"
_PENDING = "experiments/lib/pending.py"
_SWAPS = "mu_jax/store/swaps.py"
_STORED = "experiments/lib/stored_statistics.py"
_KEPT = "tests/experiments/test_stored_statistics.py::"
_VERSIONS = "mu_jax/store/versions.py"
_DIGESTS = "mu_jax/store/digests.py"
_FILES = "mu_jax/_files.py"

LINEAGES = (
    Mutation(
        "a later request retains what an earlier one forgot",
        _UNLEARN,
        "    task = tasks.without(task, gone)\n",
        "",
        (_BECOMING + "test_what_is_forgotten_is_in_no_set_of_a_later_request",),
    ),
    Mutation(
        "an evaluation retrains on what other requests forgot",
        "experiments/evaluate.py",
        "    task = without(task, others)\n",
        "",
        (_BECOMING + "test_what_is_forgotten_is_in_no_set_of_a_later_request",),
    ),
    Mutation(
        "a request keeps a digest of the ids alone",
        _UNLEARN,
        "                forgotten=ids,\n",
        "                forget_digest=datasets.digest(ids),\n",
        (_BECOMING + "test_what_is_forgotten_is_in_no_set_of_a_later_request",),
    ),
    Mutation(
        "a subject is forgotten twice",
        _UNLEARN,
        "    if not ids.size:\n",
        "    ids = ids if ids.size else asked\n    if not asked.size:\n",
        (_BECOMING + "test_what_is_forgotten_is_in_no_set_of_a_later_request",),
    ),
    Mutation(
        "a version knows what it has forgotten itself, and not what its ancestors have",
        "mu_jax/store/catalog.py",
        "return np.union1d(inherited, own)",
        "return own",
        (_PROMISES + "test_what_an_ancestor_forgot_all_descendants_have_forgotten",),
    ),
    Mutation(
        "a lineage with a cycle is walked for ever",
        "mu_jax/store/lineages.py",
        "        if ancestor in (each.version for each in found):\n            raise ValueError(",
        "        if len(found) == 20:\n            raise TimeoutError(",
        (_PROMISES + "test_a_lineage_with_a_cycle_is_a_sentence",),
    ),
)

AT_ONCE = (
    Mutation(
        "a swap does not look at who serves",
        _SWAPS,
        "if expected is not ... and serving not in (expected or 0, version):",
        "if expected is not ... and serving == -1:",
        (_PROMISES + "test_of_two_requests_to_one_parent_the_second_does_not_serve",),
    ),
    Mutation(
        "a request serves whatever its parent has become",
        _UNLEARN,
        "store.swap(version, expected=parent, ",
        "store.swap(version, ",
        (_BECOMING + "test_a_request_that_is_overtaken_is_published_and_does_not_serve",),
    ),
    Mutation(
        "the same request runs twice at once",
        _PENDING,
        "with claims.claimed(folder, what, report=report) as claim:",
        "with contextlib.nullcontext(claims.Claim(folder, what)) as claim:",
        (_BECOMING + "test_the_same_request_at_once_is_one_sentence",),
    ),
    Mutation(
        "two trainings run at once in one directory",
        "experiments/train.py",
        '        pending.locked(workdir / "state" / "train", f"training in {workdir}"),\n',
        "",
        (_BECOMING + "test_two_trainings_at_once_are_one_sentence",),
    ),
    Mutation(
        "writers of one file share a temporary name",
        _FILES,
        'scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")\n'
        '        with open(scratch, "xb") as file:',
        'scratch = path.with_name(f".{path.name}.partial")\n'
        '        with open(scratch, "wb") as file:',
        (_BECOMING + "test_two_evaluations_at_once_leave_a_whole_file",),
    ),
    Mutation(
        "records and configurations are written in place",
        "experiments/lib/running.py",
        "files.replace_text(path, text)",
        "path.write_text(text)",
        (_BECOMING + "test_who_reads_records_meanwhile_reads_the_old_ones",),
    ),
)

STORED = (
    Mutation(
        "arrays with a flipped bit are restored",
        "mu_jax/store/commits.py",
        '        require_intact(folder, number, "arrays")\n',
        "",
        (_PROMISES + "test_every_flipped_bit_is_noticed_and_the_intact_ancestor_named",),
    ),
    Mutation(
        "a damaged version comes to serve",
        _VERSIONS,
        "        self._catalog.require_intact(version)\n        self._catalog.require_fit",
        "        self._catalog.require_fit",
        (_PROMISES + "test_a_damaged_version_does_not_come_to_serve",),
    ),
    Mutation(
        "a withheld version comes to serve",
        "mu_jax/store/catalog.py",
        "if withheld and not anyway:",
        "if False:",
        (_PROMISES + "test_a_version_with_a_reason_not_to_serve_does_not_serve",),
    ),
    Mutation(
        "a reader has the number of one version and the variables of another",
        "mu_jax/store/watching.py",
        "return Served(version, jax.block_until_ready(variables))",
        "return Served(version, variables if current is None else current.variables)",
        ("tests/store/test_watching.py::test_a_reader_beside_a_writer",),
    ),
    Mutation(
        "the files of another version are restored",
        _DIGESTS,
        'if number != int(directory.name.split(".")[0]):',
        "if number < 0:",
        (_PROMISES + "test_the_arrays_of_another_version_are_refused",),
    ),
    Mutation(
        "lost digests are taken for none",
        _DIGESTS,
        "        if _promised(directory):\n",
        "        if False:\n",
        (_PROMISES + "test_lost_digests_are_noticed",),
    ),
    Mutation(
        "digests that are nested too deep are a traceback",
        "mu_jax/_json.py",
        "    except RecursionError:\n",
        "    except KeyError:\n",
        (_PROMISES + "test_json_that_no_reader_takes_is_damage",),
    ),
    Mutation(
        "digests of a number without end are a traceback",
        _DIGESTS,
        "except (ValueError, TypeError, KeyError, OverflowError) as error:",
        "except (ValueError, TypeError, KeyError) as error:",
        (_PROMISES + "test_json_that_no_reader_takes_is_damage",),
    ),
    Mutation(
        "damage names no version that can serve",
        _VERSIONS,
        'raise Damaged(f"{error}; {self._catalog.instead_of(version)}") from error',
        "raise",
        (_PROMISES + "test_every_flipped_bit_is_noticed_and_the_intact_ancestor_named",),
    ),
    Mutation(
        "a damaged pointer cannot be repaired",
        _SWAPS,
        "pointers.look(path, damaged=expected is ...)",
        "pointers.look(path)",
        (_PROMISES + "test_a_damaged_pointer_is_named_and_repaired_by_swap",),
    ),
    Mutation(
        "a file of the name of a staging folder blocks publishing",
        "mu_jax/store/_local.py",
        "        if _SCRAP.fullmatch(entry.name):\n",
        "        if _SCRAP.fullmatch(entry.name) and entry.is_dir():\n",
        (_PROMISES + "test_a_file_or_link_of_the_staging_name_does_not_block",),
    ),
    Mutation(
        "a link of a temporary name is followed",
        _FILES,
        'scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")\n'
        '        with open(scratch, "xb") as file:',
        'scratch = path.with_name(f".{path.name}.tmp")\n        with open(scratch, "wb") as file:',
        (_PROMISES + "test_a_link_of_a_temporary_name_is_not_followed",),
    ),
    Mutation(
        "the number of a deleted version is given again",
        "mu_jax/store/pointers.py",
        'found.append(int(_json.parse(files.read_text(path))["highest"]))',
        "files.read_text(path)",
        (_PROMISES + "test_numbers_are_never_given_twice",),
    ),
    Mutation(
        "temporary files of killed writers stay",
        _FILES,
        '    sweep(path.parent, f".{path.name}.")\n',
        "",
        (_PROMISES + "test_temporary_files_of_dead_writers_go_and_those_of_live_ones_stay",),
    ),
    Mutation(
        "working folders of killed processes stay",
        _FILES,
        "    sweep(root, prefix)\n",
        "",
        (_PROMISES + "test_working_folders_of_dead_processes_go",),
    ),
    Mutation(
        "a bucket becomes a local folder",
        "mu_jax/_paths.py",
        "    if scheme is None:\n",
        '    if scheme is None or scheme[1] == "gs":\n',
        ("tests/store/test_schemes.py",),
    ),
    Mutation(
        "a scheme that cannot be served becomes a local folder",
        "mu_jax/_paths.py",
        "    if scheme is None:\n",
        '    if scheme is None or scheme[1] != "gs":\n',
        ("tests/store/test_schemes.py",),
    ),
)

REQUESTS = (
    Mutation(
        "a request that forgot nothing serves",
        "experiments/lib/guard.py",
        'return changes, f"{NOTHING}: {nothing.reason}" if nothing.flag else ""',
        'return changes, ""',
        (_BECOMING + "test_a_request_that_did_nothing_is_not_served",),
    ),
    Mutation(
        "a request that changed no weight passes",
        "mu_jax/evaluation/forgot.py",
        "    if not moved:\n",
        "    if False:\n",
        ("tests/evaluation/test_forgot.py",),
    ),
    Mutation(
        "a class that is still named counts as forgotten",
        "mu_jax/evaluation/forgot.py",
        "    if (right & alone).any():\n",
        "    if False:\n",
        ("tests/evaluation/test_forgot.py",),
    ),
    Mutation(
        "losses that stayed count as forgetting",
        "mu_jax/evaluation/forgot.py",
        "return _said(change <= relative_change * (mean + scale),",
        "return _said(change < 0,",
        ("tests/evaluation/test_forgot.py",),
    ),
    Mutation(
        "the quickstart serves a version that forgot nothing",
        "experiments/quickstart.py",
        "if label in versions and not withheld[label]]",
        "if label in versions]",
        (_BECOMING + "test_the_quickstart_serves_the_best_of_those_that_forgot",),
    ),
    Mutation(
        "a stopped request is in the way of all others",
        _PENDING,
        "return Run(what, decides, identity, states / identity[:16])",
        'return Run(what, decides, identity, states / "run")',
        (_BECOMING + "test_a_stopped_request_is_named_and_in_the_way_of_no_other",),
    ),
    Mutation(
        "a stopped request is not named",
        _PENDING,
        "            print(_sentence(run, found), flush=True)\n",
        "            pass\n",
        (_BECOMING + "test_a_stopped_request_is_named_and_in_the_way_of_no_other",),
    ),
    Mutation(
        "a damaged record of a stopped request is a traceback",
        "mu_jax/_json.py",
        "    except RecursionError:\n",
        "    except KeyError:\n",
        (_BECOMING + "test_a_damaged_record_of_a_stopped_request_is_in_nobodys_way",),
    ),
    Mutation(
        "a restart deletes nothing",
        _PENDING,
        "if restart or not claim.names():",
        "if not claim.names():",
        (_BECOMING + "test_restart_deletes_what_stopped_requests_have_kept",),
    ),
    Mutation(
        "a stopped request goes on with another configuration",
        _PENDING,
        '"config": {name: value for name, value in config.items() if name not in _ELSEWHERE},',
        '"config": {},',
        (_BECOMING + "test_changed_settings_are_not_resumed",),
    ),
    Mutation(
        "a stopped request goes on with other data",
        _PENDING,
        '"data": fingerprint((task.train.inputs, task.train.targets, task.train.index)),',
        '"data": "",',
        (_BECOMING + "test_the_identity_of_a_run_is_what_decides_its_result",),
    ),
    Mutation(
        "the state of a request goes before its publish",
        _UNLEARN,
        "            claim.require_held()\n",
        "            claim.clear()\n",
        (_BECOMING + "test_a_request_killed_before_its_publish_goes_on",),
    ),
    Mutation(
        "a request that was killed after its publish is published again",
        _UNLEARN,
        "        version = store.find(this.identity)\n",
        "        version = None\n",
        (_BECOMING + "test_a_request_killed_after_its_publish_is_not_published_twice",),
    ),
    Mutation(
        "a line of several ids names the first alone",
        "mu_jax/datasets/id_files.py",
        "    if several:\n",
        "    if False:\n",
        ("tests/datasets/test_requests.py::test_bad_files_are_refused_with_file_and_line",),
    ),
)

STATISTICS = (
    Mutation(
        "a stored statistic of other variables stays on disk",
        _STORED,
        'version.hyperparameters["variables"] == own',
        "True",
        (_KEPT + "test_nothing_of_a_version_that_no_longer_serves_is_kept_or_used",),
    ),
    Mutation(
        "statistics of what was forgotten stay on disk",
        _UNLEARN,
        "        stored_statistics.discard(store.directory.parent)\n",
        "",
        (_KEPT + "test_nothing_of_a_version_that_no_longer_serves_is_kept_or_used",),
    ),
    Mutation(
        "the loop leaves statistics of what was forgotten on disk",
        "experiments/serve_requests.py",
        "            stored_statistics.discard(service.store.directory.parent)\n",
        "            pass\n",
        (_KEPT + "test_the_loop_tries_again_from_what_is_stored_until_the_request_is_done",),
    ),
)

DELETING = (*LINEAGES, *AT_ONCE, *STORED, *REQUESTS, *STATISTICS)
