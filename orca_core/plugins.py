"""Tasks, proxies and bodies of other packages, through entry points."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple

CONTRACTS: Mapping[str, str] = {
    "orca_core.tasks": "orca_core.tasks.spec:TaskSpec",
    "orca_core.proxies": "orca_core.proxies.spec:ProxySpec",
    "orca_core.bodies": "orca_core.bodies.spec:BodySpec",
}
"""Entry-point group -> what each of its entry points must be."""


class _Found(NamedTuple):
    """What the entry points of a group gave: specs by name, and what is wrong with the others, by the names of the entry points."""

    specs: dict[str, Any]
    broken: dict[str, str]


def third_party(group: str) -> dict[str, Any]:
    """The specs that installed packages give for an entry-point group, by their names.

    One that cannot be loaded, or is no spec, is named in a warning and left out: it must not take the others down.
    """
    return _find(group).specs


def broken_entry(group: str, name: str) -> str:
    """What is wrong with the entry point of that name; empty if it is sound, or there is none."""
    return _find(group).broken.get(name, "")


@lru_cache(maxsize=8)
def _find(group: str) -> _Found:
    found = _Found({}, {})
    for entry in entry_points(group=group):
        try:
            spec = entry.load()
            _check(group, spec)
            found.specs[spec.name] = spec
        except Exception as error:  # the code of another package: anything may go wrong in it
            text = f"entry point {entry.name} of {group} ({entry.value}) is left out: {type(error).__name__}: {error}"
            found.broken[entry.name] = text
            warnings.warn(text, stacklevel=3)
    return found


def _check(group: str, spec: Any) -> None:
    """That an entry point is a spec whose loader can be looked for.

    Raises:
        TypeError: With the rule that it breaks.
    """
    module, _, name = CONTRACTS[group].partition(":")
    if not isinstance(spec, getattr(import_module(module), name)):
        raise TypeError(f"must be a {name} of {module}, not {type(spec).__name__}")
    loader = getattr(spec, "loader", "")
    if loader and (not isinstance(loader, str) or loader.count(":") != 1):
        raise TypeError(f'loader must be "module:function", not {loader!r}')
    if group == "orca_core.tasks" and not spec.recipes:
        raise TypeError('recipes must have one at least, as "laptop"')


def resolve(reference: str) -> Callable[..., Any]:
    """The function that `"module:function"` names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
