"""What is said of bad input: a sentence in place of a traceback; and what a launcher prints."""

from __future__ import annotations

from promises import Mutation

_ARGUMENTS = "experiments/lib/arguments.py"
_CONFIGURATIONS = "experiments/lib/configurations.py"
_SENTENCES = "experiments/lib/sentences.py"
_SWEEP = "experiments/sweep/files.py"
_SPEC = "launch_tpu/hosts/spec.py"
_COMMANDS = "launch_tpu/hosts/commands.py"
_REQUESTS = "mu_jax/datasets/requests.py"
_ID_FILES = "mu_jax/datasets/id_files.py"
_BECOMING = "tests/experiments/test_becoming_of_requests.py::"
_METHODS = "tests/experiments/test_methods.py::"
_LINE = "tests/experiments/test_command_line.py::"
_PATHS = "tests/experiments/test_paths.py::"
_SWEEP_FILES = "tests/experiments/sweep/test_sweep_files.py::"
_OF_REQUESTS = "tests/datasets/test_requests.py::"
_HOSTS = "tests/launch_tpu/hosts/test_launch_"
_PAGES = "tests/docs/test_method_pages.py::"

SETTINGS = (
    Mutation(
        "a method without settings in the configuration is a traceback",
        "experiments/lib/protocols.py",
        '        complete(config, values["method"].value)\n',
        "        pass\n",
        (_BECOMING + "test_every_method_is_there_without_settings",),
    ),
    Mutation(
        "an unknown hyper-parameter is a traceback",
        _ARGUMENTS,
        "        if argument not in known:\n",
        "        if False:\n",
        (_METHODS + "test_hyperparameters_that_cannot_be_meant_are_refused",),
    ),
    Mutation(
        "a hyper-parameter of another kind is a traceback",
        _ARGUMENTS,
        "    if _fits(hint, value) and not (number and",
        "    if not (number and",
        (_METHODS + "test_hyperparameters_that_cannot_be_meant_are_refused",),
    ),
    Mutation(
        "a setting of too many digits is said in the words of Python",
        "experiments/unlearn.py",
        "            except ValueError:\n",
        "            except json.JSONDecodeError:\n",
        (_BECOMING + "test_a_setting_that_no_method_takes_is_one_sentence",),
    ),
    Mutation(
        "a hyper-parameter below its least value is a traceback",
        _ARGUMENTS,
        "    least = 0 if argument in _FROM_ZERO else 1 if argument in _FROM_ONE else -math.inf\n",
        "    least = -math.inf\n",
        (_METHODS + "test_hyperparameters_of_a_fit_are_checked_too",),
    ),
    Mutation(
        "a kept configuration that is no object is a traceback",
        _CONFIGURATIONS,
        "    if not isinstance(found, dict):\n",
        "    if False:\n",
        (_BECOMING + "test_a_damaged_configuration_is_one_sentence",),
    ),
    Mutation(
        "a kept configuration that is no JSON is a traceback",
        _CONFIGURATIONS,
        "    except ValueError as error:\n        what",
        "    except KeyError as error:\n        what",
        (_BECOMING + "test_a_damaged_configuration_is_one_sentence",),
    ),
    Mutation(
        "a configuration that lacks a field is a traceback",
        _CONFIGURATIONS,
        "            if not isinstance(value, (Mapping, ConfigDict)) or part not in value:\n",
        "            if False:\n",
        (_METHODS + "test_a_field_that_is_missing_is_named",),
    ),
    Mutation(
        "a batch size of 0 is a traceback",
        _CONFIGURATIONS,
        "            fits = least <= value <= largest(kinds)\n",
        "            fits = True\n",
        (_METHODS + "test_fields_that_cannot_be_meant_are_refused",),
    ),
    Mutation(
        "a configuration file that raises is a traceback",
        _CONFIGURATIONS,
        "    except (Exception, SystemExit) as error:\n",
        "    except KeyError as error:\n",
        (_LINE + "test_a_configuration_that_cannot_be_used_is_named",),
    ),
    Mutation(
        "a configuration file without its function is a traceback",
        _CONFIGURATIONS,
        "    if not callable(get_config):\n",
        "    if False:\n",
        (_LINE + "test_a_configuration_that_cannot_be_used_is_named",),
    ),
    Mutation(
        "a configuration file that returns none is a traceback",
        _CONFIGURATIONS,
        "    if not isinstance(found, ConfigDict):\n",
        "    if False:\n",
        (_LINE + "test_a_configuration_that_cannot_be_used_is_named",),
    ),
    Mutation(
        "a configuration file that is not there is a traceback",
        _CONFIGURATIONS,
        "    if not file.is_file():\n",
        "    if False:\n",
        (_LINE + "test_what_is_wrong_is_said_in_one_sentence",),
    ),
    Mutation(
        "a sweep takes a list for the name of a method",
        _SWEEP,
        "    if not isinstance(kind, str):\n",
        "    if False:\n",
        (_SWEEP_FILES + "test_what_is_wrong_with_a_file_is_one_sentence",),
    ),
    Mutation(
        "a sweep takes fewer models than it can compare",
        _SWEEP,
        "not FEWEST_MODELS <= models <= MOST_MODELS:",
        "not 1 <= models <= MOST_MODELS:",
        (_SWEEP_FILES + "test_what_is_wrong_with_a_file_is_one_sentence",),
    ),
    Mutation(
        "a sweep takes more settings than anybody can run",
        _SWEEP,
        "not 2 <= number <= MOST_SETTINGS or",
        "not 2 <= number or",
        (_SWEEP_FILES + "test_what_is_wrong_with_a_file_is_one_sentence",),
    ),
)

FILES = (
    Mutation(
        "an archive that is cut is a traceback",
        _REQUESTS,
        "    except (zipfile.BadZipFile, zlib.error, EOFError, TypeError, ValueError) as error:\n",
        "    except KeyError as error:\n",
        (_OF_REQUESTS + "test_an_archive_that_is_cut_is_one_sentence",),
    ),
    Mutation(
        "an array in place of an archive is a traceback",
        _REQUESTS,
        "    except (zipfile.BadZipFile, zlib.error, EOFError, TypeError, ValueError) as error:\n",
        "    except zipfile.BadZipFile as error:\n",
        (_OF_REQUESTS + "test_an_archive_that_holds_something_else_is_one_sentence",),
    ),
    Mutation(
        "a cell too long for the reader is a traceback",
        _ID_FILES,
        "        except csv.Error as error:\n",
        "        except KeyError as error:\n",
        (_OF_REQUESTS + "test_a_line_that_no_reader_takes_is_one_sentence",),
    ),
    Mutation(
        "JSON that is nested deeply is a traceback",
        "mu_jax/_json.py",
        "    except RecursionError:\n",
        "    except KeyError:\n",
        (_OF_REQUESTS + "test_a_line_that_no_reader_takes_is_one_sentence",),
    ),
    Mutation(
        "what the operating system refuses is a traceback",
        "experiments/lib/running.py",
        "    except (ValueError, OSError) as error:\n",
        "    except ValueError as error:\n",
        (_PATHS + "test_an_error_is_one_sentence",),
    ),
    Mutation(
        "a full disk is said in the words of the operating system",
        _SENTENCES,
        "    if error.errno in _FULL:\n",
        "    if False:\n",
        (_PATHS + "test_an_error_is_one_sentence",),
    ),
    Mutation(
        "an unusable working directory is noticed after the data are read",
        "experiments/regression.py",
        "    workdir = check_workdir(\n"
        '        WORKDIR.value,\n        files=("config.json", "results.jsonl", "results.npz"),\n'
        '        folders=("ensembles",),\n'
        "    )\n"
        '    task = make_checked_task(config, "regression", "; use experiments.benchmark")\n',
        '    task = make_checked_task(config, "regression", "; use experiments.benchmark")\n'
        "    workdir = check_workdir(\n"
        '        WORKDIR.value,\n        files=("config.json", "results.jsonl", "results.npz"),\n'
        '        folders=("ensembles",),\n'
        "    )\n",
        (_PATHS + "test_an_unusable_working_directory_is_noticed_before_the_data_are_read",),
    ),
    Mutation(
        "a training that failed leaves a configuration",
        "experiments/train.py",
        "        require_new(store, workdir)\n        version",
        "        require_new(store, workdir)\n"
        "        write_config(workdir, config)\n        version",
        (_BECOMING + "test_a_training_that_fails_leaves_no_configuration",),
    ),
)

LAUNCHING = (
    Mutation(
        "a dry run does not quote the program",
        _COMMANDS,
        "    lines = [[quote(argv[0])]]\n",
        "    lines = [[argv[0]]]\n",
        (_HOSTS + "plans.py::test_a_dry_run_that_is_piped_to_a_shell_runs_no_part_of_a_word",),
    ),
    Mutation(
        "a line of the setup ends the file that holds it",
        _COMMANDS,
        "    while end in text.splitlines():\n",
        "    while False:\n",
        (_HOSTS + "plans.py::test_no_line_of_the_setup_ends_the_file_that_holds_it",),
    ),
    Mutation(
        "the first line of a dry run is no comment",
        "launch_tpu/launch.py",
        'mark = "# " if DRY_RUN.value else ""',
        'mark = ""',
        (_HOSTS + "binary.py::test_the_binary_runs_nothing_without_a_budget",),
    ),
    Mutation(
        "a budget that is no number sets no limit",
        "launch_tpu/launch.py",
        "    if BUDGET.value is not None and not math.isfinite(BUDGET.value):\n",
        "    if False:\n",
        (_HOSTS + "binary.py::test_the_binary_runs_nothing_without_a_budget",),
    ),
    Mutation(
        "of a field that is there twice the last one counts",
        "experiments/lib/json_files.py",
        "    if len(set(names)) < len(names):\n",
        "    if False:\n",
        (_HOSTS + "specification.py::test_a_field_that_is_there_twice",),
    ),
    Mutation(
        "a job may end before it begins",
        _SPEC,
        "        if not _SHORTEST_HOURS <= getattr(spec, name) <= _LONGEST_HOURS:\n",
        "        if not 0 < getattr(spec, name) <= _LONGEST_HOURS:\n",
        (_HOSTS + "specification.py::test_bad_specifications",),
    ),
    Mutation(
        "the hosts may have no interpreter",
        _SPEC,
        '        if not value.strip() or value.startswith("-"):\n',
        '        if name != "python" and not value.strip() or value.startswith("-"):\n',
        (_HOSTS + "specification.py::test_bad_specifications",),
    ),
    Mutation(
        "hosts in a cloud may work in a directory relative to nothing",
        _SPEC,
        '        if not spec.workdir.startswith(("/", "gs://")):\n',
        "        if False:\n",
        (_HOSTS + "specification.py::test_bad_specifications",),
    ),
    Mutation(
        "a comment in a line of the setup hides the job",
        "launch_tpu/hosts/scripts.py",
        '    prepared = (join(("eval", line)) for line in spec.setup)\n',
        "    prepared = spec.setup\n",
        (_HOSTS + "plans.py::test_a_container_runs_the_job_after_its_setup_and_not_without",),
    ),
    Mutation(
        "two launches at once write to one temporary name",
        "launch_tpu/hosts/execute.py",
        "whole = Path(scratch, path.name)",
        'whole = path.with_suffix(".partial")',
        (_HOSTS + "execution.py::test_two_launches_at_once_leave_a_whole_script",),
    ),
    Mutation(
        "a program that the system refuses is a traceback",
        "launch_tpu/hosts/execute.py",
        "    except OSError as error:\n        raise _not_started",
        "    except FileNotFoundError as error:\n        raise _not_started",
        (_HOSTS + "execution.py::test_a_program_that_does_not_start",),
    ),
    Mutation(
        "no process at all is a success",
        "launch_tpu/hosts/engines/local.py",
        '"How often to start the command.", most=_MOST, required=True',
        '"How often to start the command.", least=0, most=_MOST, required=True',
        (_HOSTS + "worker.py::test_numbers_that_would_run_nothing",),
    ),
)

PAGES = (
    Mutation(
        "the page of a method has the rows of its settings only by their names",
        "docs/_ext/measured.py",
        'r.hyperparameters.get("method", r.method) == method',
        "r.method == method",
        (_PAGES + "test_measured_rows_are_those_of_the_records",),
    ),
    Mutation(
        "numbers of retrained models beside themselves are called a floor",
        "docs/_ext/measured.py",
        'chosen = FIXED if kind == "classification" else (NOTHING,)',
        "chosen = FIXED",
        (_PAGES + "test_a_method_that_is_only_in_the_report_of_a_search_has_no_floor",),
    ),
    Mutation(
        "a setting that nobody searched is called chosen",
        "docs/_ext/tuned.py",
        'return "a beginning, not searched"',
        'return str(config.get("selection", ""))',
        (_PAGES + "test_a_setting_that_no_search_looked_at_is_called_a_beginning",),
    ),
    Mutation(
        "a page says that a method reads no labels, which it reads",
        "docs/methods/ssd.md",
        ":forget: inputs, labels",
        ":forget: inputs",
        ("tests/contract/test_needs.py::test_a_method_reads_what_its_page_says",),
    ),
)

SAYING = (*SETTINGS, *FILES, *LAUNCHING, *PAGES)
