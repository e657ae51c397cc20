"""The command line of a binary: flags of its own, `--help`, and one sentence for what is wrong.

A binary keeps its flags in a `FlagValues` of its own, so that importing it defines none for others:

    FLAGS = flags.FlagValues()
    CONFIG = define_config(FLAGS, "digits", "What to run.")
    SEEDS = define_seeds(FLAGS, 3)
    MODELS = flags.DEFINE_integer("models", 32, "Models of each row.", flag_values=FLAGS)

    if __name__ == "__main__":
        start(main, FLAGS)

They are read and shown as `own_flags` says, and so are the flags of JAX and of absl's logging,
which `--helpfull` lists.
"""

from __future__ import annotations

import functools
import pathlib
import re
import sys
from collections.abc import Callable, Sequence

import jax
from absl import app, flags
from ml_collections import config_flags

from experiments.lib import configurations, own_flags, own_tasks, paths, protocol_fields
from mu_jax.loops import progress

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
_CONFIG = "config"
_TASK = "task"
_WORKDIR = "workdir"


def define_config(values: flags.FlagValues, default: str, help_string: str) -> flags.FlagHolder:
    """Define `--config` and `--config.field=value`; the default is a file of `experiments/configs`.

    The value is the `ConfigDict` that the file's `get_config()` returns, with the fields changed.
    `--task=package.module:function` stands in place of a file: an own task.
    """
    path = CONFIGS / f"{default}.py"
    flags.DEFINE_string(
        _TASK,
        None,
        "In place of --config: package.module:function, an own task.",
        flag_values=values,
    )
    return flags.DEFINE_string(_CONFIG, str(path), help_string, flag_values=values)


def define_seed(values: flags.FlagValues, help_string: str, name: str = "seed") -> flags.FlagHolder:
    """Define a seed from 0 to 2**31 - 1.

    JAX takes the lowest 32 bits of a seed, so that 2**32 and 0 would be the same key, and -1 and
    2**32 - 1; the upper half is kept for the seeds that binaries derive by adding.
    """
    return flags.DEFINE_integer(
        name, 0, help_string, lower_bound=0, upper_bound=own_flags.LARGEST, flag_values=values
    )


def define_seeds(values: flags.FlagValues, default: int) -> flags.FlagHolder:
    """Define `--seeds`, how often a binary repeats what it does."""
    return own_flags.define_count(values, "seeds", default, "Number of seeds.")


def define_workdir(
    values: flags.FlagValues, default: str | None, help_string: str
) -> flags.FlagHolder:
    """Define `--workdir`, required if there is no default; `parse` refuses what is no path."""
    return flags.DEFINE_string(
        _WORKDIR, default, help_string, required=default is None, flag_values=values
    )


def start(
    main: Callable[[list[str]], None], values: flags.FlagValues, *, arguments: str = ""
) -> None:
    """Read the command line into `values`, then run `main`; what `__main__` ends with.

    Args:
      main: called with the name of the program and, if there may be any, the further arguments.
      values: the flags of the binary.
      arguments: what further arguments are, in words; "" where there may be none.

    Exit code 0 after `--help`, 2 for what is wrong with the command line.
    """
    _define_flags_of_jax()
    about = sys.modules[main.__module__].__doc__ or ""
    parser = functools.partial(_parse_or_exit, values, about=about, arguments=arguments)
    app.run(functools.partial(_watched, main), flags_parser=parser)


def _watched(main: Callable[[list[str]], None], argv: list[str]) -> None:
    """`main`, with the progress of its long work on stderr."""
    with progress():
        main(argv)


@functools.cache
def _define_flags_of_jax() -> None:
    jax.config.config_with_absl()  # may be called once in a process


def _parse_or_exit(
    values: flags.FlagValues, argv: Sequence[str], *, about: str, arguments: str
) -> list[str]:
    read = functools.partial(parse, values, arguments=arguments)
    return own_flags.read_or_exit(values, argv, about=about, parse=read, shared=_shared)


def parse(values: flags.FlagValues, argv: Sequence[str], *, arguments: str = "") -> list[str]:
    """Read a command line into the flags of a binary, which are set back to their defaults first.

    Args:
      values: the flags. argv: the name of the program and its arguments.
      arguments: as for `start`.

    Returns:
      The name of the program and the arguments that are no flags.

    Raises:
      ValueError: an unknown flag, a value that does not fit, a required flag that is missing, an
        argument too many, a configuration that cannot be used, a --workdir of a scheme that
        cannot be served; one sentence.
      FileNotFoundError: a configuration that is not there.
    """
    configured: list[flags.Flag] = []

    def configure(every: flags.FlagValues, argv: list[str]) -> list[str]:
        default = values[_CONFIG].default
        for name in (_CONFIG, _TASK):  # the configuration itself takes the place of its name
            delattr(every, name)
        argv = _with_config(every, default, argv)
        configured.append(every[_CONFIG])
        return argv

    change = configure if _CONFIG in values else None
    rest = own_flags.read(values, argv, arguments=arguments, shared=_shared(), change=change)
    for flag in configured:
        protocol_fields.take_back(flag.value)
        values[_CONFIG].value = flag.value
    flags.FLAGS.mark_as_parsed()
    if _WORKDIR in values:
        paths.working_directory(values[_WORKDIR].value)
    return rest


def _shared() -> list[flags.Flag]:
    """The flags of JAX and of absl's logging, which every binary takes."""
    modules = flags.FLAGS.flags_by_module_dict()
    return [
        flag
        for module, found in modules.items()
        if module.partition(".")[0] in ("absl", "jax")
        for flag in found
    ]


def _with_config(every: flags.FlagValues, default: str, argv: list[str]) -> list[str]:
    """Load the configuration, define its flags, and take the name of it off the command line."""
    path, rest = _taken(_CONFIG, argv)
    reference, rest = _taken(_TASK, rest)
    if path is not None and reference is not None:
        raise ValueError("expected --config or --task, found both; leave one out")
    if reference is not None:
        config = own_tasks.configuration(reference)
    else:
        config = configurations.load(default if path is None else path)
    protocol_fields.offer(config)
    config_flags.DEFINE_config_dict(_CONFIG, config, flag_values=every, sys_argv=rest)
    return rest


def _taken(name: str, argv: list[str]) -> tuple[str | None, list[str]]:
    """The last value of a flag, None if it is not there, and the command line without it."""
    value, rest, place = None, [argv[0]], 1
    while place < len(argv) and argv[place] != "--":
        given = re.fullmatch(rf"--?{name}(?:=(.*))?", argv[place], re.DOTALL)
        if given is None:
            rest.append(argv[place])
        elif given[1] is not None:
            value = given[1]
        elif place + 1 < len(argv):
            place += 1
            value = argv[place]
        else:
            raise ValueError(f"expected a value after --{name}, found none; write --{name}=...")
        place += 1
    return value, rest + argv[place:]
