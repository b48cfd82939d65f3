"""What the loaders of published data share: arrays out of unpickled mappings, and the splits of the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orca_core.datafiles.expected import ArrayForm, Header, form_faults, refuse
from orca_core.errors import DataError, Fault
from orca_core.workbench import Workbench, memoize

if TYPE_CHECKING:
    import numpy as np


def checked_arrays(place: Path, found: Any, forms: Iterable[ArrayForm]) -> dict[str, np.ndarray]:
    """The arrays that are expected of a mapping that was unpickled; a key with a dot lies in a mapping inside.

    Raises:
        DataError: With a line for each that is missing or of another shape or dtype.
    """
    forms = tuple(forms)
    if not isinstance(found, Mapping):
        expected = "; ".join(form.text for form in forms)
        refuse([Fault("", f"must hold a mapping of {expected}", type(found).__name__, "Is it another version?").text(str(place))])
    flat = dict(_flat(found))
    arrays = {form.key: as_array(flat[form.key]) for form in forms if form.key in flat}
    headers = {key: Header(array.shape, array.dtype) for key, array in arrays.items()}
    for key in flat:
        headers.setdefault(key, Header((), object))  # type: ignore[arg-type]  # only named, if one of the expected is missing
    refuse(fault.text(str(place)) for fault in form_faults(forms, headers))
    return arrays


def as_array(value: Any) -> np.ndarray:
    """An array of numbers or texts where that is possible, else of objects, one for each item."""
    import numpy as np

    try:
        return np.asarray(value)
    except ValueError:  # items of different lengths
        array = np.empty(len(value), dtype=object)
        array[:] = value
        return array


def _flat(found: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in found.items():
        name = f"{prefix}{key.decode('latin1') if isinstance(key, bytes) else key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def there(places: Iterable[Path], named_by: str) -> tuple[Path, ...]:
    """The places, all of which must be files.

    Raises:
        DataError: With the first of the missing ones and their number.
    """
    places = tuple(places)
    if missing := [place for place in places if not place.is_file()]:
        shown = ", ".join(map(str, missing[:3])) + (", ..." if len(missing) > 3 else "")
        rule = f"must have the {len(places)} files that {named_by} names"
        raise DataError(f"{Workbench.current().data_root}: {rule}, but {len(missing)} are missing: {shown}.")
    return places


def named_files(lists: Iterable[Path], named_in: Callable[[Path], Iterable[Path]]) -> tuple[Path, ...]:
    """The files that lists name, in their order, looked for once while the lists do not change.

    Args:
        lists: The files that name others.
        named_in: Gives what one of them names; a function of a module, by which the answer is kept.

    Raises:
        DataError: If some of the named files are missing.
    """
    lists = tuple(lists)
    return _named_files(lists, named_in, identity_of(lists))


@memoize(maxsize=16)
def _named_files(lists: tuple[Path, ...], named_in: Callable[[Path], Iterable[Path]], identity: object) -> tuple[Path, ...]:
    return there((place for file in lists for place in named_in(file)), " or ".join(map(str, lists)))


def identity_of(places: Iterable[Path]) -> tuple[tuple[str, int, int], ...]:
    """Paths, sizes and times of the files that exist: what a list of files is known by within a process."""
    found = [(str(place), place.stat()) for place in places if place.is_file()]
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)
