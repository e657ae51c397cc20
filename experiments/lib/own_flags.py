"""The flags of one binary: read from a command line, shown by `--help`, refused in one sentence.

A binary keeps its flags in a `FlagValues` of its own, so that importing it defines none for others:

    FLAGS = flags.FlagValues()
    SPEC = flags.DEFINE_string("spec", None, "What to run.", required=True, flag_values=FLAGS)

    if __name__ == "__main__":
        run(main, FLAGS)

Nothing here loads JAX; the binaries that compute read their flags with `command_line`, which does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from absl import flags

from experiments.lib.sentences import refuse

_HELP = re.compile(r"--?(help|helpshort|helpfull|\?|h)")
_CONFIG = "config"
Change = Callable[[flags.FlagValues, list[str]], list[str]]


MOST = 10_000  # models, seeds, processes: more is a slip of the hand
LARGEST = 2**31 - 1  # of the whole numbers that a program of JAX takes; as seconds, 68 years


def define_count(
    values: flags.FlagValues,
    name: str,
    default: int | None,
    help_string: str,
    *,
    least: int = 1,
    most: int = MOST,
    required: bool = False,
) -> flags.FlagHolder:
    """Define a whole number from `least` to `most`."""
    return flags.DEFINE_integer(
        name,
        default,
        help_string,
        lower_bound=least,
        upper_bound=most,
        required=required,
        flag_values=values,
    )


def run(
    main: Callable[[list[str]], Any], values: flags.FlagValues, *, arguments: str = "", least=1
) -> None:
    """Read the command line into `values`, then run `main`; what `__main__` ends with.

    Args:
      main: called with the name of the program and its further arguments; what it returns is the
        exit code.
      values: the flags of the binary, and the only ones that it takes.
      arguments, least: as for `read`.

    Exit code 0 after `--help`, 2 for what is wrong with the command line.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        return read(values, argv, arguments=arguments, least=least)

    about = sys.modules[main.__module__].__doc__ or ""
    sys.exit(main(read_or_exit(values, sys.argv, about=about, parse=parse)))


def read_or_exit(
    values: flags.FlagValues,
    argv: Sequence[str],
    *,
    about: str,
    parse: Callable[[Sequence[str]], list[str]],
    shared: Callable[[], Iterable[flags.Flag]] = tuple,
) -> list[str]:
    """What `parse(argv)` returns; the end of the process after `--help` or a bad command line.

    Args:
      values: the flags. argv: the name of the program and its arguments.
      about: what the binary does, for `--help`. parse: reads the command line.
      shared: gives the flags that `--helpfull` lists as well.
    """
    asked = next((arg for arg in _before_end(argv) if _HELP.fullmatch(arg)), "")
    if asked:
        print(describe(values, about, shared=shared() if "full" in asked else ()))
        sys.exit(0)
    try:
        return parse(argv)
    except (ValueError, OSError) as error:
        refuse(error)


def read(
    values: flags.FlagValues,
    argv: Sequence[str],
    *,
    arguments: str = "",
    least: int = 1,
    shared: Iterable[flags.Flag] = (),
    change: Change | None = None,
) -> list[str]:
    """Read a command line into the flags of a binary, which are set back to their defaults first.

    Args:
      values: the flags. argv: the name of the program and its arguments.
      arguments: what further arguments are, in words; "" where there may be none.
      least: how many of them there are at least, if there may be any.
      shared: flags of other modules that are read too.
      change: `(flags, argv) -> argv` may define further flags and take arguments away, after the
        files of `--flagfile` have been read.

    Returns:
      The name of the program and the arguments that are no flags.

    Raises:
      ValueError: an unknown flag, a value that does not fit, a required flag that is missing, an
        argument too many or too few; one sentence.
    """
    for name in values:
        values[name].unparse()
    argv, every = list(argv), flags.FlagValues()
    for flag in (*(values[name] for name in values), *shared):
        every[flag.name] = flag
    try:
        argv = every.read_flags_from_files(argv, force_gnu=False)
        rest = every(change(every, argv) if change else argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, SyntaxError) as error:
        raise ValueError(_sentence(values, error)) from None
    values.mark_as_parsed()
    if len(rest) > 1 and not arguments:
        raise ValueError(
            f"expected flags only, found {rest[1]!r}; write --name=value, and see --help"
        )
    if arguments and len(rest) - 1 < least:
        raise ValueError(f"expected {arguments}, found none; see --help")
    return rest


def alone(values: flags.FlagValues, name: str, *others: str) -> None:
    """Refuse flags that would be ignored: beside `--name` only the others may be given.

    Raises:
      ValueError: another flag is given as well.
    """
    if values[name].present:
        only(values, f"--{name}", name, *others)


def only(values: flags.FlagValues, what: str, *names: str) -> None:
    """Refuse flags that would be ignored: with `what` only those of `names` may be given.

    Raises:
      ValueError: another flag is given as well.
    """
    ignored = [f"--{flag}" for flag in values if values[flag].present and flag not in names]
    if ignored:
        raise ValueError(
            f"expected {what} without {', '.join(ignored)}, which it does not look at, found "
            "both; leave one out"
        )


def describe(values: flags.FlagValues, text: str, *, shared: Iterable[flags.Flag] = ()) -> str:
    """What `--help` prints: a text, then the flags, the required ones first."""
    lines = [text.strip(), "", "Flags:"]
    names = sorted(values, key=lambda name: (not _is_required(values[name]), name))
    for name in names:
        lines += _lines(values[name])
    if _CONFIG in values:
        lines.append("  --config.field.of.it=value: another value for a field of the configuration")
    if shared:
        lines += ["", "Flags of JAX and of the log:"]
        lines += [line for flag in shared for line in _lines(flag)]
    return "\n".join(lines)


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
