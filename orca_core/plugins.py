"""Code and objects of other packages, by reference and through entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple


def resolve(reference: str) -> Callable[..., Any]:
    """The function that `"module:function"` names."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)


def check_reference(field: str, reference: object) -> None:
    """Check that a spec's field is spelled like the name of a function; nothing is imported.

    Raises:
        TypeError: If it does not.
    """
    if not isinstance(reference, str) or reference.count(":") != 1 or reference.startswith(":") or reference.endswith(":"):
        raise TypeError(f'{field} must be "module:function", not {reference!r}')


class EntryPoint(NamedTuple):
    """What an installed package registers under a name."""

    name: str
    value: str
    """The object, as `"module:object"`."""
    load: Callable[[], Any]
    """Imports the object; raises whatever the package's code raises."""


def entry_points_of(group: str) -> Iterator[EntryPoint]:
    """The entry points of a group, in the order that packages are found."""
    return (EntryPoint(entry.name, entry.value, entry.load) for entry in entry_points(group=group))
