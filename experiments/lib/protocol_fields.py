"""The fields of `training.protocol`: by which protocol of exact unlearning a model is trained.

    training=dict(..., protocol=dict(name="sisa", shards=4, slices=3))

A configuration without them means ordinary training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict, config_dict

from experiments.lib.configurations import check_fields

PLACE = "training.protocol"
_REQUIRED = object()


class _Field(NamedTuple):
    """kinds: what it may be, the first as flags have it. least: of a number. default: if any."""

    kinds: tuple[type, ...]
    least: float | None = None
    default: Any = _REQUIRED


# What `experiments.train` fills in, for later processes on other machines and with fewer rows.
_KEPT = {
    "capacity": _Field((int, type(None)), 1, None),
    "layout": _Field((str, type(None)), None, None),
}
FIELDS: Mapping[str, Mapping[str, _Field]] = {
    "sisa": {
        "shards": _Field((int,), 1),
        "slices": _Field((int,), 1, 1),
        **_KEPT,
    },
    "s3t": {
        "layers": _Field((tuple, list)),
        "head": _Field((str,)),
        "base": _Field((str,), None, ""),
        "shards": _Field((int,), 1, 1),
        "orders": _Field((int, type(None)), 1, None),
        "rank": _Field((int,), 1, 16),
        **_KEPT,
    },
}
NAMES = tuple(FIELDS)


def offer(config: ConfigDict) -> None:
    """Let flags set the fields of a protocol, in a configuration of a training."""
    if not isinstance(config.get("training"), ConfigDict):
        return
    with config.unlocked():
        if config.training.get("protocol") is None:
            config.training.protocol = ConfigDict()
        group = config.training.protocol
        if isinstance(group, ConfigDict):
            for name, kind in _kinds().items():
                if group.get(name) is None:
                    group[name] = config_dict.placeholder(kind)


def take_back(config: ConfigDict) -> None:
    """Leave out what `offer` offered and no flag has set."""
    training = config.get("training")
    group = training.get("protocol") if isinstance(training, ConfigDict) else None
    if not isinstance(group, ConfigDict):
        return
    with config.unlocked():
        for name in [name for name, value in group.items() if value is None]:
            del group[name]
        if not len(group):
            del config.training["protocol"]


def read(config: ConfigDict) -> dict[str, Any]:
    """The fields of the protocol of a configuration by name, checked, with their defaults.

    Raises:
      ValueError: the first that is unknown, missing or wrong.
    """
    check_fields(config, {PLACE: ((Mapping, ConfigDict), None), f"{PLACE}.name": ((str,), None)})
    given = ConfigDict(config.training.protocol).to_dict()
    name = given["name"]
    if name not in FIELDS:
        raise ValueError(
            f"expected a protocol among {', '.join(NAMES)} for {PLACE}.name, found {name!r}; "
            "choose one"
        )
    known = FIELDS[name]
    for field in given:
        if field not in ("name", *known):
            raise ValueError(
                f"expected fields of {PLACE} among {', '.join(known)} beside the name {name}, "
                f"found {field!r}; correct or remove it"
            )
    asked = {
        f"{PLACE}.{field}": (each.kinds, each.least)
        for field, each in known.items()
        if field in given or each.default is _REQUIRED
    }
    check_fields(config, asked)
    defaults = {field: each.default for field, each in known.items()}
    return {**defaults, **given}


def _kinds() -> dict[str, type]:
    """What flags may set."""
    found: dict[str, type] = {"name": str}
    for known in FIELDS.values():
        found |= {field: each.kinds[0] for field, each in known.items() if field != "capacity"}
    return found
