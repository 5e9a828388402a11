"""The methods there are: every file of this folder that has one."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache, lru_cache
from types import ModuleType
from typing import Iterable

from .method import Method

DEFAULT = "punet"


@cache
def known() -> dict[str, Method]:
    """Name -> method, as lists show them; those that are no longer offered, too."""
    package = __name__.rpartition(".")[0]
    files = importlib.import_module(package).__path__
    modules = [importlib.import_module(f"{package}.{each.name}") for each in pkgutil.iter_modules(files)]
    found = [each for module in modules for each in _methods_of(module)]
    return {each.name: each for each in sorted(found, key=lambda each: (each.order, each.name))}


def _methods_of(module: ModuleType) -> tuple[Method, ...]:
    """What a file has: one ``METHOD``, or ``METHODS``, where some take part in others only."""
    return getattr(module, "METHODS", None) or ((module.METHOD,) if hasattr(module, "METHOD") else ())


def offered() -> tuple[str, ...]:
    """Names of the methods that a new tuning may choose."""
    return tuple(name for name, each in known().items() if each.offered)


def method(name: str) -> Method:
    """The method of that name; raises ``ValueError`` naming those there are."""
    if name not in known():
        raise ValueError(f"unknown method {name!r}; choose one of {', '.join(offered())}")
    return known()[name]


def stored_as(format_: object, name: object) -> Method:
    """The method that a prompts file of that format calls so; raises ``ValueError`` where there is none."""
    for each in known().values():
        if each.stored == (format_, name):
            return each
    raise ValueError(f"no method {name!r:.80} of format {format_!r:.80}")


def acting(names: Iterable[str]) -> tuple[Method, ...]:
    """The methods that take part in a pass, by the names of the prompts' tensors."""
    return _acting(frozenset(name.rpartition(".")[2] for name in names))


@lru_cache(maxsize=256)
def _acting(kinds: frozenset[str]) -> tuple[Method, ...]:
    found = [each for each in known().values() if each.kinds and each.kinds[0] in kinds]
    replaced = {name for each in found for name in each.replaces}
    return tuple(each for each in found if each.name not in replaced)
