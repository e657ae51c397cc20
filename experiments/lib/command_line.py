"""The command line of a binary: flags of its own, `--help`, and one sentence for what is wrong.

A binary keeps its flags in a `FlagValues` of its own, so that importing it defines none for others:

    FLAGS = flags.FlagValues()
    CONFIG = define_config(FLAGS, "digits", "What to run.")
    SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.", flag_values=FLAGS)

    if __name__ == "__main__":
        start(main, FLAGS)

JAX's flags and those of absl's logging are read too, and `--helpfull` lists them.
"""

from __future__ import annotations

import functools
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax
from absl import app, flags
from ml_collections import config_flags

from experiments.lib import configurations, paths

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
_CONFIG = "config"
_WORKDIR = "workdir"
_LAST_SEED = 2**31 - 1
_HELP = re.compile(r"--?(help|helpshort|helpfull|\?|h)")


def define_config(values: flags.FlagValues, default: str, help_string: str) -> flags.FlagHolder:
    """Define `--config` and `--config.field=value`; the default is a file of `experiments/configs`.

    The value is the `ConfigDict` that the file's `get_config()` returns, with the fields changed.
    """
    path = CONFIGS / f"{default}.py"
    return flags.DEFINE_string(_CONFIG, str(path), help_string, flag_values=values)


def define_seed(values: flags.FlagValues, help_string: str, name: str = "seed") -> flags.FlagHolder:
    """Define a seed from 0 to 2**31 - 1.

    JAX takes the lowest 32 bits of a seed, so that 2**32 and 0 would be the same key, and -1 and
    2**32 - 1; the upper half is kept for the seeds that binaries derive by adding.
    """
    return flags.DEFINE_integer(
        name, 0, help_string, lower_bound=0, upper_bound=_LAST_SEED, flag_values=values
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
    app.run(main, flags_parser=parser)


@functools.cache
def _define_flags_of_jax() -> None:
    jax.config.config_with_absl()  # may be called once in a process


def _parse_or_exit(
    values: flags.FlagValues, argv: Sequence[str], *, about: str, arguments: str
) -> list[str]:
    asked = next((arg for arg in _before_end(argv) if _HELP.fullmatch(arg)), "")
    if asked:
        print(describe(values, about, full="full" in asked))
        sys.exit(0)
    try:
        return parse(values, argv, arguments=arguments)
    except (ValueError, OSError) as error:
        _refuse(paths.sentence(error))


def _refuse(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(2)


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
    for name in values:
        values[name].unparse()
    argv, every = list(argv), flags.FlagValues()
    for flag in (*(values[name] for name in values if name != _CONFIG), *_shared()):
        every[flag.name] = flag
    try:
        argv = every.read_flags_from_files(argv, force_gnu=False)
        if _CONFIG in values:
            argv = _with_config(every, values[_CONFIG].default, argv)
        rest = every(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(_sentence(values, error)) from None
    if _CONFIG in values:
        values[_CONFIG].value = every[_CONFIG].value
    for parsed in (values, flags.FLAGS):
        parsed.mark_as_parsed()
    if _WORKDIR in values:
        paths.working_directory(values[_WORKDIR].value)
    if len(rest) > 1 and not arguments:
        raise ValueError(
            f"expected flags only, found {rest[1]!r}; write --name=value, and see --help"
        )
    if len(rest) == 1 and arguments:
        raise ValueError(f"expected {arguments}, found none; see --help")
    return rest


def alone(values: flags.FlagValues, name: str, *others: str) -> None:
    """Refuse flags that would be ignored: beside `--name` only the others may be given.

    Raises:
      ValueError: another flag is given as well.
    """
    ignored = [f"--{flag}" for flag in values if values[flag].present]
    ignored = [flag for flag in ignored if flag not in {f"--{each}" for each in (name, *others)}]
    if values[name].present and ignored:
        raise ValueError(
            f"expected --{name} without {', '.join(ignored)}, which it does not look at, found "
            "both; leave one out"
        )


def describe(values: flags.FlagValues, text: str, *, full: bool = False) -> str:
    """What `--help` prints: a text, then the flags, the required ones first."""
    lines = [text.strip(), "", "Flags:"]
    names = sorted(values, key=lambda name: (not _is_required(values[name]), name))
    for name in names:
        lines += _lines(values[name])
    if _CONFIG in values:
        lines.append("  --config.field.of.it=value: another value for a field of the configuration")
    if full:
        lines += ["", "Flags of JAX and of the log:"]
        lines += [line for flag in _shared() for line in _lines(flag)]
    return "\n".join(lines)


def _shared() -> list[flags.Flag]:
    """The flags of JAX and of absl's logging, which every binary takes."""
    modules = flags.FLAGS.flags_by_module_dict()
    return [
        flag
        for module, found in modules.items()
        if module.partition(".")[0] in ("absl", "jax")
        for flag in found
    ]


def _is_required(flag: flags.Flag) -> bool:
    return flag.default is None and not all(each.checker(None) for each in flag.validators)


def _lines(flag: flags.Flag) -> Iterator[str]:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    required = "(required) " if _is_required(flag) else ""
    yield flags.text_wrap(f"{name}: {required}{flag.help}", 100, "      ", "  ")
    if flag.default is not None:
        yield flags.text_wrap(f"(default: {flag.default_as_str})", 100, "      ", "      ")


def _before_end(argv: Sequence[str]) -> list[str]:
    """The arguments before `--`, after which nothing is a flag."""
    argv = list(argv)
    return argv[1 : argv.index("--")] if "--" in argv else argv[1:]


def _with_config(every: flags.FlagValues, default: str, argv: list[str]) -> list[str]:
    """Load the configuration, define its flags, and take `--config` off the command line."""
    path, rest, place = default, [argv[0]], 1
    while place < len(argv) and argv[place] != "--":
        given = re.fullmatch(rf"--?{_CONFIG}(?:=(.*))?", argv[place], re.DOTALL)
        if given is None:
            rest.append(argv[place])
        elif given[1] is not None:
            path = given[1]
        elif place + 1 < len(argv):
            place += 1
            path = argv[place]
        else:
            raise ValueError("expected a path after --config, found none; write --config=FILE")
        place += 1
    rest += argv[place:]
    config = configurations.load(path)
    config_flags.DEFINE_config_dict(_CONFIG, config, flag_values=every, sys_argv=rest)
    return rest


def _sentence(values: flags.FlagValues, error: Exception) -> str:
    """What is wrong with a command line, in one line that begins with what was expected."""
    text = " ".join(str(error.args[0] if error.args else error).split())
    if text.startswith("expected "):
        return text
    if isinstance(error, flags.UnrecognizedFlagError):
        known = ", ".join(f"--{name}" for name in values)
        return f"expected flags among {known}, found --{error.flagname}; see --help"
    required = re.search(r"[Ff]lag --([\w.]+).*must have a value other than None", text)
    if required:
        return f"expected a value of --{required[1]}, found none; add --{required[1]}=..."
    return f"expected a command line as --help says, found that {text.rstrip('.')}; correct it"
