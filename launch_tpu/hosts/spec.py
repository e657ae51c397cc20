"""What to run, where, and for how long at most: one strict JSON file."""

from __future__ import annotations

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any

from experiments.lib.json_files import read_json
from launch_tpu.compile.slices import Slice, parse

ENGINES = ("queued_resources", "instance_groups", "xpk", "local")
_GENERATIONS = {
    "queued_resources": ("v4", "v5e", "v5p", "v6e"),
    "instance_groups": ("v5p", "v6e", "v7x"),
    "xpk": ("v4", "v5e", "v5p", "v6e", "v7x"),
    "local": ("v4", "v5e", "v5p", "v6e", "v7x"),
}
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,30}[a-z0-9])?")
_WORDS = re.compile(r"[-a-z0-9.:]+")
_LONGEST_HOURS = 7 * 24
_MOST_SLICES = 10_000
_HUGE = 10**300  # whole numbers beyond have no float
_SHORTEST_HOURS = 1 / 60  # no host starts in less


@dataclasses.dataclass(frozen=True)
class Spec:
    """One job: a module run on every host of one or more slices.

    Attributes:
      name: of the job and of all that is made for it; at most 32 of a-z, 0-9 and `-`.
      module: what every host runs, as after `python -m`.
      topology: of one slice, `v6e:4x4`.
      max_hours: after so many hours the hosts are gone, whatever happens; from a minute to 168.
      workdir: where the job keeps its state, appended to its flags as `--workdir=`; a directory
        that outlives the hosts and that all of them share, with atomic renames (NFS), or a
        folder in a bucket, `gs://bucket/runs`.
      engine: `queued_resources` (v4 to v6e), `instance_groups` (v5p and later), `xpk` (a GKE
        cluster) or `local` (one process and one CPU device on this machine for every host).
      flags: of the module.
      slices: how many.
      project: of the cloud. zone: in it.
      runtime: the software of the hosts: a runtime version (queued_resources), an image family of
        ubuntu-os-accelerator-images (instance_groups), or a container image (xpk).
      spot: take hosts that may be preempted at any time, at a lower price.
      queue_hours: how long to wait for capacity.
      join_seconds: how long the hosts wait for each other when the job starts.
      setup: shell lines that every host runs before the job, once.
      cluster: an existing xpk cluster; without one, a cluster is made and deleted again.
      create_flags: further flags of the command that creates the hosts, say a network.
      python: the interpreter on the hosts.
    """

    name: str
    module: str
    topology: str
    max_hours: float
    workdir: str
    engine: str = "queued_resources"
    flags: tuple[str, ...] = ()
    slices: int = 1
    project: str = ""
    zone: str = ""
    runtime: str = ""
    spot: bool = False
    queue_hours: float = 24
    join_seconds: int = 300
    setup: tuple[str, ...] = ()
    cluster: str = ""
    create_flags: tuple[str, ...] = ()
    python: str = "python3"

    def __post_init__(self):
        _check_words(self)
        _check_limits(self)
        _check_engine(self)

    @property
    def slice(self) -> Slice:
        """The shape of one slice."""
        return parse(self.topology)

    @property
    def hosts(self) -> int:
        """Processes of the job."""
        return self.slice.hosts(4 if self.engine == "xpk" else 8) * self.slices

    @property
    def devices(self) -> int:
        """JAX devices of the job."""
        return self.hosts if self.engine == "local" else self.slice.devices * self.slices

    @property
    def max_seconds(self) -> int:
        """`max_hours` in seconds."""
        return round(self.max_hours * 3600)

    @property
    def chip_hours(self) -> float:
        """The most that the job can cost."""
        return 0 if self.engine == "local" else self.slice.chips * self.slices * self.max_hours

    @property
    def region(self) -> str:
        """The region of the zone."""
        return self.zone.rpartition("-")[0]


def read_spec(path: str | Path, **changes: Any) -> Spec:
    """Read a specification from a JSON file.

    Args:
      path: a file that holds one object with the fields of `Spec`.
      **changes: fields that rule over those of the file.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: it is not a JSON object, a field is unknown, missing, twice there or of another
        type, or the specification is impossible.
    """
    found = read_json(path, "a specification")
    if not isinstance(found, dict):
        raise ValueError(
            f"expected a JSON object in {path}, found {type(found).__name__}; write {{...}}"
        )
    return from_dict({**found, **changes})


def from_dict(found: dict[str, Any]) -> Spec:
    """A specification of plain values, strictly.

    Raises:
      ValueError: see `read_spec`.
    """
    fields = {field.name: field for field in dataclasses.fields(Spec)}
    for name in found:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"did you mean {close[0]!r}" if close else f"choose among {', '.join(fields)}"
            raise ValueError(
                f"expected only known fields in a specification, found {name!r}; {hint}"
            )
    required = [name for name, field in fields.items() if field.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in found]:
        raise ValueError(
            f"expected {', '.join(required)} in a specification, found no {missing[0]!r}; add it"
        )
    return Spec(**{name: _typed(fields[name], value) for name, value in found.items()})


def _typed(field: dataclasses.Field, value: Any) -> Any:
    """The value if it has the type of the field; JSON lists become tuples."""
    kind = str(field.type)
    if kind == "tuple[str, ...]":
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise ValueError(f"expected a list of strings as {field.name!r}, found {value!r}; quote it")
    if kind == "float" and type(value) is int:
        value = float(max(-_HUGE, min(value, _HUGE)))
    if type(value).__name__ != kind:
        raise ValueError(f"expected a {kind} as {field.name!r}, found {value!r}; correct it")
    return value


def _check_words(spec: Spec) -> None:
    if not _NAME.fullmatch(spec.name):
        raise ValueError(
            "expected a name of at most 32 letters a-z, digits and hyphens that starts with a "
            f"letter and does not end with a hyphen, found {spec.name!r}; rename the job"
        )
    for name in ("project", "zone", "cluster"):
        value = getattr(spec, name)
        if value and not _WORDS.fullmatch(value):
            raise ValueError(
                f"expected lower case letters in {name!r}, found {value!r}; correct it"
            )
    if any("\n" in line for line in spec.setup):
        raise ValueError("expected one line in each item of 'setup', found a newline; split it")
    _check_workdir(spec)
    _check_programs(spec)


def _check_workdir(spec: Spec) -> None:
    """Refuse a working directory that the module would refuse on every host."""
    wrong = ValueError(
        "expected a workdir on a file system that hosts share, or gs://bucket/folder, found "
        f"{spec.workdir!r}; mount another store in 'setup'"
    )
    if not spec.workdir:
        raise wrong
    if ":/" not in spec.workdir:
        return
    from experiments.lib.paths import check_storage  # brings JAX, which most launches do without
    from mu_jax._paths import has_scheme

    try:
        has_scheme(spec.workdir)
    except ValueError:
        raise wrong from None
    if spec.module == "experiments.sweep":
        check_storage(spec.workdir, _flag(spec, "storage"))


def _flag(spec: Spec, name: str) -> str | None:
    """The value of a flag of the module, the last one that is given."""
    found = None
    for word, following in zip(spec.flags, (*spec.flags[1:], "")):
        if given := re.fullmatch(rf"--?{name}(?:=(.*))?", word, re.DOTALL):
            found = following if given[1] is None else given[1]
    return found


def _check_programs(spec: Spec) -> None:
    for name, what in (("module", "a module to run"), ("python", "the interpreter of the hosts")):
        value = getattr(spec, name)
        if not value.strip() or value.startswith("-"):
            raise ValueError(f"expected {what}, found {value!r}; set {name!r}")
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if any("\0" in word for word in (value if isinstance(value, tuple) else [str(value)])):
            raise ValueError(
                f"expected text in {field.name!r}, found a character of code 0, which no program "
                "can be given; remove it"
            )


def _check_limits(spec: Spec) -> None:
    for name in ("max_hours", "queue_hours"):
        if not _SHORTEST_HOURS <= getattr(spec, name) <= _LONGEST_HOURS:
            raise ValueError(
                f"expected {name!r} of at least a minute and at most {_LONGEST_HOURS} hours, found "
                f"{getattr(spec, name)}; set a limit"
            )
    for name in ("slices", "join_seconds"):
        if getattr(spec, name) < 1:
            raise ValueError(
                f"expected {name!r} of at least 1, found {getattr(spec, name)}; correct it"
            )
    if spec.slices > _MOST_SLICES:
        raise ValueError(f"expected 'slices' of at most {_MOST_SLICES}, found more; ask for fewer")
    if spec.join_seconds > _LONGEST_HOURS * 3600:
        raise ValueError(
            f"expected 'join_seconds' of at most {_LONGEST_HOURS * 3600}, found "
            f"{spec.join_seconds}; the hosts are gone before"
        )


def _check_engine(spec: Spec) -> None:
    if spec.engine not in ENGINES:
        raise ValueError(
            f"expected an engine among {', '.join(ENGINES)}, found {spec.engine!r}; choose one"
        )
    generations = _GENERATIONS[spec.engine]
    if spec.slice.generation not in generations:
        raise ValueError(
            f"expected {' or '.join(generations)} with the engine {spec.engine}, found "
            f"{spec.topology!r}; choose another engine"
        )
    if spec.engine == "queued_resources" and not (
        spec.slice.follows_from_size or spec.slice.generation == "v4"
    ):
        raise ValueError(
            f"expected the shape that {spec.slice.accelerator_type} stands for, found "
            f"{spec.topology!r}; choose the one nearest to a cube, or use xpk"
        )
    if spec.engine == "instance_groups" and spec.slices > 1:
        raise ValueError(
            f"expected one slice with the engine instance_groups, found {spec.slices}; use xpk"
        )
    if spec.engine != "local":
        if not spec.workdir.startswith(("/", "gs://")):
            raise ValueError(
                f"expected an absolute workdir with the engine {spec.engine}, found "
                f"{spec.workdir!r}; the hosts start in a directory of their own"
            )
        for name in ("project", "zone", "runtime"):
            if not getattr(spec, name):
                raise ValueError(
                    f"expected {name!r} with the engine {spec.engine}, found none; set it"
                )
