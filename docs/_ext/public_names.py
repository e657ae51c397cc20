"""The public names of mu_jax, and the page of the reference on which each stands.

A *room* is a package or a module that is public: `mu_jax` itself, its subpackages, and the modules
that these list in `__all__`. Nothing here needs Sphinx.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import sys
import types
from collections.abc import Iterator
from functools import cache
from typing import Any

ROOT = "mu_jax"
# What stands in the root itself comes from many files; its groups, by the last names of these.
_GROUPS_OF_ROOT = {
    **dict.fromkeys(("model", "_nnx"), "models"),
    **dict.fromkeys(("combinators", "freezing"), "combinators"),
    **dict.fromkeys(("blindspot", "matching", "pairing", "stopping"), "recipes of methods"),
    **dict.fromkeys(("effect", "over_mesh", ROOT), "others"),
}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A public object as the reference has it.

    Attributes:
      name: its shortest public name, under which it is documented, such as `mu_jax.ssd`.
      room: the room on whose page it stands, such as `mu_jax.transforms`.
      group: the last part of the name of the module that defines it.
      aliases: its other names, public ones and that of its definition.
    """

    name: str
    room: str
    group: str
    aliases: tuple[str, ...]


def names_in(room: str) -> list[str]:
    """The public names of a room that are no modules, in alphabetical order."""
    module = importlib.import_module(room)
    listed = getattr(module, "__all__", None)
    if listed is None:
        found = vars(module).items()
        listed = [n for n, each in found if not n.startswith("_") and _is_of(each, room)]
    named = (n for n in listed if not isinstance(getattr(module, n), types.ModuleType))
    return sorted(named, key=lambda name: (name.lower(), name))


def _is_of(thing: Any, room: str) -> bool:
    of_room = callable(thing) and getattr(thing, "__module__", None) == room
    return of_room or isinstance(thing, dict)


@cache
def rooms() -> tuple[str, ...]:
    """All rooms: the root first, then its subpackages, each before what it contains."""
    return (ROOT, *sorted(_below(ROOT)))


def _below(room: str) -> Iterator[str]:
    module = importlib.import_module(room)
    inside = {
        info.name for info in pkgutil.iter_modules(getattr(module, "__path__", ())) if info.ispkg
    }
    listed = set(getattr(module, "__all__", ()))
    public = inside | getattr(module, "_SUBPACKAGES", frozenset()) | listed
    for name in sorted(name for name in public if not name.startswith("_")):
        path = f"{room}.{name}"
        if isinstance(getattr(importlib.import_module(room), name, None), types.ModuleType) or (
            name in inside
        ):
            importlib.import_module(path)
            if names_in(path):  # families of methods have none of their own
                yield path
            yield from _below(path)


@cache
def entries() -> tuple[Entry, ...]:
    """Every public object once, by its shortest name."""
    places: dict[int, list[tuple[str, Any]]] = {}
    for room in rooms():
        for name in names_in(room):
            thing = getattr(importlib.import_module(room), name)
            key = id(thing) if hasattr(thing, "__qualname__") else hash((room, name))
            places.setdefault(key, []).append((f"{room}.{name}", thing))
    return tuple(_entry([name for name, _ in found], found[0][1]) for found in places.values())


def _entry(names: list[str], thing: Any) -> Entry:
    home = _home(thing, names)
    shortest = min(names, key=lambda name: (name.count("."), names.index(name)))
    holders = [name.rpartition(".")[0] for name in names]
    near = [room for room in holders if f"{home}.".startswith(f"{room}.") and room != ROOT]
    rest = [room for room in holders if room != ROOT] or [ROOT]
    definition = f"{home}.{getattr(thing, '__qualname__', shortest.rpartition('.')[2])}"
    aliases = dict.fromkeys([*names, definition])
    aliases.pop(shortest)
    room = max(near, key=len) if near else rest[0]
    group = home.rpartition(".")[2]
    if room == ROOT:
        group = _GROUPS_OF_ROOT.get(group, group)
    return Entry(shortest, room, group, tuple(aliases))


def _home(thing: Any, names: list[str]) -> str:
    home = getattr(inspect.unwrap(thing) if callable(thing) else thing, "__module__", None)
    known = isinstance(home, str) and home.startswith(ROOT) and home in sys.modules
    return home if known else names[0].rpartition(".")[0]


def of_room(room: str) -> list[Entry]:
    """What is documented on the page of a room."""
    return [entry for entry in entries() if entry.room == room]


def page(room: str) -> str:
    """The document of a room, such as `api/evaluation.language`."""
    return f"api/{room.removeprefix(ROOT + '.')}"
