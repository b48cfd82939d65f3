"""Code and objects of other packages, by reference and through entry points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from orca_core.errors import DataError


def resolve(reference: str, owner: str = "") -> Callable[..., Any]:
    """The function that `"module:function"` names.

    Args:
        reference: As a spec has it.
        owner: Name of the spec, for the error.

    Raises:
        DataError: If the module cannot be imported, or has no such function.
    """
    module, _, name = reference.partition(":")
    try:
        function: Callable[..., Any] = getattr(import_module(module), name)
    except Exception as error:  # the code of another package: anything may go wrong in it
        where = f"{owner}: {reference}" if owner else reference
        raise DataError(f"{where}: must name a function that can be imported, but {type(error).__name__}: {error}") from error
    return function


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
